"""Length rewards: for shorter completions, or a target length, at the same accuracy.

Each is a term in addition to the verifier's 1 for a right answer: with weights of 1 the two sum to
the reward of its source. Group terms compare the completions of one prompt, and are given only if
its share of right answers is at least `min_accuracy`: penalising length where a model still fails
teaches it to give up. Lengths are generated tokens, including the end token.

A completion with an unknown verdict (None) is ignored and gets None. Not here: the exploration
reward, which rewards length (`exploration.py`).
"""

from collections.abc import Callable, Sequence
import math
from typing import Any

import numpy as np


def kimi_length_reward(
    prompts: list[Any], completions: list[str], *, min_accuracy: float = 0.0,
    tokens: Sequence[int] | None = None, group: Sequence[int] | None = None,
    is_right: Sequence[bool | None] | None = None, **unused_columns: list[Any],
) -> list[float | None]:
  """λ = 1/2 - (n - min) / (max - min) for a right answer of n tokens, min(0, λ) for a wrong one.

  min and max are of the group; if all lengths are equal all get 0. Kimi k1.5,
  https://arxiv.org/abs/2501.12599. 10, 20 and 30 tokens get 1/2, 0, -1/2 if right; 0, 0, -1/2 if
  not.

  Args:
    prompts: ignored.
    completions: texts.
    min_accuracy: smallest share of right answers, in [0, 1], for a group to get the reward.
    tokens: generated tokens of each row.
    group: index of the prompt of each row.
    is_right: verdict of the verifier on each row.

  Raises:
    ValueError: min_accuracy is out of range, or a column is missing.
  """

  def pay(lengths, right):
    spread = np.ptp(lengths)
    value = 0.5 - (lengths - lengths.min()) / spread if spread else np.zeros(len(lengths))
    return np.where(right, value, np.minimum(0.0, value))

  return _pay_groups(pay, min_accuracy, tokens, group, is_right)


def arora_length_reward(
    prompts: list[Any], completions: list[str], *, a: float, min_accuracy: float = 0.0,
    tokens: Sequence[int] | None = None, group: Sequence[int] | None = None,
    is_right: Sequence[bool | None] | None = None, **unused_columns: list[Any],
) -> list[float | None]:
  """-a sigmoid((n - mean) / std) for a right answer of n tokens, 0 for a wrong one.

  mean and std (of the population) are of the *right* answers of the group; without variance the
  sigmoid is 1/2. Arora & Zanette 2025, https://arxiv.org/abs/2502.04463.

  Args:
    a: strength in [0, 1]; a right answer then scores no less than a wrong one.
    prompts, completions, min_accuracy, tokens, group, is_right: as in `kimi_length_reward`.

  Raises:
    ValueError: an option is out of range, or a column is missing.
  """
  if not 0 <= a <= 1:
    raise ValueError(f"a: got {a!r}, allowed: 0 to 1")

  def pay(lengths, right):
    if not right.any():
      return np.zeros(len(lengths))
    spread = lengths[right].std()
    deviations = (lengths - lengths[right].mean()) / spread if spread else np.zeros(len(lengths))
    return np.where(right, -a / (1.0 + np.exp(-np.where(right, deviations, 0.0))), 0.0)

  return _pay_groups(pay, min_accuracy, tokens, group, is_right)


def l1_length_reward(
    prompts: list[Any], completions: list[str], *, target: float, a: float = 3e-4,
    min_accuracy: float = 0.0, tokens: Sequence[int] | None = None,
    group: Sequence[int] | None = None, is_right: Sequence[bool | None] | None = None,
    **unused_columns: list[Any],
) -> list[float | None]:
  """-a |target - n| for an answer of n tokens, right or wrong.

  L1 in its exact form, https://arxiv.org/abs/2503.04697; there each prompt has its own target.

  Args:
    target: tokens, above 0.
    a: strength per token, at least 0.
    prompts, completions, min_accuracy, tokens, group, is_right: as in `kimi_length_reward`.

  Raises:
    ValueError: an option is out of range, or a column is missing.
  """
  _check_target(target, a)
  pay = lambda lengths, right: -a * np.abs(target - lengths)
  return _pay_groups(pay, min_accuracy, tokens, group, is_right)


def l1_max_length_reward(
    prompts: list[Any], completions: list[str], *, target: float, a: float = 3e-4,
    min_accuracy: float = 0.0, tokens: Sequence[int] | None = None,
    group: Sequence[int] | None = None, is_right: Sequence[bool | None] | None = None,
    **unused_columns: list[Any],
) -> list[float | None]:
  """clip(a (target - n) + 1/2, 0, 1) - 1 for a right answer of n tokens, 0 for a wrong one.

  L1 in its other form, in which the verifier's 1 for a right answer is multiplied by the clipped
  term: staying below the target is rewarded, up to a limit.

  Args:
    prompts, completions, target, a, min_accuracy, tokens, group, is_right: as in
      `l1_length_reward`.

  Raises:
    ValueError: an option is out of range, or a column is missing.
  """
  _check_target(target, a)
  pay = lambda lengths, right: np.where(
      right, np.clip(a * (target - lengths) + 0.5, 0.0, 1.0) - 1.0, 0.0)
  return _pay_groups(pay, min_accuracy, tokens, group, is_right)


def overlong_reward(
    prompts: list[Any], completions: list[str], *, max_length: float, cache: float,
    tokens: Sequence[int] | None = None, **unused_columns: list[Any],
) -> list[float]:
  """0 up to max_length - cache tokens, then falling linearly to -1 at max_length, and -1 beyond.

  DAPO's soft overlong punishment, https://arxiv.org/abs/2503.14476. With 20480 and 4096:
  16384 tokens -> 0, 18432 -> -1/2, 20480 -> -1.

  Args:
    prompts: ignored.
    completions: texts.
    max_length: tokens, above 0; at most the sampler's limit, or -1 is never reached.
    cache: tokens over which the reward falls, above 0 and at most max_length.
    tokens: generated tokens of each row.

  Raises:
    ValueError: an option is out of range, or the column is missing.
  """
  if not 0 < max_length < math.inf:
    raise ValueError(f"max_length: got {max_length!r}, allowed: a number of tokens above 0")
  if not 0 < cache <= max_length:
    raise ValueError(f"cache: got {cache!r}, allowed: above 0 and at most max_length={max_length}")
  if tokens is None:
    raise ValueError("tokens: got None, allowed: how many were generated of each completion")
  free = max_length - cache
  return [-min(1.0, max(0.0, (count - free) / cache)) for count in tokens]


def _check_target(target: float, a: float):
  if not 0 < target < math.inf:
    raise ValueError(f"target: got {target!r}, allowed: a number of tokens above 0")
  if not 0 <= a < math.inf:
    raise ValueError(f"a: got {a!r}, allowed: 0 or more")


def _pay_groups(
    pay: Callable[[np.ndarray, np.ndarray], np.ndarray], min_accuracy: float,
    tokens: Sequence[int] | None, group: Sequence[int] | None,
    is_right: Sequence[bool | None] | None,
) -> list[float | None]:
  """Applies pay(lengths f64[n], right bool[n]) to the rows of each group with a verdict."""
  if not 0 <= min_accuracy <= 1:
    raise ValueError(f"min_accuracy: got {min_accuracy!r}, allowed: 0 to 1")
  if tokens is None or group is None or is_right is None:
    raise ValueError("tokens, group, is_right: got None, allowed: these columns of a rollout")
  members = {}
  for row, (prompt, verdict) in enumerate(zip(group, is_right, strict=True)):
    if verdict is not None:
      members.setdefault(prompt, []).append(row)
  rewards = [None] * len(is_right)
  for rows in members.values():
    lengths = np.array([tokens[row] for row in rows], np.float64)
    right = np.array([bool(is_right[row]) for row in rows])
    is_paid = right.mean() >= min_accuracy
    for row, value in zip(rows, pay(lengths, right) if is_paid else np.zeros(len(rows))):
      rewards[row] = float(value)
  return rewards
