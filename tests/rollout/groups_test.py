"""Groups of several samplings: which ones a step trains on."""

import numpy as np

from rlreason.rewards import RewardResult
from rlreason.rollout.groups import choose_groups
from rlreason.rollout.scored import Sampled, Scored
from tests.rollout.made import make_rollout


def make_sampled(rewards, prompts=3, first=0):
  texts = [f"{'a ' * (i % 3)}b <eos>" for i in range(len(rewards))]
  rollout = make_rollout(texts, prompts=prompts)
  scored = Scored(
      completions=texts, rewards=RewardResult(list(rewards), {"x": list(rewards)}, {"errors": 1}),
      totals=np.array([value or 0.0 for value in rewards], np.float32),
      is_scored=np.array([value is not None for value in rewards]),
      lengths=rollout.token_mask.sum(axis=1), reasoning_lengths=np.zeros(len(rewards), int))
  return Sampled([{"prompt": str(first + i)} for i in range(len(rewards) // 2)], rollout, scored)


def test_useful_groups_go_first_and_others_fill_up():
  parts = [make_sampled([1, 1, 1, 0, None, 0]), make_sampled([0, 0, 0, 1], prompts=5, first=3)]
  np.testing.assert_array_equal(parts[0].differs(2), [False, True, False])
  chosen = choose_groups(parts, 3, 2)
  assert [row["prompt"] for row in chosen.rows] == ["0", "1", "4"]
  np.testing.assert_array_equal(chosen.scored.totals, [1, 1, 1, 0, 0, 1])
  assert chosen.rollout.prompt_tokens.shape == (6, 5)
  assert not chosen.rollout.prompt_mask[0, :2].any() and chosen.rollout.prompt_mask[-1].all()
  assert chosen.scored.rewards.parts["x"] == [1, 1, 1, 0, 0, 1]
  assert chosen.scored.rewards.counts == {"errors": 2}


def test_groups_all_right_or_all_wrong_are_of_no_use_to_accuracy():
  """Their rewards differ by a penalty of length; one completion could not be scored."""
  sampled = make_sampled([2.0, 1.5, -0.5, 0.0, 2.0, 0.0, None, 1.0], prompts=3)
  verdicts = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
  sampled.scored.rewards.parts["verifier"] = verdicts
  np.testing.assert_array_equal(sampled.differs(2), [True, True, True, False])
  np.testing.assert_array_equal(sampled.differs(2, "accuracy"), [False, False, True, False])
  chosen = choose_groups([sampled], 1, 2, "accuracy")
  assert [row["prompt"] for row in chosen.rows] == ["2"]
