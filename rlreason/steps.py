"""The steps of a text: where each of them ends.

Step rewards and searches over steps read them here. Not here: at which token a step ends
(`rollout.scored.tokens_until`).
"""


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
  if not delimiter:
    raise ValueError("delimiter: got '', allowed: a text such as '\\n' or '\\n\\n'")
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
