"""How well a process reward model judges steps: accuracy, AUC, first errors, calibration.

Not here: the model's scores, and their use in a search.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

Labels = Sequence[Sequence[float | None]]  # of the steps of each row, 0 to 1; None: no label


class Bin(NamedTuple):
  """Steps whose predicted probabilities are in [low, high)."""

  low: float
  high: float
  count: int
  predicted: float  # mean probability of being right
  found: float  # mean label


def area_under_curve(scores: np.ndarray, is_right: np.ndarray) -> float | None:
  """The probability that a right step has a higher score than a wrong one; ties count half.

  The area under the ROC curve, as the statistic of Mann and Whitney.  Scores 3, 2 and 1, of which
  the second is wrong -> 1 / 2.

  Args:
    scores: f32[N], in any unit.
    is_right: bool[N].

  Returns:
    None if all are right, or all are wrong.
  """
  scores, is_right = np.asarray(scores, np.float64), np.asarray(is_right, bool)
  num_right = int(is_right.sum())
  num_wrong = len(scores) - num_right
  if not num_right or not num_wrong:
    return None
  ranks = stats.rankdata(scores)
  least = num_right * (num_right + 1) / 2
  return float((ranks[is_right].sum() - least) / (num_right * num_wrong))


def first_error_f1(
    probabilities: Sequence[Sequence[float]], labels: Labels, threshold: float = 0.5
) -> float | None:
  """Whether the first wrong step of each row is found: ProcessBench's F1.

  The harmonic mean of two accuracies: among rows with an error, the share whose first one is found
  exactly, and among rows without one, the share in which none is found.  Zheng et al. 2024,
  https://arxiv.org/abs/2412.06559 (section 4.1).

  Args:
    probabilities: of each step of each row, of being right.
    labels: of the same; steps without a label are ignored, and those below 1/2 are wrong.
    threshold: a step is predicted to be wrong where its probability is below.

  Returns:
    None if no row has an error, or if all have one.
  """
  found = {True: [], False: []}  # whether there is an error -> whether the prediction is right
  for row, targets in zip(probabilities, labels, strict=True):
    known = [(p, y) for p, y in zip(row, targets, strict=True) if y is not None]
    expected = _first(y < 0.5 for _, y in known)
    found[expected is not None].append(_first(p < threshold for p, _ in known) == expected)
  if not found[True] or not found[False]:
    return None
  with_error, without = np.mean(found[True]), np.mean(found[False])
  return float(2 * with_error * without / (with_error + without)) if with_error + without else 0.0


def calibration(
    probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 10) -> list[Bin]:
  """The steps in bins of equal width of the predicted probability, without empty ones.

  Args:
    probabilities: f32[N] in [0, 1]; 1 is in the last bin.
    labels: f32[N] in [0, 1].
    num_bins: number of bins.
  """
  probabilities = np.asarray(probabilities, np.float64)
  index = np.minimum((probabilities * num_bins).astype(int), num_bins - 1)
  labels, bins = np.asarray(labels, np.float64), []
  for i in np.unique(index):
    chosen = index == i
    bins.append(Bin(i / num_bins, (i + 1) / num_bins, int(chosen.sum()),
                    float(probabilities[chosen].mean()), float(labels[chosen].mean())))
  return bins


def calibration_error(bins: Sequence[Bin]) -> float:
  """The expected calibration error: Σ n_b / N |mean probability - mean label|, 0 for no steps.

  Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. (3).
  """
  total = sum(one.count for one in bins)
  return sum(one.count * abs(one.predicted - one.found) for one in bins) / max(total, 1)


def step_metrics(
    scores: Sequence[Sequence[float]], labels: Labels, threshold: float = 0.5
) -> tuple[dict[str, float], list[Bin]]:
  """All of them for rows of steps, and the bins of the calibration.

  Args:
    scores: of each step of each row, log-odds of being right.
    labels: of the same.
    threshold: as for `first_error_f1`.

  Returns:
    {"accuracy", "auc", "first_error_f1", "calibration_error", "margin", "steps"}; those that the
    labels do not determine are left out. The margin is the mean score of right steps minus that of
    wrong ones.
  """
  probabilities = [[_sigmoid(score) for score in row] for row in scores]
  flat = [(score, p, y) for row in zip(scores, probabilities, labels, strict=True)
          for score, p, y in zip(*row, strict=True) if y is not None]
  if not flat:
    return {"steps": 0.0}, []
  score, probability, label = np.array(flat, np.float64).T
  is_right = label >= 0.5
  bins = calibration(probability, label)
  found = {
      "accuracy": float(np.mean((probability >= threshold) == is_right)),
      "auc": area_under_curve(score, is_right),
      "first_error_f1": first_error_f1(probabilities, labels, threshold),
      "calibration_error": calibration_error(bins), "steps": float(len(flat))}
  if 0 < is_right.sum() < len(flat):
    found["margin"] = float(score[is_right].mean() - score[~is_right].mean())
  return {name: value for name, value in found.items() if value is not None}, bins


def _first(is_wrong) -> int | None:
  return next((i for i, wrong in enumerate(is_wrong) if wrong), None)


def _sigmoid(score: float) -> float:
  return 0.5 + 0.5 * math.tanh(0.5 * score)  # tanh does not overflow
