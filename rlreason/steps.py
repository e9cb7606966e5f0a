"""The steps of a text: where each of them ends.

Step rewards and searches over steps read them here. Not here: at which token a step ends
(`rollout.scored.tokens_until`).
"""

from collections.abc import Sequence


def step_ends(text: str, delimiter: str = "\n") -> list[int]:
  r"""Returns the end of each step of a text, in characters, after its delimiters.

  A step ends after `delimiter`, and after all that directly follow it; the last one at the end of
  the text. Space between delimiters is no step: it belongs to the step before it, or to the first.

  Args:
    text: a completion.
    delimiter: such as "\n" or "\n\n".

  Raises:
    ValueError: the delimiter is empty.
  """
  _check(delimiter)
  ends, start = [], 0
  while start < len(text):
    found = text.find(delimiter, start)
    end = len(text) if found < 0 else found + len(delimiter)
    if text[start:end].strip():
      ends.append(end)
    elif ends:
      ends[-1] = end
    start = end
  return ends


def split_steps(text: str, delimiter: str = "\n") -> list[str]:
  """Returns the steps of a text, with their delimiters; joined they are the text.

  Raises:
    ValueError: the delimiter is empty.
  """
  ends = step_ends(text, delimiter)
  return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def join_steps(steps: Sequence[str], separator: str = "\n") -> tuple[str, list[int]]:
  r"""The text of steps, and the end of each of them in it.

  Each step but the last ends with the delimiter, which is added where it is missing, as is a space
  before a step that nothing blank separates from the one before it. Steps of `split_steps` are
  joined without additions.

  >>> join_steps(["a b", "c"])
  ('a b\nc', [4, 5])

  Args:
    steps: texts, none blank.
    separator: the delimiter, such as "\n" or "\n\n".

  Raises:
    ValueError: the delimiter is empty.
  """
  _check(separator)
  text, ends = "", []
  for step in steps:
    if text and not text.endswith(separator):
      text += separator
      ends[-1] = len(text)
    if text and not (text[-1].isspace() or step[0].isspace()):
      text += " "
    text += step
    ends.append(len(text))
  return text, ends


def _check(delimiter: str):
  if not delimiter:
    raise ValueError("delimiter: got '', allowed: a text such as '\\n' or '\\n\\n'")
