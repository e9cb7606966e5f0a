"""Tests of rlreason.data.selection."""

import numpy as np
import pytest

from rlreason.data import selection

NAN = np.nan


def test_variances_by_hand():
  # Means 1/2, 1/2, 1: deviations 1/2; 1/4 and 1/4; none.
  found = selection.score_variance(np.float32([[0, 1], [0.25, 0.75], [1, 1]]))
  np.testing.assert_array_equal(found, [0.25, 0.0625, 0.0])
  np.testing.assert_array_equal(
      selection.score_variance([[0, NAN, 1], [NAN, 0.5, NAN], [NAN] * 3]), [0.25, 0.0, NAN])


def test_ties_keep_their_order():
  accuracy = np.float32([[1, 1], [0, 1], [0, 0.5], [1, 0]])
  assert selection.rank_by_variance(accuracy).tolist() == [1, 3, 2, 0]
  assert selection.rank_by_variance(np.ones((5, 3))).tolist() == [0, 1, 2, 3, 4]
  # The same accuracies in another order are a tie to the last bit.
  rng = np.random.default_rng(0)
  row = rng.random(7)
  assert selection.rank_by_variance([rng.permutation(row) for _ in range(50)]).tolist() == list(
      range(50))


def test_items_never_seen_come_last():
  assert selection.rank_by_variance([[NAN, NAN], [1, 1], [0, 1], [NAN, NAN]]).tolist() == [
      2, 1, 0, 3]


def test_the_standard_deviation_ranks_alike():
  """As in the authors' code; and a constant added to an item's accuracies changes nothing."""
  accuracy = np.random.default_rng(1).integers(0, 9, size=(40, 8)) / 8  # sums without rounding
  order = selection.rank_by_variance(accuracy)
  deviations = accuracy.std(axis=1)[order]
  assert np.all(np.diff(deviations) <= 1e-12)
  shifts = np.random.default_rng(2).integers(0, 4, size=(40, 1))
  np.testing.assert_array_equal(selection.rank_by_variance(accuracy + shifts), order)


def test_sizes():
  assert selection.rank_by_variance(np.zeros((0, 3))).tolist() == []
  assert selection.rank_by_variance(np.zeros((1, 1))).tolist() == [0]
  np.testing.assert_array_equal(selection.score_variance(np.zeros((2, 0))), [NAN, NAN])
  with pytest.raises(ValueError, match="accuracy: got the shape"):
    selection.score_variance(np.zeros(3))
