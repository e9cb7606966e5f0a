"""Tests of rlreason.rewards.majority."""

import pytest

from rlreason.rewards import RewardSpec, WorkerPool, combine_rewards, majority_reward


def box(*answers):
  return [f"so \\boxed{{{answer}}}" for answer in answers]


def pay(texts, group=None, **options):
  return majority_reward(
      [""] * len(texts), texts, group=[0] * len(texts) if group is None else group, **options)


def test_most_of_a_group_are_the_label():
  assert pay(box(7, 7, 5, 7, 3)) == [1, 1, 0, 1, 0]
  # Equal in value is equal; what has no answer does not vote, and is not paid.
  assert pay(box("1/2", "0.5", 3) + ["3 I think"]) == [1, 1, 0, 0]
  assert pay(["none"] * 3 + box(4)) == [0, 0, 0, 1]
  assert pay(["none", "none"]) == [0, 0]
  assert pay([]) == []


def test_of_a_tie_the_first_counts_and_each_group_has_its_own_vote():
  assert pay(box(2, 1, 1, 2)) == [1, 0, 0, 1]
  assert pay(box(2, 1, 1, 5, 1, 1), group=[0, 0, 0, 4, 4, 4]) == [0, 1, 1, 0, 1, 1]
  assert pay(box(2, 1, 1, 1), group=[0, 1, 0, 1]) == [1, 1, 0, 1]


def test_where_the_answer_is_and_what_is_missing():
  assert pay(["a #### 4", "b #### 4", "#### 5"], answer_after="####") == [1, 1, 0]
  assert pay(["\\boxed{1} then \\boxed{2}", *box(1)], which_box="first") == [1, 1]
  with pytest.raises(ValueError, match="group: got None"):
    majority_reward([""], box(1))
  with pytest.raises(ValueError, match="majority.*which_box: got 'middle'"):
    RewardSpec(name="majority", options=dict(which_box="middle"))


def test_it_is_built_in_and_reads_no_gold_answer():
  with WorkerPool(num_workers=1) as pool:
    reward = combine_rewards([RewardSpec(name="majority")], pool=pool)
    assert reward([""] * 3, box(7, 7, 5), group=[0, 0, 0]).total == [1, 1, 0]
