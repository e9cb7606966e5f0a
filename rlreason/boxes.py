r"""The boxes of a text, `\boxed{...}`, which mark the answer of a completion or a solution.

Also answers that a text states without a box. Not here: what else counts as an answer
(`rewards/answer.py`).
"""

import re
import typing
from typing import Literal, NamedTuple

WhichBox = Literal["first", "last"]


class Box(NamedTuple):
  r"""One `\boxed{content}` of a text; `text[start:end]` is all of it."""

  content: str
  start: int
  end: int


_OPENED = re.compile(r"<think>\s*(?:</think>\s*)?\Z")  # tags that the end of a prompt opens
# An escaped character (\{, \}, \\) is a single token, so that it never counts as a brace;
# JSON that was escaped twice gives \\boxed.
_BOX_TOKENS = re.compile(
    r"\\{1,2}(?:boxed|fbox|framebox)\s*\{|\\{1,2}boxed(?![A-Za-z{])|\\.|[{}]", re.DOTALL)
_STATED = re.compile(
    r"\banswers?(?:\s+(?:is|are)\b(?:\s*[:=])?|\**\s*[:=]\**|\s+(?=[\d$\\({\[+-]))\s*(?=\S)"
    r"((?:[^.\n]|\.(?=\S))+)", re.IGNORECASE)
_BARE = re.compile(r"\s*((?:\\[A-Za-z]+|\{[^{}]*\}|[^\s{}$\\])+)")  # \boxed 2


def _scan(text: str) -> tuple[list[Box], int]:
  """The boxes of a text, and the start of the first box that is never closed (-1: all are)."""
  boxes = []
  open_braces = []  # (is it a box?, start, start of the content)
  for token in _BOX_TOKENS.finditer(text):
    kind = token.group()
    if kind == "}":
      if not open_braces:
        continue
      is_box, start, content_start = open_braces.pop()
      if is_box:
        boxes.append(Box(text[content_start : token.start()], start, token.end()))
    elif kind == "{" or kind.endswith("{") and len(kind) > 2:
      open_braces.append((kind != "{", token.start(), token.end()))
    elif kind.endswith("boxed"):
      bare = _BARE.match(text, token.end())
      if bare:
        content = bare[1].rstrip(".,;:)]" if "(" not in bare[1] and "[" not in bare[1] else ".,;:")
        boxes.append(Box(content, token.start(), bare.start(1) + len(content)))
  cut = max((start for is_box, start, _ in open_braces if is_box), default=-1)
  return sorted(boxes, key=lambda box: box.start), cut


def find_boxes(text: str) -> list[Box]:
  r"""All `\boxed{...}` and `\fbox{...}` of `text` whose braces balance, ordered by their start.

  A box that is never closed, as in a truncated text, does not count. Braces may nest to any depth
  (`\boxed{\frac{\sqrt{2}}{3}}`); `\boxed 2` counts too. Takes one pass over any text.
  """
  return _scan(text)[0]


def check_which_box(which_box: str) -> None:
  """Raises ValueError unless it is one of `WhichBox`."""
  if which_box not in typing.get_args(WhichBox):
    raise ValueError(f"which_box: got {which_box!r}, allowed: 'first' or 'last'")


def find_box(text: str, which_box: WhichBox = "last") -> Box | None:
  """The first (RLSP's choice) or last balanced box of `text` that is not empty, or None.

  None if the last box was truncated: an earlier box is not the answer. If all boxes are empty, an
  empty one is returned.
  """
  check_which_box(which_box)
  boxes, cut = _scan(text)
  if not boxes or which_box != "first" and cut > boxes[-1].start:
    return None
  filled = [box for box in boxes if box.content.strip()] or boxes
  return filled[0] if which_box == "first" else filled[-1]


def text_before_answer(text: str, mark: str = "") -> str:
  """The reasoning: everything before the first mark of an answer, or all of `text` without one.

  Args:
    text: a completion.
    mark: the text before an answer, such as `####`; empty: boxes mark answers.
  """
  if mark:
    return text.partition(mark)[0]
  box = find_box(text, "first")
  return text if box is None else text[: box.start]


def boxed(text: str, which_box: WhichBox = "last") -> str | None:
  """The answer in a box, or None without one.

  Boxes that only a comma, "and" or "or" separates from the last are parts of one answer, `1, 2`.
  """
  box = find_box(text, which_box)
  if box is None:
    return None
  parts = [box] if which_box == "first" else _joined(text, box)
  return ", ".join(part.content.strip() for part in parts)


# Between the boxes of an answer in parts: a comma, "and" or "or", and what typesets them.
_JOINT = re.compile(
    r"(?:[\s$~]|\\\(|\\\)|\\\[|\\\]|\\[,;: !]|\\q?quad|\\text\{\s*\}|[A-Za-z]\w{0,3}\s*=)*"
    r"(?:,|;|,?\s*(?:\\(?:text|mathrm)\{\s*)?(?:and|or)\s*\}?)"
    r"(?:[\s$~]|\\\(|\\\)|\\\[|\\\]|\\[,;: !]|\\q?quad|\\text\{\s*\}|[A-Za-z]\w{0,3}\s*=)*")


def _joined(text: str, last: Box) -> list[Box]:
  """The boxes up to `last` that only commas and the like separate."""
  parts = [last]
  for box in reversed([box for box in find_boxes(text) if box.end <= last.start]):
    if not _JOINT.fullmatch(text, box.end, parts[0].start) or len(parts) > 50:
      break
    parts.insert(0, box)
  return parts


def stated(text: str) -> str | None:
  """The text after the last "the answer is", or "Answer:", up to the end of the sentence."""
  found = _STATED.findall(text)
  return found[-1].strip() if found else None


def opened(prompt: str) -> str:
  """The tags of reasoning that a prompt ends with, and its completion therefore lacks.

  "...<think>\\n" -> "<think>\\n"; "...<think>\\n\\n</think>\\n\\n" -> all of that; "..." -> "".
  """
  found = _OPENED.search(prompt)
  return found[0] if found else ""
