"""Results of reward functions for each completion: a reward, no score, or a failure.

A reward is a number, or a list of (where, number) for rewards within the completion. A
completion for which a function fails, or gives NaN or an infinite value, is not scored; a function
that fails on every completion, call after call, ends the run. Not here: the definition of a number
(`worker.py`, which checks scores before they leave its process).
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

from absl import logging
import numpy as np

from rlreason.rewards import places
from rlreason.rewards import worker
from rlreason.workers import pool as pools

MAX_FAILED_CALLS = 10  # in a row, each of them on every completion
_LARGEST = float(np.finfo(np.float32).max)  # rewards are f32 where they are used
_MAX_LOGGED = 5  # calls of a function in which some completions failed
# Kind of a reply without a message -> the reason of the failure.
FAILURES = {"timeout": "it took longer than reward_timeout", "crash": "its process died"}


def is_right(score: float | None) -> bool | None:
  """Whether a verifier's score means right: 1 or more; None (not scored) stays None."""
  return None if score is None else bool(score >= 1.0)


class Values(NamedTuple):
  """The results of a reward function for B completions.

  Attributes:
    scores: [B] numbers, the sum of a list; None where there is no score.
    placed: [B] the lists, None where there is a number or no score.
    failures: [B] why the function failed; None where it did not, or returned None.
    not_finite: how many were NaN or infinite.
    misplaced: how many have a position that the completion does not have.
  """

  scores: list[float | None]
  placed: list[list[places.Placed] | None]
  failures: list[str | None]
  not_finite: int
  misplaced: int


def read_values(
    name: str, values: Any, count: int,
    locate: Callable[[int, places.Where], places.Place] | None = None,
) -> Values:
  """Rewards of a function as plain numbers, and its failures.

  Args:
    name: of the reward, for messages.
    values: the function's results; a `pools.Reply` represents a failure in a worker.
    count: B.
    locate: (row, where) -> the position in the completion; raises LookupError if there is no such
      position. None: only numbers are allowed.

  Raises:
    ValueError: not `count` values, or one that is neither a reward nor None.
  """
  try:
    values = values if type(values) is list else worker.as_list(values)
  except worker.NoNumber as error:
    raise ValueError(f"reward {name!r}: {error}, allowed: one number or None for each completion"
                     ) from error
  if len(values) != count:
    raise ValueError(f"reward {name!r}: got {len(values)} values, allowed: {count}, one for each "
                     "completion")
  scores, placed, failures = [None] * count, [None] * count, [None] * count
  not_finite = misplaced = 0
  for row, value in enumerate(values):
    if isinstance(value, pools.Reply) and value.failure != "refused":
      failures[row] = value.message or FAILURES[value.failure]
      continue
    reward = _plain(name, row, value, locate is not None)
    numbers = [number for _, number in reward] if isinstance(reward, list) else [reward]
    unfit = [number for number in numbers if number is not None and not abs(number) <= _LARGEST]
    if unfit:
      failures[row] = f"reward {name!r}: got {unfit[0]}, allowed: finite numbers or None"
      not_finite += 1
    elif isinstance(reward, list):
      try:
        placed[row] = [(locate(row, where), number) for where, number in reward]
        scores[row] = math.fsum(numbers)
      except LookupError as error:
        failures[row] = f"reward {name!r}: {error.args[0]}"
        misplaced += 1
    else:
      scores[row] = reward
  return Values(scores, placed, failures, not_finite, misplaced)


def _plain(
    name: str, row: int, value: Any, allows_lists: bool
) -> float | list[tuple[places.Where, float]] | None:
  """A reward of plain types; raises ValueError if it is not a reward."""
  message = value.message if isinstance(value, pools.Reply) else ""
  if value is None or type(value) is float:
    return value
  if not message:
    try:
      return worker.to_reward(value) if allows_lists else worker.to_number(value)
    except worker.NoNumber as error:
      message = str(error)
  raise ValueError(
      f"reward {name!r}: {message} for row {row}, allowed: finite numbers or None")


def as_potentials(name: str, values: Values) -> Values:
  """Converts lists of potentials to lists of their increases; the scores are the last potentials.

  Raises:
    ValueError: there is a number instead of a list.
  """
  scores, rises = list(values.scores), list(values.placed)
  for row, placed in enumerate(values.placed):
    if placed is None and scores[row] is not None:
      raise ValueError(f"reward {name!r}: got {scores[row]} for row {row}, allowed: lists of "
                       "(where, number) or None, of a potential")
    if placed is not None:
      if len({type(position) for position, _ in placed}) == 1:
        placed = sorted(placed, key=lambda pair: pair[0])
      numbers = [0.0, *(number for _, number in placed)]
      scores[row] = numbers[-1]
      rises[row] = [(position, number - before)
                    for (position, number), before in zip(placed, numbers)]
  return values._replace(scores=scores, placed=rises)


class FailureWatch:
  """Logs the failures of one function, and gives up on one that always fails.

  Attributes:
    label: names the function in messages.
    may_never_score: whether it gets `MAX_FAILED_CALLS` calls even if it has never scored a
      completion; if not, a first call that fails on all of several is enough.
  """

  def __init__(self, label: str, *, may_never_score: bool = False):
    self.label = label
    self.may_never_score = may_never_score
    self._has_scored = may_never_score
    self._failed_calls = 0  # in a row
    self._num_logged = 0

  def note(self, failures: Sequence[str | None]) -> None:
    """Records the failures of a call: why each completion has no score, None where it has one.

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
