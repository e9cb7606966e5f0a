r"""Extracts the final answer of a completion, and of a data set's gold answer.

Verifiers, the format and the exploration reward all use it. It only processes text. Not here: boxes
(`rlreason/boxes.py`, whose names are re-exported here), the meaning of an answer (`reading/`), and
the comparison of two (`matching.py`, `verifier.py`).
"""

from collections.abc import Mapping
import math
import re
from typing import Any

from rlreason.boxes import (
    Box, WhichBox, boxed, check_which_box, find_box, find_boxes, stated, text_before_answer)

MAX_ANSWER_CHARACTERS = 2_000  # a longer answer is never right; callers check this first
_WRITTEN_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?", re.ASCII)

def check_no_box_score(score: float) -> None:
  """Raises ValueError if a missing answer scores more than a wrong one, which scores 0."""
  if not -math.inf < score <= 0:
    raise ValueError(
        f"no_box_score: got {score!r}, allowed: at most 0, the score of a wrong answer")


def extract_answer(
    text: str, *, which_box: WhichBox = "last", answer_tags: bool = False, answer_after: str = ""
) -> str | None:
  r"""The final answer as written, or None if there is none.

  Args:
    text: a completion.
    which_box: which `\boxed{}` counts. Boxes that only a comma, "and" or "or" separates
      from the last are parts of one answer, `1, 2`.
    answer_tags: look only inside the last `<answer>...</answer>`; a box in it is unwrapped,
      otherwise its text is the answer.
    answer_after: look only after the last of these marks, such as `####`; a box in that line is
      unwrapped, otherwise the line is the answer.
  """
  if answer_after:
    _, mark, after = text.rpartition(answer_after)
    line = next(iter(after.strip().splitlines()), "").strip() if mark else ""
    return (boxed(line, which_box) or line) or None

  if answer_tags:
    start = text.rfind("<answer>")
    end = text.find("</answer>", start)
    if start < 0 or end < 0:
      return None
    text = text[start + len("<answer>") : end]
  found = boxed(text, which_box)
  return text.strip() if found is None and answer_tags else found


def mark_of(where: Mapping[str, Any]) -> str:
  """The text before an answer; empty: a box. `where`: arguments of `extract_answer`."""
  return where.get("answer_after") or ("<answer>" if where.get("answer_tags") else "")


def last_number(text: str) -> str | None:
  """The last number written in digits, unchanged; None without one."""
  found = _WRITTEN_NUMBER.findall(text)
  return found[-1].rstrip(",") if found else None


_NO_GOLDS = frozenset(("proof", "not found", "notfound", "no answer", "see solution", "nan",
                       "n/a", "not applicable", "answers may vary"))
# For a gold answer of one sentence, and of several; one with more is a worked solution.
_MAX_WORDS, _MAX_SHORT_WORDS = 25, 12


def gold_text(gold: Any) -> str:
  r"""The gold answer in the answer field of a data set, which may be a worked solution.

  GSM8K writes `... #### 72`; others have a worked solution with the answer in the last box,
  `<answer>` tags, or after "the answer is".

  Raises:
    ValueError: there is no answer in it: None, empty, `proof`, a box that is never closed, or a
      worked solution that marks no answer.
  """
  if isinstance(gold, (list, tuple)):
    gold = ", ".join(map(str, gold))
  text = str(gold).strip() if gold is not None else ""
  if not text:
    raise ValueError(f"answer: got {gold!r}, allowed: an answer in every row")
  if "####" in text:
    found = (text.rpartition("####")[2].strip().splitlines() or [""])[0].strip()
  elif "</answer>" in text:
    found = extract_answer(text, answer_tags=True)
  elif "boxed" in text or "\\fbox" in text:
    found = extract_answer(text)
  else:
    found = stated(text) or text
  if not found or found.casefold().strip(" .") in _NO_GOLDS:
    raise ValueError(f"answer: got {_shown(text)}, allowed: a text with a gold answer in it")
  num_words = len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", found))
  ends = len(re.findall(r"[a-z)][.!?](?:\s|$)", found))
  if ends and num_words > _MAX_WORDS or ends > 1 and num_words > _MAX_SHORT_WORDS:
    raise ValueError(
        f"answer: got a whole text, {_shown(text)}, allowed: an answer, or a working that marks it "
        "by ####, \\boxed{} or 'the answer is'")
  return found


def _shown(text: str) -> str:
  text = " ".join(text.split())
  return repr(text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}")
