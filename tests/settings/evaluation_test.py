"""What an evaluation reads and counts, and what its sampler is given, by literal values."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest

from rlreason.rewards import RewardSpec, combine_rewards
from rlreason.rollout import generate as generate_lib
from rlreason.rollout.scored import score
from rlreason.sampling import SamplingOptions
from rlreason.training.settings.rl import RLStage
from rlreason.training.settings.sample import SampleStage
from tests.algorithms import tiny
from tests.settings import bases, fakes, of_runs

FIRST = RewardSpec(name="verifier", options={"which_box": "first"})


def found(config=bases.EVALUATION, **settings):
  return fakes.evaluation_trace(config, **settings)["found"]


def test_options_of_the_evaluation_go_before_those_of_the_training():
  """The second greedy completion boxes 1, which is right, and then 2."""
  last = dataclasses.replace(bases.EVALUATION, verifier_options={"which_box": "last"})
  assert found(grading=FIRST)["greedy"]["value"] == 1
  assert found(last, grading=FIRST)["greedy"]["value"] == 0.5
  box = dataclasses.replace(bases.EVALUATION, which_box="last")
  assert found(box, grading=FIRST)["greedy"]["value"] == 0.5


def test_votes_are_for_the_box_that_is_verified():
  """The first boxes are 1, 2 and 2, so that 2 wins, which is wrong; the last are all 2."""
  config = dataclasses.replace(bases.EVALUATION, num_samples=3)
  sampled = ["\\boxed{ 1 } \\boxed{ 2 } <eos>", "\\boxed{ 2 } <eos>", "\\boxed{ 2 } <eos>"]
  with mock.patch.object(fakes, "SAMPLED", sampled):
    assert found(config, grading=FIRST)["maj@3"]["value"] == 0
    assert found(config, grading=FIRST)["avg@3"]["value"] == pytest.approx(1 / 3)


def test_the_last_stage_that_learns_by_verdicts_says_how_an_evaluation_grades():
  """One that samples says it only where none learns, and the last of those."""
  part = lambda least: RewardSpec(name="verifier", options={"no_box_score": least})
  rl = lambda name, least: RLStage(**bases.BASES[RLStage] | dict(name=name, rewards=(part(least),)))
  sample = lambda name, least: SampleStage(
      **bases.BASES[SampleStage] | dict(name=name, rewards=(part(least),)))
  graded = lambda *stages: bases.make_recipe(stages=stages).grading.options.get("no_box_score")
  assert graded() is None
  assert graded(rl("a", -0.1), rl("b", -0.2), sample("c", -0.3)) == -0.2
  assert graded(sample("a", -0.1), rl("b", -0.2)) == -0.2
  assert graded(sample("a", -0.1), sample("b", -0.2)) == -0.2


def unsure(prompts, completions, **columns):
  """Gives nothing to what begins with a box."""
  del prompts, columns
  return [None if text.startswith("\\boxed") else 1.0 for text in completions]


def test_what_has_no_score_is_neither_right_nor_wrong():
  """One of two greedy completions, of 5 tokens and 7, and one of four samples have none."""
  estimates = found(grading=RewardSpec(name="verifier", function=unsure))
  assert estimates["greedy"]["value"] == 1 and estimates["greedy"]["n"] == 1
  assert estimates["avg@2"]["value"] == 1
  assert estimates["unscored_fraction"]["value"] == pytest.approx(1 / 3)
  assert estimates["tokens_per_right"]["value"] == 5 and estimates["length"]["value"] == 6


def test_every_device_has_its_share_of_a_batch():
  with mock.patch.object(fakes, "LAYOUT", fakes.LAYOUT._replace(num_shards=4)):
    trace = fakes.evaluation_trace(bases.EVALUATION)
  assert trace["prompts"] == [["p0", "p1", "p0", "p0"]] * 2
  assert trace["found"]["greedy"]["n"] == 2


def test_a_generator_samples_as_it_is_told():
  """A tokenizer with two end tokens, groups of 3, and values of the head beside the policy."""
  calls, options = [], SamplingOptions(max_new_tokens=8, top_k=2)
  ends = mock.Mock(wraps=fakes.TOKENIZER, eos_ids=(1, 4), pad_id=0)
  sample = lambda model, params, prompts, key, **settings: calls.append((params, settings))
  for has_values in (True, False):
    with mock.patch.object(generate_lib, "sample", sample):
      generate = generate_lib.make_generator(
          tiny.MODEL, ends, fakes.LAYOUT, options=options, group_size=3, prompt_buckets=(4,),
          has_values=has_values)
      generate({"policy": "P", "value_head": "V"}, fakes.ROWS[:1], jax.random.key(0))
  assert calls == [("P", dict(options=options, stop_ids=(1, 4), group_size=3, value_head=head))
                   for head in ("V", None)]


def test_scores_of_a_reward_model_and_negative_weights_reach_the_total():
  """0.5, and -0.25 times the scores of the model."""
  reward = combine_rewards(
      [RewardSpec(name="verifier", weight=0.5), RewardSpec(name="learned", weight=-0.25)],
      pool=fakes.POOL)
  scored = score(
      reward, fakes.TOKENIZER, fakes.ROWS[:2], fakes.make_rollout([fakes.RIGHT, fakes.SHORT]),
      {"model_score": np.array([2.0, -4.0], np.float32)})
  assert scored.rewards.parts["learned"] == [2, -4]
  np.testing.assert_allclose(scored.totals, [0.5 - 0.5, 0 + 1])


def test_the_longest_prompt_and_its_completion_fill_the_model_and_no_more():
  longest = tiny.MODEL.max_positions - bases.EVALUATION.max_new_tokens
  of_runs.set_up(bases.make_recipe(prompt_buckets=(4, longest)))
  with pytest.raises(ValueError, match="config.evaluation.max_new_tokens: got 8, and prompt_bucke"):
    of_runs.set_up(bases.make_recipe(prompt_buckets=(4, longest + 1)))
