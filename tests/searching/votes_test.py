"""Votes by hand: classes of answers, ties, weights, and solutions without an answer."""

import numpy as np
import pytest

from rlreason.rewards import vote_answer
from rlreason.rewards.verifier import match_text
from rlreason.searching import votes


def same(left, right):
  return {left, right} <= {"a", "A"} or {left, right} <= {"A", "@"}


def test_equal_answers_are_one_class_also_by_way_of_a_third():
  assert votes.merge_equal(
      ["a", None, "b", "@", "A", "b"], ["a", None, "b", "@", "A", "b"], same) == [
          0, None, 1, 0, 0, 1]
  assert votes.merge_equal([], [], same) == []


def test_a_verifier_is_asked_in_both_orders():
  accepts = lambda gold, text: (gold, text) == ("x", "y")
  for answers in (["x", "y"], ["y", "x"]):
    assert votes.merge_equal(answers, answers, accepts) == [0, 0]


def test_equal_numbers_are_one_vote_and_what_cannot_be_read_is_none():
  texts = ["\\boxed{0.5}", "\\boxed{1/2}", "nothing", "\\boxed{\\frac{2}{4}}", "\\boxed{3}"]
  cast = [vote_answer(text) for text in texts]
  answers = ["0.5", "1/2", None, "\\frac{2}{4}", "3"]
  assert votes.merge_equal(cast, answers, match_text) == [0, 0, None, 0, 1]


def test_the_most_votes_win_and_no_answer_is_no_vote():
  assert votes.choose([None, None, None, 1, 2, 1], None, "vote") == 3
  assert votes.choose([2, 1, 1, 2], None, "vote") == 0  # a tie: the first
  assert votes.choose([2, 1, 1, 2], [0.1, 0.2, 0.9, 0.3], "vote") == 3  # its best
  assert votes.choose([], None, "vote") is None
  assert votes.choose([None, None], None, "vote") == 0
  assert votes.choose([None, None], [0.1, 0.2], "vote") == 1


def test_weighted_votes():
  """0.9 against 0.5 + 0.5; then 0.9 against 0.3 + 0.3. Scores below 0 weigh nothing."""
  assert votes.choose([0, 1, 1], [0.9, 0.5, 0.5], "weighted_vote") == 1
  assert votes.choose([0, 1, 1], [0.9, 0.3, 0.3], "weighted_vote") == 0
  assert votes.choose([0, 1, 1], [0.1, -1, -1], "weighted_vote") == 0
  assert votes.choose([None, 1], [0.9, 0.1], "weighted_vote") == 1


def test_the_best_needs_no_answer():
  assert votes.choose([0, None, 1], [0.1, 0.9, 0.3], "best") == 1
  assert votes.choose([0, 1], [0.5, 0.5], "best") == 0


def test_choices_without_scores_are_refused():
  with pytest.raises(ValueError, match="scores: got None, allowed: a score for each"):
    votes.choose([1], None, "best")
  with pytest.raises(ValueError, match="scores: got 2, allowed: 1, one for each"):
    votes.choose([1], [0.1, 0.2], "best")


def test_votes_help_where_the_right_answer_is_the_mode_and_hurt_where_it_is_not():
  """Accuracy over K, exactly so in expectation; here by 4,000 draws of 3 answers."""
  random = np.random.default_rng(0)
  for right, is_rising in ((0.5, True), (0.2, False)):
    other = (1 - right) * np.array([0.8, 0.2])
    draws = random.choice(3, p=[right, *other], size=(4000, 15))
    accuracy = [np.mean([votes.choose(row[:k].tolist(), None, "vote") is not None
                         and row[votes.choose(row[:k].tolist(), None, "vote")] == 0
                         for row in draws]) for k in (1, 5, 15)]
    assert accuracy == sorted(accuracy, reverse=not is_rising)
