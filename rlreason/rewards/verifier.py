r"""Outcome verifiers: decide whether the final answer of a completion is right.

An answer and its gold answer are read (`reading.py`) and matched (`matching.py`) here, exactly and
at once. Only pieces that need mathematics (roots, polynomials) go to math-verify, in the killable
processes of `workers/`. docs/verifier.md gives the rules for ambiguous answers, and the error rates
of the verdicts.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import inspect
import re
import typing
from typing import Any

from absl import logging

from rlreason.rewards import answer as answers
from rlreason.rewards import countdown
from rlreason.rewards import matching
from rlreason.rewards import reading
from rlreason.rewards import worker
from rlreason.rewards.reading import read
from rlreason.rewards.reading.types import Number
from rlreason.rewards.reading.typesetting import clean, squeeze
from rlreason.workers import pool as pools

# 2,74 instead of 2.74, which is tried only if the gold answer is not an integer.
_DECIMAL_COMMA = re.compile(r"[^\d,]*(?:\d+,\d{1,2}|0,\d+)[^\d,]*", re.ASCII)
# Marks of thousands that only a plain number has: 1.234,50 and 1.234.567 and 12,34,567.
_DOTTED = re.compile(r"([^\d.,]*)(\d{1,3}(?:[. ]\d{3})+),(\d{1,2}[^\d.,]*)", re.ASCII)
_MANY_MARKS = re.compile(
    r"[^\d.,]*(?:\d{1,3}(?:\.\d{3}){2,}|\d{1,2}(?:,\d{2})+,\d{3})[^\d.,]*", re.ASCII)
_MAX_TRIED = 500  # formulas of a task's gold answers that are read before a run
_MAX_PAIRS = 1_000  # pieces of one answer that are compared by mathematics


@dataclasses.dataclass(frozen=True, kw_only=True)
class MathVerifier:
  r"""Scores 1 for a right boxed answer and 0 for a wrong one; RLSP: first box, -0.5 without one.

  Attributes:
    which_box: "last" or "first" `\boxed{}` of the completion; boxes that only a comma, "and" or
      "or" joins to the last are parts of one answer.
    no_box_score: score, at most 0, of a completion without an answer.
    answer_tags: look for the answer in the last `<answer>...</answer>`, boxed or not.
    answer_after: look for it after the last of these marks, such as `####`, boxed or not, up to
      the end of the line; empty: anywhere.
    percent: "either": 50 and 50% agree; "exact": 50% is 0.5 only.
    pool: processes for symbolic comparison; None for the shared `workers.default_pool()`.
  """

  which_box: answers.WhichBox = "last"
  no_box_score: float = 0.0
  answer_tags: bool = False
  answer_after: str = ""
  percent: matching.Percent = "either"
  pool: pools.WorkerPool | None = None

  def __post_init__(self):
    answers.check_which_box(self.which_box)
    if self.answer_after and self.answer_tags:
      raise ValueError(
          f"answer_after: got {self.answer_after!r} with answer_tags, allowed: one of the two")
    answers.check_no_box_score(self.no_box_score)
    if self.percent not in typing.get_args(matching.Percent):
      raise ValueError(f"percent: got {self.percent!r}, allowed: 'either' or 'exact'")

  def __call__(
      self, prompts: list[Any], completions: list[str], *, answer: list[Any],
      **unused_columns: list[Any],
  ) -> list[float | None]:
    """Scores completions against the column `answer` (str, or a number; see `answer.gold_text`).

    Returns:
      1.0, 0.0 or `no_box_score` for each row; None where the comparison hung, crashed, recursed too
      deeply or ran out of memory (counted in the pool's `counts`).
    """
    golds = [answers.gold_text(gold) for gold in answer]
    found = [
        answers.extract_answer(
            text, which_box=self.which_box, answer_tags=self.answer_tags,
            answer_after=self.answer_after)
        for text in completions
    ]
    is_equal = compare(golds, [text or "" for text in found], self.pool, self.percent)
    return [
        float(self.no_box_score) if text is None else None if equal is None else float(equal)
        for text, equal in zip(found, is_equal, strict=True)
    ]


def verify(
    completions: Sequence[str], answer: Sequence[Any], **options: Any
) -> list[float | None]:
  """Scores completions against gold answers; options are the fields of `MathVerifier`."""
  return MathVerifier(**options)([""] * len(completions), list(completions), answer=list(answer))


# The names by which a task chooses its verifier.
VERIFIERS = {"math": MathVerifier, "countdown": countdown.CountdownVerifier}


def find(name: str) -> type:
  """The verifier called `name`.

  Raises:
    ValueError: there is none.
  """
  if name not in VERIFIERS:
    raise ValueError(f"verifier: got {name!r}, allowed: {', '.join(map(repr, sorted(VERIFIERS)))} "
                     "or a function")
  return VERIFIERS[name]


def columns(name: str) -> set[str]:
  """The columns that the rows of a task with the verifier `name` must have."""
  parameters = inspect.signature(find(name).__call__).parameters.values()
  return {parameter.name for parameter in parameters
          if parameter.kind == parameter.KEYWORD_ONLY and parameter.default is parameter.empty}


def compare(
    golds: Sequence[str], found: Sequence[str], pool: pools.WorkerPool | None = None,
    percent: matching.Percent = "either",
) -> list[bool | None]:
  """Whether each answer equals its gold answer; None if that could not be determined.

  Each distinct pair is judged once, and so is every piece of it.
  """
  pairs = list(zip(golds, found, strict=True))
  verdicts, asked = {}, {}
  for pair in dict.fromkeys(pairs):
    pieces = []
    verdicts[pair] = match_text(*pair, percent, lambda *piece: pieces.append(piece))
    if verdicts[pair] is None and len(pieces) <= _MAX_PAIRS:
      asked[pair] = pieces
  if asked:
    pieces = list(dict.fromkeys(piece for some in asked.values() for piece in some))
    replies = (pool or pools.default_pool()).map(
        worker.SYMBOLIC, [dict(gold=gold, answer=answer) for gold, answer in pieces])
    known = {piece: reply.value for piece, reply in zip(pieces, replies)}
    for pair in asked:
      verdicts[pair] = match_text(*pair, percent, lambda *piece: known.get(piece))
  return [verdicts[pair] for pair in pairs]


def report_texts(golds: Mapping[int | str, str], pool: pools.WorkerPool | None = None):
  """Logs which gold answers are not mathematics: an answer must then be the same text.

  Args:
    golds: index of a row, or its file and line -> its gold answer, from `answer.gold_text`.
    pool: workers that try to read at most `_MAX_TRIED` formulas.
  """
  formulas = {}
  texts = {}
  for row, gold in golds.items():
    parts = reading.expressions(read(gold)) if len(gold) <= answers.MAX_ANSWER_CHARACTERS else None
    if parts is None:
      texts[row] = gold
    elif parts:
      formulas[row] = parts
  tried = list(dict.fromkeys(part for parts in formulas.values() for part in parts))[:_MAX_TRIED]
  if tried:
    replies = (pool or pools.default_pool()).map(
        worker.SYMBOLIC, [dict(gold=part, answer=None) for part in tried])
    bad = {part for part, reply in zip(tried, replies) if not reply.value}
    texts |= {row: golds[row] for row, parts in formulas.items() if bad.intersection(parts)}
  if texts:
    first = [row for row in golds if row in texts][:3]
    shown = "; ".join(
        f"{golds[row][:30]!r} ({'row ' * isinstance(row, int)}{row})" for row in first)
    logging.warning(
        "%d of %d gold answers are no mathematics and count only as the same text: %s%s",
        len(texts), len(golds), shown, "; ..." if len(texts) > 3 else "")


def match_text(
    gold: str, answer: str, percent: matching.Percent = "either",
    judge: matching.Judge = lambda gold, answer: None,
) -> bool | None:
  """Decides by text and exact numbers; None where mathematics is needed that `judge` lacks."""
  if len(answer) > answers.MAX_ANSWER_CHARACTERS:
    return False
  cleaned = clean(gold), clean(answer)
  if "," not in gold + answer:
    cleaned = tuple(map(squeeze, cleaned))
  if not cleaned[1] or cleaned[0] == cleaned[1]:
    return bool(cleaned[1])
  gold = read(gold)
  if isinstance(gold, Number):
    answer = _with_decimal_point(answer, gold)
  return matching.match(gold, read(answer), judge, percent)


def _with_decimal_point(answer: str, gold: Number) -> str:
  """The answer to a plain number with a decimal point, unless it can be a list."""
  dotted = _DOTTED.fullmatch(answer)
  if dotted:
    return f"{dotted[1]}{re.sub('[. ]', '', dotted[2])}.{dotted[3]}"
  if _MANY_MARKS.fullmatch(answer):
    return answer.replace(".", "").replace(",", "")
  if gold.value.denominator > 1 and _DECIMAL_COMMA.fullmatch(answer):
    return answer.replace(",", ".")
  return answer
