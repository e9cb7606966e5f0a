"""The outcome reward of Satori: a right answer counts more after a wrong start.

Satori restarts from the middle of earlier completions, right and wrong ones
(https://arxiv.org/abs/2502.02508). Its reward is this, plus the sigmoid of an outcome reward model.
Not here: where the starts come from.
"""

from collections.abc import Sequence
import math
from typing import Any

START_COLUMN = "start"  # of a task's rows: the start of the prompt
STARTS = ("", "right", "wrong")  # the problem alone, or with part of such a completion


def restart_reward(
    prompts: list[Any], completions: list[str], *, bonus: float = 0.5,
    start: Sequence[str] | None = None, is_right: Sequence[bool | None] | None = None,
    **unused_columns: list[Any],
) -> list[float | None]:
  """1[right] - 1, plus bonus for wrong to right and minus bonus for right to wrong.

  Replaces the verifier's score, which then has a weight of 0. Only the start matters, not how the
  completion judges it.

  Args:
    prompts: ignored.
    completions: texts.
    bonus: at least 0; 0.5 in the authors' code.
    start: one of `STARTS` for each row; without the column, all are plain problems.
    is_right: verdict of the verifier on each row; None gives None.

  Raises:
    ValueError: the bonus is negative, a start is not known, or `is_right` is missing.
  """
  if not 0 <= bonus < math.inf:
    raise ValueError(f"bonus: got {bonus!r}, allowed: 0 or more")
  if is_right is None:
    raise ValueError("reward 'restart': is_right: got None, allowed: verdicts of the verifier")
  start = [""] * len(is_right) if start is None else start
  unknown = sorted(set(map(str, start)) - set(STARTS))
  if unknown:
    raise ValueError(f"start: got {unknown}, allowed: {', '.join(map(repr, STARTS))}")
  gains = {("wrong", True): bonus, ("right", False): -bonus}
  return [None if verdict is None else bool(verdict) - 1.0 + gains.get((kind, bool(verdict)), 0.0)
          for kind, verdict in zip(start, is_right, strict=True)]
