"""From the scores of steps to one of a solution, and numbers about choosing the best of several."""

from collections.abc import Sequence
import math
from typing import Literal

Aggregate = Literal["last", "min", "product", "mean"]

EMPTY = -1.0  # of a solution without steps: below every probability


def aggregate(scores: Sequence[float], how: Aggregate) -> float:
  """The score of a solution, from those of its steps; -1 without steps.

  [0.9, 0.2, 0.8] -> last 0.8, min 0.2, product 0.144, mean 0.633. `min` is that of Math-Shepherd
  (https://arxiv.org/abs/2312.08935), `product` that of Lightman et al. 2023
  (https://arxiv.org/abs/2305.20050), which favours short solutions; `last` reads a process reward
  model like an outcome reward model.

  Args:
    scores: in [0, 1], in the order of the steps.
    how: last, min, product or mean.
  """
  if not len(scores):
    return EMPTY
  if how == "last":
    return float(scores[-1])
  if how == "min":
    return float(min(scores))
  return math.prod(map(float, scores)) if how == "product" else math.fsum(scores) / len(scores)


def best_of_n_kl(n: int) -> float:
  """KL(best of n || policy), nats: ln n - (n - 1) / n, if no two solutions have the same score.

  n = 4 -> 0.6363. With ties it is an upper bound (Beirami et al. 2024,
  https://arxiv.org/abs/2401.01879).
  """
  if n < 1:
    raise ValueError(f"n: got {n}, allowed: 1 or more")
  return math.log(n) - (n - 1) / n
