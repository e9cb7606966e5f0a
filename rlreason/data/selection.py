"""Choosing the few examples that a run of reinforcement learning is to train on.

One-example RLVR, https://arxiv.org/abs/2504.20571: train on a pool for some epochs, and take the
examples whose accuracy changed most. Its authors say that it is not the best rule, only a good one.
"""

import numpy as np


def score_variance(accuracy: np.ndarray) -> np.ndarray:
  """The variance over epochs of the training accuracy of each item.

  Args:
    accuracy: f32[items, epochs] mean score of an item's completions in an epoch; NaN where the item
      was not seen, which is left out.

  Returns:
    f64[items], of the population; 0 for an item seen once, NaN for one never seen. The order of the
    epochs changes nothing, not even the last bit, so that equal sets of accuracies tie.

  Raises:
    ValueError: accuracy is not a matrix.
  """
  accuracy = np.asarray(accuracy, np.float64)
  if accuracy.ndim != 2:
    raise ValueError(f"accuracy: got the shape {accuracy.shape}, allowed: (items, epochs)")
  variance = np.full(len(accuracy), np.nan)
  for i, row in enumerate(np.sort(accuracy, axis=1)):
    seen = row[~np.isnan(row)]
    if len(seen):
      variance[i] = seen.var()
  return variance


def rank_by_variance(accuracy: np.ndarray) -> np.ndarray:
  """i64[items] items from the highest variance to the lowest; equal ones in their own order.

  Items never seen come last. [[1, 1], [0, 1], [0, 0.5], [1, 0]] -> [1, 3, 2, 0].

  Args:
    accuracy: as in `score_variance`.
  """
  return np.argsort(-score_variance(accuracy), kind="stable")  # NaN is sorted to the end
