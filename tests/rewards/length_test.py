"""Tests of rlreason.rewards.length."""

import math

import numpy as np
import pytest

from rlreason.rewards import RewardSpec, combine_rewards, length

SHARED = {  # of one group each, with the options that must be given
    "kimi": length.kimi_length_reward,
    "arora": lambda *texts, **columns: length.arora_length_reward(*texts, **{"a": 0.5, **columns}),
    "l1": lambda *texts, **columns: length.l1_length_reward(*texts, target=20, a=0.01, **columns),
    "l1_max": lambda *texts, **columns: length.l1_max_length_reward(
        *texts, target=20, a=0.01, **columns),
}


def pay(function, tokens, is_right, group=None, **options):
  count = len(tokens)
  group = [0] * count if group is None else group
  return function([""] * count, [""] * count, tokens=tokens, is_right=is_right, group=group,
                  **options)


def sigmoid(x):
  return 1 / (1 + math.exp(-x))


def test_kimi_by_hand():
  assert pay(length.kimi_length_reward, [10, 20, 30], [True] * 3) == [0.5, 0.0, -0.5]
  assert pay(length.kimi_length_reward, [10, 20, 30], [False] * 3) == [0.0, 0.0, -0.5]
  assert pay(length.kimi_length_reward, [10, 20, 30, 30], [0, 1, 1, 0]) == [0, 0, -0.5, -0.5]
  assert pay(length.kimi_length_reward, [7, 7], [True, False]) == [0.0, 0.0]


def test_arora_by_hand():
  # Right ones of 10 and 30 tokens: mean 20, deviation 10; a wrong one is in neither and gets 0.
  found = pay(length.arora_length_reward, [10, 30, 500], [True, True, False], a=0.4)
  assert found == pytest.approx([-0.4 * sigmoid(-1), -0.4 * sigmoid(1), 0.0])
  # Right answers without spread, one alone, and none.
  assert pay(length.arora_length_reward, [9, 9, 1], [1, 1, 0], a=0.4) == [-0.2, -0.2, 0.0]
  assert pay(length.arora_length_reward, [9], [True], a=1) == [-0.5]
  assert pay(length.arora_length_reward, [9, 1], [False, False], a=1) == [0.0, 0.0]


def test_l1_by_hand():
  exact = pay(length.l1_length_reward, [1000, 1600, 400], [True, False, True], target=1000)
  assert exact == pytest.approx([0.0, -0.18, -0.18])  # 3e-4 * 600
  # 1/2 at the target, 0.5 + 0.3 for 1000 below it, and within 0 and 1.
  shorter = pay(length.l1_max_length_reward, [5000, 4000, 1, 9000, 4000], [1, 1, 1, 1, 0],
                target=5000)
  assert shorter == pytest.approx([-0.5, -0.2, 0.0, -1.0, 0.0])


def test_dapo_by_hand():
  tokens = [1, 16384, 18432, 20480, 30000]
  found = length.overlong_reward(
      [""] * 5, [""] * 5, max_length=20480, cache=4096, tokens=tokens)
  assert found == [0.0, 0.0, -0.5, -1.0, -1.0]


def test_with_the_verifier_they_sum_to_the_rewards_of_their_sources():
  """1 - a sigmoid(...), the clipped term itself, and 1 + lambda, for right answers; 0 for wrong."""
  columns = dict(answer=["1"] * 3, tokens=[10, 30, 20], group=[0] * 3)
  texts = ["\\boxed{1}", "\\boxed{1}", "\\boxed{2}"]

  def total(name, **options):
    specs = [RewardSpec(name=name, options=options), RewardSpec(name="verifier")]
    return combine_rewards(specs)([""] * 3, texts, **columns).total

  assert total("arora_length", a=0.2) == pytest.approx(
      [1 - 0.2 * sigmoid(-1), 1 - 0.2 * sigmoid(1), 0.0])
  assert total("l1_max_length", target=20, a=0.02) == pytest.approx([0.7, 0.3, 0.0])
  assert total("l1_length", target=20, a=0.02) == pytest.approx([0.8, 0.8, 0.0])
  assert total("kimi_length") == pytest.approx([1.5, 0.5, 0.0])


@pytest.mark.parametrize("name", SHARED)
def test_groups_are_apart(name):
  """Completions of other prompts change nothing, wherever their rows are."""
  function = SHARED[name]
  first, second = ([3, 9, 30], [1, 0, 1]), ([100, 50], [1, 1])
  apart = [pay(function, *first), pay(function, *second)]
  joined = pay(function, [100, 3, 9, 50, 30], [1, 1, 0, 1, 1], group=[7, 2, 2, 7, 2])
  assert [joined[i] for i in (1, 2, 4)] == apart[0] and [joined[i] for i in (0, 3)] == apart[1]


@pytest.mark.parametrize("name", SHARED)
def test_an_unknown_verdict_takes_part_in_nothing(name):
  function = SHARED[name]
  found = pay(function, [3, 9999, 30], [True, None, False])
  assert found[1] is None and [found[0], found[2]] == pay(function, [3, 30], [True, False])
  # Nor in the accuracy: half of what is known is right.
  assert pay(function, [3, 9999, 30], [True, None, False], min_accuracy=0.5) == found
  assert pay(function, [3, 30], [None, None]) == [None, None]


@pytest.mark.parametrize("name", SHARED)
def test_only_groups_that_are_good_enough_are_paid(name):
  tokens, group = [10, 20, 30, 40] * 2, [0] * 4 + [1] * 4
  is_right = [True, True, True, False] + [True, False, False, False]
  always = pay(SHARED[name], tokens, is_right, group=group)
  for least, paid in ((0.0, (0, 1)), (0.25, (0, 1)), (0.3, (0,)), (0.75, (0,)), (1.0, ())):
    found = np.array(pay(SHARED[name], tokens, is_right, group=group, min_accuracy=least))
    for place in (0, 1):
      rows = slice(4 * place, 4 * place + 4)
      np.testing.assert_array_equal(found[rows], np.array(always)[rows] * (place in paid))


@pytest.mark.parametrize("name", ["kimi", "arora", "l1_max"])
def test_shorter_right_answers_are_never_paid_less(name):
  tokens = [5, 8, 13, 21, 34, 55]
  found = pay(SHARED[name], tokens, [True] * 6)
  assert found == sorted(found, reverse=True) and found[0] > found[-1]


@pytest.mark.parametrize("name", ["kimi", "arora"])
def test_only_the_place_in_the_group_counts(name):
  """The same after shifting and stretching all lengths."""
  is_right = [True, False, True, True]
  np.testing.assert_allclose(
      pay(SHARED[name], [5, 8, 13, 21], is_right),
      pay(SHARED[name], [100 + 3 * count for count in (5, 8, 13, 21)], is_right), rtol=1e-12)


@pytest.mark.parametrize("name", SHARED)
def test_groups_of_one_and_of_none(name):
  assert all(math.isfinite(value) for value in pay(SHARED[name], [4], [True]))
  assert all(math.isfinite(value) for value in pay(SHARED[name], [0, 0], [True, True]))
  assert pay(SHARED[name], [], []) == []


@pytest.mark.parametrize("function, options, message", [
    (length.kimi_length_reward, dict(min_accuracy=1.5), "min_accuracy: got 1.5, allowed: 0 to 1"),
    (length.kimi_length_reward, dict(min_accuracy=math.nan), "min_accuracy: got nan, allowed"),
    (length.arora_length_reward, dict(a=2), "a: got 2, allowed: 0 to 1"),
    (length.l1_length_reward, dict(target=0), "target: got 0, allowed: a number of tokens above 0"),
    (length.l1_max_length_reward, dict(target=9, a=-1), "a: got -1, allowed: 0 or more"),
])
def test_options_out_of_range(function, options, message):
  with pytest.raises(ValueError, match=message):
    pay(function, [1], [True], **options)


@pytest.mark.parametrize("options, message", [
    (dict(max_length=0, cache=1), "max_length: got 0, allowed: a"),
    (dict(max_length=9, cache=0), "cache: got 0, allowed: above 0"),
    (dict(max_length=9, cache=10), "cache: got 10, allowed: above 0 and at most max_length=9"),
    (dict(max_length=9, cache=9), "tokens: got None")])
def test_options_of_the_overlong_reward(options, message):
  with pytest.raises(ValueError, match=message):
    length.overlong_reward([""], [""], **options)


def test_missing_columns():
  with pytest.raises(ValueError, match="tokens, group, is_right: got None"):
    length.kimi_length_reward([""], [""], tokens=[1], group=[0])
