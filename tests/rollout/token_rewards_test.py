"""Tests of rlreason.rollout.token_rewards: from positions in texts to tokens."""

import numpy as np
import pytest

from rlreason import losses, rollout as rollout_lib
from rlreason.rewards import RewardSpec, combine_rewards
from rlreason.rollout import placed_sums, token_rewards
from rlreason.tokenizers import WordTokenizer
from rlreason.types import Rollout

TOKENIZER = WordTokenizer.from_words(("one", "two", "three", ";", "tool"))
COMPLETIONS = ("one two ; tool three <eos>", "two <eos>", "", "one ; two ; three three")
WIDTH = 7


def make_rollout(completions=COMPLETIONS, given="tool"):
  ids = [TOKENIZER.encode(text) if text else [] for text in completions]
  tokens = np.array([row + [0] * (WIDTH - len(row)) for row in ids], np.int32)
  mask = np.arange(WIDTH) < np.array(list(map(len, ids)))[:, None]
  count = len(completions)
  prompt = np.full((count, 1), TOKENIZER.encode("one")[0], np.int32)
  return Rollout(
      prompt_tokens=prompt, prompt_mask=prompt > 0, completion_tokens=tokens, token_mask=mask,
      action_mask=mask & (tokens != TOKENIZER.encode(given)[0]),
      log_probs=np.zeros(mask.shape, np.float32), values=None,
      truncated=np.array([not text.endswith("<eos>") for text in completions]))


def scored(*functions, **options):
  specs = [RewardSpec(name=f"r{i}", function=function, step_separator=" ;", **options)
           for i, function in enumerate(functions)]
  rollout = make_rollout()
  rows = [{"prompt": "one", "answer": ""}] * len(COMPLETIONS)
  return rollout, rollout_lib.score(combine_rewards(specs), TOKENIZER, rows, rollout).rewards


def of_first(*placed):
  """A reward function that pays in the first completion, and nothing in the others."""
  return lambda prompts, completions, **_: [list(placed)] + [[]] * (len(completions) - 1)


# The text is "one two ; tool three"; tokens 0 to 5, the last of them the end.
@pytest.mark.parametrize("where, token", [
    (0, 0), (2, 0), (3, 1), (4, 1), (6, 1), (8, 2), (10, 3), (19, 4), (20, 5), (("step", 0), 1),
    (("step", 1), 4), (("turn", 0), 2), (("turn", 1), 5)])
def test_a_place_is_the_token_that_ends_it(where, token):
  rollout, result = scored(of_first((where, 2.0)))
  expected = np.zeros((len(COMPLETIONS), WIDTH), np.float32)
  expected[0, token] = 2.0
  np.testing.assert_array_equal(token_rewards(TOKENIZER, rollout, result), expected)
  assert result.total == [2.0, 0.0, 0.0, 0.0]
  np.testing.assert_array_equal(placed_sums(result), [2, 0, 0, 0])


def test_numbers_and_lists_of_several_rewards_add_up():
  weighted = [RewardSpec(name="a", weight=2.0, function=lambda p, c, **_: [
      [(0, 1.0), (0, 0.5), (6, -1.0)], 3.0, None, [(0, 1)]]),
              RewardSpec(name="b", function=of_first((6, 0.25))),
              RewardSpec(name="c", weight=0.0, function=of_first((0, 100.0))),
              RewardSpec(name="d", weight=0.5, function=lambda p, c, **_: [4, 4, 4, 4])]
  rollout = make_rollout()
  rows = [{"prompt": "one", "answer": ""}] * 4
  result = rollout_lib.score(
      combine_rewards(weighted, clip_range=(-10, 4)), TOKENIZER, rows, rollout).rewards
  assert result.parts == {"a": [0.5, 3.0, None, 1.0], "b": [0.25, 0, 0, 0], "c": [100.0, 0, 0, 0],
                          "d": [4.0] * 4}
  assert result.total == [3.25, 4.0, None, 4.0]  # of 8 in the second, the clip leaves 4
  paid = token_rewards(TOKENIZER, rollout, result)
  np.testing.assert_allclose(paid[0], [3.0, -1.75, 0, 0, 0, 0, 0])
  np.testing.assert_allclose(paid[3], [2.0, 0, 0, 0, 0, 0, 0])
  # What is paid at the end is the rest of the total, whatever the clip took.
  np.testing.assert_allclose(np.float32([3.25, 4, 0, 4]) - placed_sums(result), [2, 4, 0, 2])


def test_without_lists_there_is_nothing_within():
  rollout, result = scored(lambda prompts, completions, **_: [1.0] * len(completions))
  assert result.placed is None and result.potentials is None
  assert token_rewards(TOKENIZER, rollout, result) is None


def test_potentials_are_paid_as_their_differences():
  rises = lambda prompts, completions, **_: [
      [(6, 0.5), (0, 0.2), (("step", 1), 0.9)], [(0, 0.4)], [], [(0, 1.0), (5, 0.0)]]
  rollout, result = scored(rises, is_potential=True)
  assert result.total == [0.0] * 4 and result.parts == {"r0": [0.9, 0.4, 0.0, 0.0]}
  paid = token_rewards(TOKENIZER, rollout, result)
  # Token by token: one two ; (tool) three <eos>. In the end the potential is 0.
  np.testing.assert_allclose(
      paid[0], [0.2, 0.3, 0.0, 0.0, 0.4, -0.9, 0.0], atol=1e-6)
  np.testing.assert_allclose(paid[1], [0.4, -0.4, 0, 0, 0, 0, 0], atol=1e-6)
  np.testing.assert_allclose(paid.sum(axis=1), 0, atol=1e-6)
  after = np.float32([0.2, 0.5, 0.5, 0.5, 0.9, 0.9, 0.9])
  np.testing.assert_allclose(
      token_rewards(TOKENIZER, rollout, result, discount=0.5)[0],
      losses.potential_shaping(np.pad(after, (1, 0))[None, :-1], rollout.action_mask[:1],
                               discount=0.5)[0], atol=1e-6)


def test_the_potential_of_a_truncated_completion_goes_on_with_a_critic_s_value():
  rollout, result = scored(
      lambda prompts, completions, **_: [[(0, 0.5)]] * 2 + [[]] + [[(0, 0.5)]], is_potential=True)
  paid = token_rewards(TOKENIZER, rollout, result, bootstraps=True)
  np.testing.assert_allclose(paid.sum(axis=1), [0, 0, 0, 0.5], atol=1e-6)


def test_what_a_given_token_raises_is_paid_to_the_action_before_it():
  rollout, result = scored(of_first((12, 1.0)), is_potential=True)  # in "tool"
  paid = token_rewards(TOKENIZER, rollout, result)
  np.testing.assert_allclose(paid[0], [0, 0, 1.0, 0, 0, -1.0, 0], atol=1e-6)
