r"""Finding the final answer in a text: of a completion, and of a data set's gold answer.

One place for answer extraction: verifiers, the format and the exploration reward use it. All of it
is plain text work. Not here: what an answer means (`reading.py`), and whether two are equal
(`matching.py`, `verifier.py`).
"""

import math
import re
import typing
from typing import Any, Literal, NamedTuple

MAX_ANSWER_CHARACTERS = 2_000  # a longer answer is never right; callers check this first
_WRITTEN_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?", re.ASCII)

WhichBox = Literal["first", "last"]


class Box(NamedTuple):
  r"""One `\boxed{content}` of a text; `text[start:end]` is the whole of it."""

  content: str
  start: int
  end: int


# An escaped character (\{, \}, \\) is one token of its own, so that it never counts as a brace;
# JSON that was escaped twice gives \\boxed.
_BOX_TOKENS = re.compile(
    r"\\{1,2}(?:boxed|fbox)\s*\{|\\{1,2}boxed(?![A-Za-z{])|\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"\s*((?:\\[A-Za-z]+|\{[^{}]*\}|[^\s{}$\\])+)")  # \boxed 2


def _scan(text: str) -> tuple[list[Box], int]:
  """The boxes of a text, and where the first box begins that is never closed (-1: all are)."""
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

  A box that is never closed, as in a truncated text, is no box. Braces may nest to any depth
  (`\boxed{\frac{\sqrt{2}}{3}}`); `\boxed 2` is one too. One pass over the text, whatever it holds.
  """
  return _scan(text)[0]


def check_which_box(which_box: str) -> None:
  """Raises ValueError unless it is one of `WhichBox`."""
  if which_box not in typing.get_args(WhichBox):
    raise ValueError(f"which_box must be 'first' or 'last'. Got: {which_box!r}")


def check_no_box_score(score: float) -> None:
  """Raises ValueError unless no answer is at best as good as a wrong one, which scores 0."""
  if not -math.inf < score <= 0:
    raise ValueError(f"no_box_score must be at most 0, the score of a wrong answer. Got: {score!r}")


def find_box(text: str, which_box: WhichBox = "last") -> Box | None:
  """The first (RLSP's choice) or last balanced box of `text` that is not empty, or None.

  After a last box that was cut off there is none: what stands before it is not the answer. Where
  all boxes are empty, it is an empty one.
  """
  check_which_box(which_box)
  boxes, cut = _scan(text)
  if not boxes or which_box != "first" and cut > boxes[-1].start:
    return None
  filled = [box for box in boxes if box.content.strip()] or boxes
  return filled[0] if which_box == "first" else filled[-1]


def text_before_box(text: str) -> str:
  """The reasoning: everything before the first box, or all of `text` when it has none."""
  box = find_box(text, "first")
  return text if box is None else text[: box.start]


def extract_answer(
    text: str, *, which_box: WhichBox = "last", answer_tags: bool = False
) -> str | None:
  r"""The final answer as written, or None where there is none.

  Args:
    text: a completion.
    which_box: which `\boxed{}` counts. Boxes that only a comma, "and" or "or" separates
      from the last are parts of one answer, `1, 2`.
    answer_tags: look only inside the last `<answer>...</answer>`; a box in it is unwrapped,
      otherwise its text is the answer.
  """
  if answer_tags:
    start = text.rfind("<answer>")
    end = text.find("</answer>", start)
    if start < 0 or end < 0:
      return None
    text = text[start + len("<answer>") : end]
  box = find_box(text, which_box)
  if box is not None:
    parts = [box] if which_box == "first" else _joined(text, box)
    return ", ".join(part.content.strip() for part in parts)
  return text.strip() if answer_tags else None


def last_number(text: str) -> str | None:
  """The last number written in digits, as it stands; None without one."""
  found = _WRITTEN_NUMBER.findall(text)
  return found[-1].rstrip(",") if found else None


# Between the boxes of an answer in parts: a comma, "and" or "or", and what typesets them.
_JOINT = re.compile(
    r"(?:[\s$~]|\\\(|\\\)|\\\[|\\\]|\\[,;: !]|\\q?quad|\\text\{\s*\}|[A-Za-z]\w{0,3}\s*=)*"
    r"(?:,|;|,?\s*(?:\\(?:text|mathrm)\{\s*)?(?:and|or)\s*\}?)"
    r"(?:[\s$~]|\\\(|\\\)|\\\[|\\\]|\\[,;: !]|\\q?quad|\\text\{\s*\}|[A-Za-z]\w{0,3}\s*=)*")


def _joined(text: str, last: Box) -> list[Box]:
  """The boxes that end with `last` and that only commas and such separate."""
  parts = [last]
  for box in reversed([box for box in find_boxes(text) if box.end <= last.start]):
    if not _JOINT.fullmatch(text, box.end, parts[0].start) or len(parts) > 50:
      break
    parts.insert(0, box)
  return parts


_NO_GOLDS = frozenset(("proof", "not found", "notfound", "no answer", "see solution", "nan",
                       "n/a", "not applicable", "answers may vary"))
_MAX_WORDS = 25  # of a gold answer that is made of sentences; one with more is a working
_STATED = re.compile(
    r"\banswers?(?:\s+(?:is|are)\b(?:\s*[:=])?|\**\s*[:=]|\s+(?=[\d$\\({\[+-]))\s*(?=\S)"
    r"((?:[^.\n]|\.(?=\S))+)", re.IGNORECASE)


def gold_text(gold: Any) -> str:
  r"""The gold answer in what a data set calls the answer, which may be a whole working.

  GSM8K writes `... #### 72`; others leave a working with the answer in the last box, in
  `<answer>` tags, or after "the answer is".

  Raises:
    ValueError: there is no answer in it: None, nothing, `proof`, a box that is never closed, or a
      working that marks no answer.
  """
  text = str(gold).strip() if gold is not None else ""
  if not text:
    raise ValueError(f"the column 'answer' must hold an answer in every row. Got: {gold!r}")
  if "####" in text:
    found = (text.rpartition("####")[2].strip().splitlines() or [""])[0].strip()
  elif "</answer>" in text:
    found = extract_answer(text, answer_tags=True)
  elif "boxed" in text or "\\fbox" in text:
    found = extract_answer(text)
  else:
    stated = _STATED.findall(text)
    found = stated[-1].strip() if stated else text
  if not found or found.casefold().strip(" .") in _NO_GOLDS:
    raise ValueError(f"there is no gold answer in {_shown(text)}")
  is_prose = re.search(r"[a-z)][.!?](?:\s|$)", found)
  if is_prose and len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", found)) > _MAX_WORDS:
    raise ValueError(
        f"the gold answer is a whole text, {_shown(text)}; allowed: an answer, or a working that "
        "marks it by ####, \\boxed{} or 'the answer is'")
  return found


def _shown(text: str) -> str:
  text = " ".join(text.split())
  return repr(text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}")
