r"""Exploration rewards of RLSP for effort (https://arxiv.org/abs/2502.06773).

As in the authors' code: a term -c / L of the length L of the reasoning before the first box, and a
judge's score in [0, 1] of the effort. A run mixes them with the verifier's reward r by weights, for
example 0.8 * (r - c / L) + 0.2 * judge (`combine.py`).
"""

from collections.abc import Sequence
import math
from typing import Any, Literal

from rlreason.rewards import answer as answers
from rlreason.rewards import worker

CHARACTERS_PER_TOKEN = 4  # of the authors' code, where lengths are estimated from text
JUDGE_FAILURE_SCORE = 0.5  # neither a reward nor a penalty

Unit = Literal["characters", "tokens"]


def exploration_reward(
    prompts: list[Any],
    completions: list[str],
    *,
    c: float,
    unit: Unit = "characters",
    min_length: float = 1,
    reasoning_tokens: Sequence[int] | None = None,
    reasoning_text: Sequence[str] | None = None,
    **unused_columns: list[Any],
) -> list[float]:
  """-c / L: longer reasoning scores more, with diminishing returns; always below 0.

  L is the length before the *first* box (all of the text if there is none), so that padding after
  it is never rewarded; if the verifier looks for the answer after another mark, before that mark.
  Differs from the authors' code: L is at least `min_length`. With a box at the very start theirs
  fails with a reward of 0, more than a short right answer gets.

  Args:
    prompts: ignored.
    completions: texts.
    c: strength in tokens, >= 0; 1000 in the paper's runs. See `check_correctness_beats_length`.
    unit: "characters" uses L = characters / 4; "tokens" uses the column below.
    min_length: shorter reasoning counts as this long, >= 1; in RLSP 1. A stage's
      `min_reasoning_tokens`.
    reasoning_tokens: generated tokens before the answer of each row.
    reasoning_text: their text; None: the text before the first box.

  Raises:
    ValueError: c is negative, the unit is unknown, or the column is missing.
  """
  if not c >= 0 or math.isinf(c):
    raise ValueError(f"c: got {c!r}, allowed: 0 or more")
  if not min_length >= 1:
    raise ValueError(f"min_length: got {min_length!r}, allowed: 1 or more")
  if unit == "characters":
    reasoning = reasoning_text or map(answers.text_before_answer, completions)
    lengths = [len(text) / CHARACTERS_PER_TOKEN for text in reasoning]
  elif unit == "tokens":
    if reasoning_tokens is None:
      raise ValueError(
          "reasoning_tokens: got None with unit='tokens', allowed: how many are before the box")
    lengths = list(reasoning_tokens)
  else:
    raise ValueError(f"unit: got {unit!r}, allowed: 'characters' or 'tokens'")
  return [-c / max(min_length, length) if c else 0.0 for length in lengths]


def correctness_beats_length(
    c: float, min_length: float, max_length: float, verifier_gap: float = 1.0
) -> bool:
  """Whether every right answer scores more than every wrong one, for lengths in the given range.

  The shortest right answer must beat the longest wrong one: c (1 / Lmin - 1 / Lmax) < gap.

  Args:
    c: strength of the exploration reward times its weight, tokens.
    min_length: shortest reasoning, tokens, >= 1.
    max_length: longest reasoning, tokens.
    verifier_gap: the verifier's weight times (right - wrong score).
  """
  return c * _length_spread(min_length, max_length) < verifier_gap


def check_correctness_beats_length(
    c: float, min_length: float, max_length: float, verifier_gap: float = 1.0
) -> None:
  """Raises ValueError, naming the largest such c, unless `correctness_beats_length`."""
  if correctness_beats_length(c, min_length, max_length, verifier_gap):
    return
  largest = verifier_gap / _length_spread(min_length, max_length)
  raise ValueError(
      f"c: got {c:g}, which lets a long wrong answer beat a short right one, allowed: for "
      f"reasoning of {min_length:g} to {max_length:g} tokens below {largest:g}")


def _length_spread(min_length: float, max_length: float) -> float:
  if not 1 <= min_length <= max_length:
    raise ValueError(
        f"min_length: got {min_length!r} with max_length={max_length!r}, allowed: 1 to max_length")
  return 1 / min_length - 1 / max_length


def clean_judge_scores(scores: Sequence[Any], count: int) -> list[float]:
  """A judge's scores of `count` rows; anything but a number in [0, 1] becomes 0.5.

  If the list has another length than `count`, every row gets 0.5.
  """
  if len(scores) != count:
    return [JUDGE_FAILURE_SCORE] * count
  return [_clean_judge_score(score) for score in scores]


def _clean_judge_score(score: Any) -> float:
  try:
    value = worker.to_number(score)
  except worker.NoNumber:
    return JUDGE_FAILURE_SCORE
  return value if 0 <= value <= 1 else JUDGE_FAILURE_SCORE  # NaN compares as out of range
