"""The score of a reward model as a part of the reward."""

import pytest

from rlreason.rewards import RewardSpec, combine_rewards, learned_reward


def test_scores_as_they_are_and_squeezed():
  assert learned_reward(["p"] * 2, ["a", "b"], model_score=[-1.5, 2.0]) == [-1.5, 2.0]
  assert learned_reward(["p"] * 3, ["a"] * 3, model_score=[0.0, 1.0, -1.0], sigmoid=True) == (
      pytest.approx([0.5, 0.731059, 0.268941], abs=1e-6))
  assert learned_reward(["p"], ["a"], model_score=[-1000.0], sigmoid=True) == [0.0]


def test_satori_pays_verdict_bonus_and_score():
  """With s the sigmoid: s + .5 and s - 1 from a wrong start, s and s - 1.5 from a right one."""
  reward = combine_rewards([
      RewardSpec(name="verifier", weight=0.0), RewardSpec(name="restart", options={"bonus": 0.5}),
      RewardSpec(name="learned", options={"sigmoid": True})])
  result = reward(
      ["p"] * 6, ["\\boxed{1}", "\\boxed{2}"] * 3, answer=["1"] * 6,
      start=["wrong", "wrong", "right", "right", "", ""], model_score=[0.0] * 6)
  assert result.total == pytest.approx([1.0, -0.5, 0.5, -1.0, 0.5, -0.5])


def test_a_score_is_needed_for_each_completion():
  with pytest.raises(ValueError, match="model_score: got 1, allowed: 2"):
    learned_reward(["p"] * 2, ["a", "b"], model_score=[1.0])


def test_what_is_cut_off_gets_a_score_of_its_own():
  rows = dict(model_score=[3.0, 2.0], truncated=[True, False])
  assert learned_reward(["p"] * 2, ["a", "b"], unfinished_score=-1.0, **rows) == [-1.0, 2.0]
  assert learned_reward(["p"] * 2, ["a", "b"], **rows) == [3.0, 2.0]
  with pytest.raises(ValueError, match="'learned': truncated: got None with unfinished_score=-1"):
    learned_reward(["p"], ["a"], model_score=[3.0], unfinished_score=-1.0)
