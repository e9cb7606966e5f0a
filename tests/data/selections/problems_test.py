"""Tests of rlreason.data.selections.problems."""

import numpy as np
import pytest

from rlreason.data.selections import problems
from tests.data.rows import completion

NAN = np.nan


def test_variances_by_hand():
  # Means 1/2, 1/2, 1: deviations 1/2; 1/4 and 1/4; none.
  found = problems.score_variance(np.float32([[0, 1], [0.25, 0.75], [1, 1]]))
  np.testing.assert_array_equal(found, [0.25, 0.0625, 0.0])
  np.testing.assert_array_equal(
      problems.score_variance([[0, NAN, 1], [NAN, 0.5, NAN], [NAN] * 3]), [0.25, 0.0, NAN])


def test_ties_keep_their_order():
  accuracy = np.float32([[1, 1], [0, 1], [0, 0.5], [1, 0]])
  assert problems.rank_by_variance(accuracy).tolist() == [1, 3, 2, 0]
  assert problems.rank_by_variance(np.ones((5, 3))).tolist() == [0, 1, 2, 3, 4]
  # The same accuracies in another order are a tie to the last bit.
  rng = np.random.default_rng(0)
  row = rng.random(7)
  assert problems.rank_by_variance([rng.permutation(row) for _ in range(50)]).tolist() == list(
      range(50))


def test_items_never_seen_come_last():
  assert problems.rank_by_variance([[NAN, NAN], [1, 1], [0, 1], [NAN, NAN]]).tolist() == [
      2, 1, 0, 3]


def test_the_standard_deviation_ranks_alike():
  """As in the authors' code; and a constant added to an item's accuracies changes nothing."""
  accuracy = np.random.default_rng(1).integers(0, 9, size=(40, 8)) / 8  # sums without rounding
  order = problems.rank_by_variance(accuracy)
  deviations = accuracy.std(axis=1)[order]
  assert np.all(np.diff(deviations) <= 1e-12)
  shifts = np.random.default_rng(2).integers(0, 4, size=(40, 1))
  np.testing.assert_array_equal(problems.rank_by_variance(accuracy + shifts), order)


def test_sizes():
  assert problems.rank_by_variance(np.zeros((0, 3))).tolist() == []
  assert problems.rank_by_variance(np.zeros((1, 1))).tolist() == [0]
  np.testing.assert_array_equal(problems.score_variance(np.zeros((2, 0))), [NAN, NAN])
  with pytest.raises(ValueError, match="accuracy: got the shape"):
    problems.score_variance(np.zeros(3))


# Problems, from rows.


def accuracy(question, right, count=4, step=0):
  return dict(prompt=f"q{question}", answer=str(question), right=right, count=count, step=step)


def names(rows):
  return [row["prompt"] for row in rows]


PROBLEM_0 = {"prompt": "q0", "answer": "0"}


def test_hard_questions_of_completions():
  rows = [completion(q, [i, 1], i < right) for i in range(10)
          for q, right in enumerate((3, 4, 0, 10))]
  assert names(problems.hard_questions(rows)) == ["q0", "q2"]  # 3 of 10 is 0.3
  assert problems.hard_questions(rows)[0] == PROBLEM_0 | {"prompt_ids": [100]}
  of = lambda low, high: names(
      problems.hard_questions(rows, min_pass_rate=low, max_pass_rate=high))
  assert of(0.0, 0.0) == ["q2"]  # never solved
  assert of(0.01, 0.99) == ["q0", "q1"]  # as DAPO's
  assert of(1.0, 1.0) == ["q3"]
  assert of(0.0, 1.0) == ["q0", "q1", "q2", "q3"]


def test_hard_questions_of_accuracies():
  rows = [accuracy(0, 0), accuracy(1, 4), accuracy(0, 2), accuracy(1, 0), accuracy(2, 0, count=0)]
  assert problems.hard_questions(rows) == [PROBLEM_0]  # 2 of 8, and 4 of 8; q2 has no verdict
  assert names(problems.hard_questions(rows, max_pass_rate=0.5)) == ["q0", "q1"]
  unknown = [completion(0, [1], None), completion(0, [2], False), completion(1, [1], None)]
  assert names(problems.hard_questions(unknown)) == ["q0"]


def test_most_variable():
  rows = [accuracy(q, right, step=step) for step, of in enumerate(
      [(4, 0, 2, 0), (4, 4, 2, 2), (4, 0, 4, 0), (4, 4, 4, 2)]) for q, right in enumerate(of)]
  # Accuracies 1 1 1 1; 0 1 0 1; .5 .5 1 1; 0 .5 0 .5: variances 0, 1/4, 1/16, 1/16.
  assert names(problems.most_variable(rows, count=9)) == ["q1", "q2", "q3", "q0"]
  assert problems.most_variable(rows, count=1) == [{"prompt": "q1", "answer": "1"}]
  # Times without a verdict are none; seen once does not vary; never is left out.
  few = [accuracy(0, 1), accuracy(1, 0), accuracy(0, 0, count=0), accuracy(2, 0, count=0),
         accuracy(1, 1)]
  assert names(problems.most_variable(few, count=3)) == ["q1", "q0"]


def test_problems_of_no_rows_and_bad_options():
  assert problems.hard_questions([]) == problems.most_variable([], count=1) == []
  for low, high in ((-0.1, 0.5), (0.6, 0.5), (0.5, 1.1)):
    with pytest.raises(ValueError, match="min_pass_rate, max_pass_rate: got .*allowed: 0 to 1"):
      problems.hard_questions([], min_pass_rate=low, max_pass_rate=high)
  with pytest.raises(ValueError, match="count: got 0, allowed: 1 or more"):
    problems.most_variable([], count=0)
  with pytest.raises(ValueError, match="rows: got row 0 without .'right', 'count'."):
    problems.most_variable([completion(0, [1], True)], count=1)
  with pytest.raises(ValueError, match="without .'is_right'."):
    problems.hard_questions([PROBLEM_0])
