"""What a reward function gave for each completion: a number, no score, or a failure.

A completion for which a function fails, or gives NaN or an infinite value, is not scored; a
function that fails on every completion, call after call, ends the run. Not here: what counts as a
number (`worker.py`, which checks it before a score leaves its process).
"""

from collections.abc import Sequence
from typing import Any

from absl import logging
import numpy as np

from rlreason.rewards import worker
from rlreason.workers import pool as pools

MAX_FAILED_CALLS = 10  # in a row, each of them on every completion
_LARGEST = float(np.finfo(np.float32).max)  # rewards are f32 where they are used
_MAX_LOGGED = 5  # calls of a function in which some completions failed
# Of a reply without a message -> what came of a completion.
FAILURES = {"timeout": "it took longer than reward_timeout", "crash": "its process died"}


def is_right(score: float | None) -> bool | None:
  """Whether a verifier's score says right: 1 or more; None, not scored, stays None."""
  return None if score is None else bool(score >= 1.0)


def read_values(
    name: str, values: Any, count: int
) -> tuple[list[float | None], list[str | None], int]:
  """Scores of a reward function as floats, and what went wrong.

  Args:
    name: of the reward, for messages.
    values: what the function returned; a `pools.Reply` stands for a failure in a worker.
    count: completions.

  Returns:
    The scores, [count], None where there is none; for each completion why the function failed on
    it, None where it did not (also where it returned None); how many were NaN or infinite.

  Raises:
    ValueError: not `count` values, or one that is neither a number nor None.
  """
  try:
    values = worker.as_list(values)
  except worker.NoNumber as error:
    raise ValueError(f"reward {name!r} must return one number or None for each completion. "
                     f"{error}") from error
  if len(values) != count:
    raise ValueError(f"reward {name!r} returned {len(values)} values for {count} completions")
  scores, failures = [], []
  for row, value in enumerate(values):
    score, failure = _read_value(name, row, value)
    scores.append(score)
    failures.append(failure)
  lost = sum(isinstance(value, pools.Reply) for value in values)
  return scores, failures, count - failures.count(None) - lost


def _read_value(name: str, row: int, value: Any) -> tuple[float | None, str | None]:
  if value is None:
    return None, None
  if isinstance(value, pools.Reply):
    if value.failure != "refused":
      return None, value.message or FAILURES[value.failure]
    raise ValueError(
        f"reward {name!r} must return finite numbers or None. {value.message} for row {row}")
  try:
    number = worker.to_number(value)
  except worker.NoNumber as error:
    raise ValueError(
        f"reward {name!r} must return finite numbers or None. {error} for row {row}") from error
  if abs(number) <= _LARGEST:
    return number, None
  return None, f"reward {name!r} must return finite numbers or None. Got: {number}"


class FailureWatch:
  """Logs the failures of one function, and gives up on one that always fails.

  Attributes:
    label: names the function in messages.
    may_never_score: whether it is given `MAX_FAILED_CALLS` calls also where it never scored any
      completion; if not, a first call that fails on all of several is enough.
  """

  def __init__(self, label: str, *, may_never_score: bool = False):
    self.label = label
    self.may_never_score = may_never_score
    self._has_scored = may_never_score
    self._failed_calls = 0  # in a row
    self._num_logged = 0

  def note(self, failures: Sequence[str | None]) -> None:
    """Takes the failures of a call: why each completion has no score, None where it has one.

    Raises:
      ValueError: the function always fails.
    """
    if not failures:
      return
    messages = [failure for failure in failures if failure is not None]
    if len(messages) < len(failures):
      self._has_scored, self._failed_calls = True, 0
    else:
      self._failed_calls += 1
      self._check(len(failures), messages[-1])
    self._num_logged += bool(messages)
    if messages and self._num_logged <= _MAX_LOGGED:
      end = " (not said again)" if self._num_logged == _MAX_LOGGED else ""
      logging.warning("%s failed on %d of %d completions: %s%s", self.label, len(messages),
                      len(failures), messages[0], end)

  def _check(self, count: int, message: str) -> None:
    if count > 1 and not self._has_scored:
      raise ValueError(f"{self.label} failed on all {count} completions: {message}")
    if self._failed_calls >= MAX_FAILED_CALLS:
      raise ValueError(f"{self.label} failed on every completion of {self._failed_calls} calls in"
                       f" a row, the last time: {message}")
