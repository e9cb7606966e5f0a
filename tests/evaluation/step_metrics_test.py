"""Metrics of judgements of steps, on hand-worked numbers."""

import math

import numpy as np
import pytest

from rlreason.evaluation import step_metrics

# Log-odds of probabilities 0.9, 0.6, 0.4 and 0.1.
HIGH, ABOVE, BELOW, LOW = (math.log(p / (1 - p)) for p in (0.9, 0.6, 0.4, 0.1))


@pytest.mark.parametrize("scores, is_right, expected", [
    ([3, 2, 1], [1, 0, 1], 0.5), ([3, 2, 1], [1, 1, 0], 1.0), ([1, 2, 3], [1, 0, 0], 0.0),
    ([1, 1, 1, 1], [1, 0, 1, 0], 0.5), ([2, 1, 1, 0], [1, 1, 0, 0], 0.875),
    ([1, 2], [1, 1], None), ([], [], None)])
def test_the_area_under_the_curve(scores, is_right, expected):
  assert step_metrics.area_under_curve(scores, np.array(is_right, bool)) == expected


def test_the_area_is_the_share_of_pairs_in_order():
  random = np.random.default_rng(0)
  scores, is_right = random.integers(0, 8, 60), random.random(60) < 0.4
  pairs = [0.5 * (a == b) + (a > b) for a in scores[is_right] for b in scores[~is_right]]
  assert step_metrics.area_under_curve(scores, is_right) == pytest.approx(np.mean(pairs))


def test_first_errors_hand_worked():
  """Found in one of two rows with an error, none in two of three without: 2 a b / (a + b)."""
  labels = [[1, 0, 0], [1, 1, 0], [1, 1], [1], [1, None, 1]]
  probabilities = [[0.9, 0.2, 0.9], [0.9, 0.2, 0.1], [0.9, 0.8], [0.4], [0.7, 0.1, 0.7]]
  expected = 2 * 1 / 2 * 2 / 3 / (1 / 2 + 2 / 3)
  assert step_metrics.first_error_f1(probabilities, labels) == pytest.approx(expected)
  assert step_metrics.first_error_f1(probabilities, labels, threshold=0.3) == pytest.approx(
      2 * 1 / 2 / (1 / 2 + 1))
  assert step_metrics.first_error_f1(probabilities, labels, threshold=0.0) == 0.0
  assert step_metrics.first_error_f1([[0.9]], [[1]]) is None


def test_calibration_hand_worked():
  """0.9 twice, right once; 0.25 and 0.2, none right: |0.9 - 0.5| / 2 + |0.225 - 0| / 2."""
  bins = step_metrics.calibration([0.95, 0.25, 0.9, 0.2, 1.0], [1, 0, 0, 0, 1])
  assert [(one.low, one.high, one.count) for one in bins] == [(0.2, 0.3, 2), (0.9, 1.0, 3)]
  assert bins[1].found == pytest.approx(2 / 3)
  assert step_metrics.calibration_error(bins) == pytest.approx(
      (2 * 0.225 + 3 * (0.95 - 2 / 3)) / 5)
  assert step_metrics.calibration_error([]) == 0.0


def test_all_of_them():
  found, bins = step_metrics.step_metrics(
      [[HIGH, LOW], [ABOVE, BELOW, HIGH]], [[1, 0], [1.0, 0.75, None]])
  assert found == pytest.approx({
      "accuracy": 0.75, "auc": 1.0, "first_error_f1": 0.0, "steps": 4.0,
      "calibration_error": (0.1 + 0.1 + 0.4 + 0.35) / 4,
      "margin": (HIGH + ABOVE + BELOW) / 3 - LOW})
  assert sum(one.count for one in bins) == 4
  assert step_metrics.step_metrics([[HIGH]], [[None]]) == ({"steps": 0.0}, [])
  only_right, _ = step_metrics.step_metrics([[800.0]], [[1]])
  assert only_right == {"accuracy": 1.0, "calibration_error": 0.0, "steps": 1.0}
