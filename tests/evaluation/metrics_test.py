import itertools
import math

import numpy as np
import pytest

from rlreason.evaluation import metrics


def test_pass_at_k_by_hand():
  assert metrics.pass_at_k(4, 1, 2) == 0.5
  assert metrics.pass_at_k(4, 0, 2) == 0.0
  assert metrics.pass_at_k(4, 3, 2) == 1.0
  assert metrics.pass_at_k(5, 2, 2) == pytest.approx(1 - 3 / 10)


@pytest.mark.parametrize("n, c, k", [(1, 1, 1), (5, 2, 3), (6, 1, 6), (7, 3, 2)])
def test_pass_at_k_is_the_mean_over_all_subsets(n, c, k):
  subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
  assert metrics.pass_at_k(n, c, k) == pytest.approx(np.mean([any(subset) for subset in subsets]))


def test_pass_at_1_is_accuracy_and_large_numbers_are_stable():
  assert metrics.pass_at_k(7, 3, 1) == pytest.approx(3 / 7)
  # log(1 - value) = sum of log(1 - k/i): far below what a difference of floats could hold.
  assert metrics.pass_at_k(10_000, 1, 1) == 1e-4
  assert metrics.pass_at_k(10**6, 3, 2) == pytest.approx(6e-6, rel=1e-5)
  assert metrics.pass_at_k(2000, 1000, 500) == 1.0
  values = [metrics.pass_at_k(64, 5, k) for k in range(1, 65)]
  assert values == sorted(values) and values[-1] == 1.0


@pytest.mark.parametrize("n, c, k", [(4, 5, 2), (4, -1, 2), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
  with pytest.raises(ValueError, match="(num_correct|k): got .*, allowed: "):
    metrics.pass_at_k(n, c, k)


def test_maj_at_k_by_hand():
  right, wrong = True, False
  assert metrics.maj_at_k(["7", "8", "7"], [right, wrong, right], 3) == 1.0
  assert metrics.maj_at_k(["8", "8", "7"], [wrong, wrong, right], 3) == 0.0
  assert metrics.maj_at_k(["8", "7", "7", "8"], [wrong, right, right, wrong], 4) == 0.5
  assert metrics.maj_at_k(["8", "7", "9"], [wrong, right, wrong], 3) == pytest.approx(1 / 3)
  assert metrics.maj_at_k(["8", "7", "7"], [wrong, right, right], 1) == 0.0
  # Those without an answer do not vote; those that could not be scored neither.
  assert metrics.maj_at_k([None, None, "7"], [wrong, wrong, right], 3) == 1.0
  assert metrics.maj_at_k(["8", "8", "7"], [None, None, right], 3) == 1.0
  assert metrics.maj_at_k([None, None], [wrong, wrong], 2) == 0.0
  with pytest.raises(ValueError, match="k: got .*, allowed: 1 to "):
    metrics.maj_at_k(["7"], [right], 2)
  with pytest.raises(ValueError, match="is_correct: got 2 verdicts, allowed: 1, one"):
    metrics.maj_at_k(["7"], [right, wrong], 1)


def test_maj_of_fewer_votes_takes_every_sample_once():
  """Of pairs: right, a tie, and a third that is no pair."""
  right, wrong = True, False
  verdicts = [right, right, wrong, right, wrong]
  assert metrics.maj_of_parts(["7", "7", "8", "7", "8"], verdicts, 2) == 0.75
  # A part in which nothing could be scored says nothing.
  assert metrics.maj_of_parts(["7", "7", "8", "8"], [right, right, None, None], 2) == 1.0
  assert metrics.maj_of_parts(["8", "8"], [None, None], 2) is None


def test_the_numbers_of_samples_that_are_reported():
  assert [metrics.counts_up_to(n) for n in (1, 2, 3, 8, 12)] == [
      [1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]


def test_maj_is_at_most_pass_and_does_not_depend_on_order():
  rng = np.random.default_rng(0)
  for _ in range(50):
    answers = rng.integers(0, 4, 6).tolist()
    correct = [answer == 2 for answer in answers]
    value = metrics.maj_at_k(answers, correct, 6)
    assert value <= metrics.pass_at_k(6, sum(correct), 6)
    order = rng.permutation(6)
    assert value == metrics.maj_at_k([answers[i] for i in order], [correct[i] for i in order], 6)


def test_wilson_interval_by_hand():
  estimate = metrics.proportion([True] * 8 + [False] * 2)
  assert estimate["value"] == 0.8 and estimate["n"] == 10
  assert estimate["low"] == pytest.approx(0.49016, abs=1e-5)
  assert estimate["high"] == pytest.approx(0.94332, abs=1e-5)
  # 0 of n: [0, z² / (n + z²)].
  estimate = metrics.proportion([False] * 20)
  assert estimate["low"] == 0.0
  assert estimate["high"] == pytest.approx(1.96**2 / (20 + 1.96**2), abs=1e-4)
  assert metrics.proportion([True] * 20)["high"] == 1.0


def test_shares_of_samples_by_hand():
  """Of 0, 0.5, 0.5 and 1 the squares are 0.5, of 0, 0, 1 and 1 they were 1.

  With z² / 4 = 0.9604 added to both the effective number of problems is 4 * 1.9604 / 1.4604, that
  is 5.37, and Wilson's interval of a half of these is 0.5 -+ 0.3229.
  """
  estimate = metrics.share([0.0, 0.5, 0.5, 1.0])
  assert estimate == pytest.approx(dict(value=0.5, low=0.17710, high=0.82290, n=4), abs=1e-5)


@pytest.mark.parametrize("values", [[0.0] * 7, [1.0] * 7, [0.5] * 7, [0.0] * 6 + [0.125]])
def test_an_interval_of_shares_has_a_width_and_holds_its_value(values):
  estimate = metrics.share(values)
  assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
  assert estimate["high"] - estimate["low"] > 0.1
  # All wrong in n problems: [0, z² / (n + z²)], however many samples each has.
  assert metrics.mean_share([[False] * 8] * 7) == metrics.proportion([False] * 7) == dict(
      value=0.0, low=0.0, high=pytest.approx(3.8415 / 10.8415, abs=1e-4), n=7)


def test_intervals_of_shares_hold_the_truth_as_often_as_they_say():
  """8 samples of each of 60 problems, most of them hopeless."""
  rng = np.random.default_rng(0)
  held = []
  for _ in range(400):
    chances = rng.beta(0.1, 3.0, size=60)
    estimate = metrics.share((rng.binomial(8, chances) / 8).tolist())
    held.append(estimate["low"] <= 0.1 / 3.1 <= estimate["high"])
  assert np.mean(held) >= 0.95


def test_a_paired_difference_by_hand():
  """2 of 10 problems are solved by the second alone.

  With +1 and -1 added the mean is 2 / 12 and that of the squares 4 / 12, so that the interval is
  0.1667 -+ 1.96 sqrt((0.3333 - 0.0278) / 12).
  """
  first, second = [1.0] * 3 + [0.0] * 7, [1.0] * 5 + [0.0] * 5
  estimate = metrics.paired_difference(first, second)
  assert estimate == pytest.approx(dict(value=0.2, low=-0.1461, high=0.4794, n=10), abs=1e-4)
  # The same the other way round, and no difference at all: 0 -+ 1.96 sqrt(2) / 12.
  other = metrics.paired_difference(second, first)
  assert (other["low"], other["high"]) == pytest.approx((-0.4794, 0.1461), abs=1e-4)
  none = metrics.paired_difference(first, first)
  assert none == pytest.approx(dict(value=0.0, low=-0.2310, high=0.2310, n=10), abs=1e-4)
  everything = metrics.paired_difference([0.0] * 10, [1.0] * 10)
  assert 0.4 < everything["low"] < everything["high"] == everything["value"] == 1.0
  assert metrics.paired_difference([], [])["n"] == 0
  # Problems that both solve alike say nothing of the difference, but narrow the interval.
  assert metrics.paired_difference(first * 9, first * 9)["high"] < 0.04


def test_a_mean_over_seeds_by_hand():
  """0.2, 0.3 and 0.4: a standard deviation of 0.1, and t = 4.3027 with 2 degrees of freedom."""
  runs = [dict(value=value, low=value - 0.01, high=value + 0.01, n=50)
          for value in (0.2, 0.3, 0.4)]
  found = metrics.over_seeds(runs, is_share=True)
  half = 4.302653 * 0.1 / 3**0.5
  assert found == dict(value=pytest.approx(0.3), low=pytest.approx(0.3 - half), n=50,
                       high=pytest.approx(0.3 + half), std=pytest.approx(0.1),
                       values=[0.2, 0.3, 0.4])
  wide = metrics.over_seeds([runs[0], runs[2]], is_share=True)  # t = 12.7 of one degree
  assert (wide["low"], wide["high"]) == (0.0, 1.0)
  assert metrics.over_seeds([runs[0], runs[2]], is_share=False)["low"] < -0.5
  # Where nothing was right in any run the interval is that of each run.
  nothing = metrics.over_seeds([metrics.proportion([False] * 50)] * 3, is_share=True)
  assert (nothing["low"], nothing["high"]) == (0.0, pytest.approx(3.8415 / 53.8415, abs=1e-4))
  one = metrics.over_seeds([runs[0], dict(value=None, low=None, high=None, n=0)], is_share=True)
  assert one == dict(value=0.2, low=pytest.approx(0.19), high=pytest.approx(0.21), n=50, std=0.0,
                     values=[0.2])


def test_old_names_of_metrics_are_read():
  old = {"greedy": 1, "mean": 2, "pass@8": 3, "maj@8": 4}
  assert metrics.with_current_names(old) == {"greedy": 1, "avg@8": 2, "pass@8": 3, "maj@8": 4}
  new = {"avg@8": 2, "pass@1": 2, "pass@8": 3}
  assert metrics.with_current_names(new) == new


def test_scores_that_are_missing_are_left_out():
  assert metrics.proportion([True, None, False, None]) == metrics.proportion([True, False])
  empty = metrics.proportion([None])
  assert math.isnan(empty["value"]) and (empty["low"], empty["high"], empty["n"]) == (0.0, 1.0, 0)
  assert metrics.mean([])["n"] == 0


def test_the_bootstrap_is_seeded_and_near_the_normal_interval():
  values = np.random.default_rng(1).normal(3.0, 2.0, 400)
  estimate = metrics.mean(values)
  assert estimate == metrics.mean(values) != metrics.mean(values, seed=1)
  half = 1.96 * values.std() / 20
  assert estimate["value"] == pytest.approx(values.mean())
  assert estimate["low"] == pytest.approx(values.mean() - half, abs=0.1 * half)
  assert estimate["high"] == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_pass_at_k_over_problems():
  rows = [[True, False, False, False], [False] * 4, [True] * 4]
  estimate = metrics.mean_pass_at_k(rows, 2)
  assert estimate["value"] == pytest.approx(0.5) and estimate["n"] == 3
  assert estimate["low"] <= 0.5 <= estimate["high"]
  # All samples used: each problem is 0 or 1, with Wilson's interval.
  assert metrics.mean_pass_at_k(rows, 4) == metrics.proportion([True, False, True])
  # A problem with too few scored samples says nothing.
  assert metrics.mean_pass_at_k([*rows, [True, None, None, None]], 2)["n"] == 3


def test_shares_are_of_problems():
  estimate = metrics.mean_share([[True, False, False, False], [False] * 4, [True] * 4])
  assert estimate["value"] == pytest.approx(5 / 12) and estimate["n"] == 3
  # Where each problem is all or nothing, Wilson's interval: nothing in 3 is not nothing for sure.
  assert metrics.mean_share([[False] * 4] * 3) == metrics.proportion([False] * 3)


def test_maj_at_k_over_problems():
  answers = [["1", "1", "2"], ["3", None, "4"], ["5", "5", "5"]]
  correct = [[True, True, False], [False, False, True], [False, False, False]]
  estimate = metrics.mean_maj_at_k(answers, correct, 3)
  assert estimate["value"] == pytest.approx(0.5) and estimate["n"] == 3
  # Each sample by itself: 2 of 3, 1 of 3 and none are right.
  assert metrics.mean_maj_at_k(answers, correct, 1)["value"] == pytest.approx((2 + 1 + 0) / 9)
  unknown = metrics.mean_maj_at_k([*answers, ["1"] * 3], [*correct, [None] * 3], 3)
  assert unknown == estimate


def test_maj_at_k_is_unknown_where_right_samples_cast_no_vote():
  """As with a custom verifier, which is right about texts without an answer to compare."""
  silent = [[None] * 3] * 2
  right = [[True, True, False], [False, True, None]]
  estimate = metrics.mean_maj_at_k(silent, right, 3)
  assert np.isnan(estimate["value"]) and estimate["n"] == 0
  # A model that never answers has a majority of none: that is wrong, and known to be.
  assert metrics.mean_maj_at_k(silent, [[False] * 3] * 2, 3)["value"] == 0.0
  one_votes = metrics.mean_maj_at_k([[None] * 3, [None, "7", None]], right, 3)
  assert one_votes["value"] == 0.5 and one_votes["n"] == 2


def test_outcome_efficiency_by_hand():
  assert metrics.outcome_efficiency([39], [901])["value"] == pytest.approx(0.0433, abs=5e-5)
  nothing = metrics.outcome_efficiency([None, None], [901, 5])
  assert nothing["value"] == nothing["low"] == 0.0 < nothing["high"]
  # 1/2, 1 and 0.
  assert metrics.outcome_efficiency([10, 7, None], [20, 7, 9])["value"] == pytest.approx(0.5)
  assert metrics.outcome_efficiency([], [])["n"] == 0


def test_tokens_per_right_answer_by_hand():
  estimate = metrics.tokens_per_right([10, 20, 30], [True, False, True])
  assert estimate["value"] == 30.0 and estimate["n"] == 3
  assert estimate["low"] <= 30.0 and math.isnan(estimate["high"])  # draws of the wrong one alone
  assert metrics.tokens_per_right([7] * 9, [True] * 9) == dict(value=7.0, low=7.0, high=7.0, n=9)
  nothing = metrics.tokens_per_right([10, 20], [False, False])
  assert math.isnan(nothing["value"]) and nothing["n"] == 2
  assert math.isnan(metrics.tokens_per_right([], [])["value"])


def test_tokens_per_right_answer_has_an_interval():
  """About the mean length over the accuracy: 20 / 0.5, give or take."""
  rng = np.random.default_rng(0)
  estimate = metrics.tokens_per_right(rng.integers(10, 31, size=400), rng.random(400) < 0.5)
  assert 33 < estimate["low"] < estimate["value"] < estimate["high"] < 50
