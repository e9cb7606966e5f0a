"""Selects the problems for RL training.

By how often they are solved (T1), or by how much that changed (one-example RLVR,
https://arxiv.org/abs/2504.20571: train on a pool for some epochs, and take the examples whose
accuracy changed most; its authors call it a good rule, not the best).
"""

import numpy as np

from rlreason.data.selections import rows as rows_lib
from rlreason.data.tasks.base import Row


def score_variance(accuracy: np.ndarray) -> np.ndarray:
  """The variance over epochs of the training accuracy of each item.

  Args:
    accuracy: f32[items, epochs] mean score of an item's completions in an epoch; NaN where the item
      was not seen, which is ignored.

  Returns:
    f64[items], of the population; 0 for an item seen once, NaN for one never seen. It is bitwise
    independent of the order of the epochs, so that equal sets of accuracies tie.

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
  """i64[items] items from the highest variance to the lowest; equal ones in their order.

  Items never seen come last. [[1, 1], [0, 1], [0, 0.5], [1, 0]] -> [1, 3, 2, 0].

  Args:
    accuracy: f32[items, epochs], as in `score_variance`.
  """
  return np.argsort(-score_variance(accuracy), kind="stable")  # NaN is sorted to the end


def hard_questions(
    rows: list[Row], *, max_pass_rate: float = 0.3, min_pass_rate: float = 0.0
) -> list[Row]:
  """The problems with a pass rate in a range, each once, in the order of first occurrence.

  T1, https://arxiv.org/abs/2501.11651, keeps problems solved in at most 0.3 of 16 samples; DAPO,
  https://arxiv.org/abs/2503.14476, those solved sometimes but not always. Never solved:
  max_pass_rate=0.

  Args:
    rows: of completions, or of accuracy; those without a verdict do not count, and a problem
      without any verdict is dropped.
    max_pass_rate: the largest share of right completions, in [0, 1].
    min_pass_rate: the smallest, 0 to max_pass_rate.

  Returns:
    Rows of the columns of the problem and, where there are some, `prompt_ids`.

  Raises:
    ValueError: an option is out of range, or a row is of neither kind.
  """
  if not 0 <= min_pass_rate <= max_pass_rate <= 1:
    raise ValueError(f"min_pass_rate, max_pass_rate: got {min_pass_rate} and {max_pass_rate}, "
                     "allowed: 0 to 1, the first not above the second")
  kept = []
  for indices in rows_lib.by_question(rows):
    right, count = np.sum([_tally(rows[i]) for i in indices], axis=0).tolist()
    if count and min_pass_rate <= right / count <= max_pass_rate:
      kept.append(rows_lib.problem(rows[indices[0]]))
  return kept


def most_variable(rows: list[Row], *, count: int) -> list[Row]:
  """The problems whose accuracy changed most, in decreasing order; ties in their order.

  One-example RLVR, https://arxiv.org/abs/2504.20571: the variance over the times that a problem was
  seen (`score_variance`).

  Args:
    rows: of accuracy, of a stage that trains with `writes_accuracy`; one for each time that a
      problem was seen.
    count: how many, at least 1; all if there are fewer.

  Returns:
    Rows of the columns of the problem.

  Raises:
    ValueError: count is out of range, or a row is not of accuracy.
  """
  rows_lib.check_least(1, count=count)
  rows_lib.check_columns(rows, "prompt", "right", "count")
  seen = [[rows[i] for i in indices if rows[i]["count"]] for indices in rows_lib.by_question(rows)]
  seen = [times for times in seen if times]
  accuracy = np.full((len(seen), max(map(len, seen), default=0)), np.nan)
  for times, line in zip(seen, accuracy, strict=True):
    line[:len(times)] = [row["right"] / row["count"] for row in times]
  return [rows_lib.problem(seen[i][0]) for i in rank_by_variance(accuracy)[:count]]


def _tally(row: Row) -> tuple[int, int]:
  """The number of right completions, and the number with a verdict."""
  if "right" in row:
    return row["right"], row["count"]
  rows_lib.check_columns([row], "is_right")
  return int(bool(row["is_right"])), int(row["is_right"] is not None)
