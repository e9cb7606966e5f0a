"""What the loop gives to the stages, by literal values, on stages that do nothing."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from rlreason.models import LoRAConfig
from rlreason.training.settings.recipe import CheckpointConfig
from rlreason.training.settings.rl import RLStage
from rlreason.training.stages import policies
from tests.algorithms import tiny
from tests.settings import bases, fakes, of_runs

RECIPE = bases.make_recipe(seed=3, stages=of_runs.TWO)
EQUAL = {"reward/total/mean": 0.0, "reward/total/std": 0.0}


def folded(*numbers):
  """The key of the seed with these folded into it, one after the other."""
  key = jax.random.key(RECIPE.seed)
  for number in numbers:
    key = jax.random.fold_in(key, number)
  return jax.random.key_data(key).tolist()


def test_each_stage_step_and_evaluation_has_its_key():
  run = of_runs.looped(RECIPE)
  assert run["keys"] == [folded(stage, step) for stage in (0, 1) for step in range(4)]
  assert run["stages"] == [("sft", 3), ("more", 4)]  # and the seed of its data
  assert [np.asarray(key).tolist() for _, key in run["evaluated"]] == [folded(2**30)] * 3
  assert [policy for policy, _ in run["evaluated"]] == [[0, 0], [4, 4], [4, 4]]


def test_what_is_tried_before_the_first_step_has_a_key_of_its_own():
  keys = []
  stage = RLStage(**bases.BASES[RLStage])

  def preflight(trace, params, key):
    keys.append(jax.random.key_data(key).tolist())
    return {}, []

  of_runs.looped(dataclasses.replace(RECIPE, stages=(stage,)), preflight=preflight)
  assert keys == [folded(2**30 + 1)]


def test_tokens_are_added_up_stage_by_stage():
  stages = of_runs.looped(RECIPE)["summary"]["stages"]
  assert [(stage["name"], stage["tokens"]) for stage in stages] == [
      ("start", 0), ("sft", 4 * fakes.TOKENS), ("more", 4 * fakes.TOKENS)]


def test_nothing_is_saved_while_updates_are_skipped():
  """Of a stage of 4 steps the second is skipped."""
  recipe = dataclasses.replace(
      RECIPE, stages=RECIPE.stages[:1], checkpoint=CheckpointConfig(every_steps=1))
  run = of_runs.looped(recipe, metrics=lambda stage, step: {
      "optim/skipped_in_a_row": float(step == 1)})
  assert run["saved"] == [1, 3, 4]


def test_a_run_gives_up_at_the_last_skipped_update_that_is_allowed():
  """Step 1 is the second that is skipped; step 2 has been begun when that is known."""
  stage = dataclasses.replace(of_runs.SFT, steps=9)
  recipe = dataclasses.replace(RECIPE, stages=(stage,), max_skipped_in_a_row=2)
  assert of_runs.steps_before_it_gives_up(recipe) == [0, 1, 2]


def test_warnings_are_of_the_first_step_and_come_once():
  stages = (RLStage(**bases.BASES[RLStage]),)
  recipe = dataclasses.replace(RECIPE, stages=stages)
  def warned(metrics, preflight=lambda *args: ({}, [])):
    said = of_runs.looped(recipe, metrics=metrics, preflight=preflight)["said"]
    return [text for text in said if text.startswith("warning")]

  assert not warned(metrics=lambda stage, step: EQUAL if step == 1 else {})
  assert len(warned(metrics=lambda stage, step: EQUAL if step == 0 else {})) == 1
  assert len(warned(metrics=lambda stage, step: EQUAL, preflight=lambda *args: (EQUAL, []))) == 1


def adapted(config):
  model = dataclasses.replace(tiny.MODEL, lora=config)
  recipe = bases.make_recipe(lora=config, stages=())
  return fakes.make_setup(recipe, model=model)


def test_the_reference_of_adapters_is_those_that_the_stage_starts_with():
  policy = {"layers": {"q": {"kernel": jnp.ones(2), "lora_a": jnp.ones(2), "lora_b": jnp.ones(2)}}}
  own, reference = policies.own_policy(adapted(LoRAConfig()), policy, 0, has_reference=True)
  assert own is policy and sorted(reference["layers"]["q"]) == ["lora_a", "lora_b"]
  assert reference["layers"]["q"]["lora_a"] is not policy["layers"]["q"]["lora_a"]  # donated
  _, nothing = policies.own_policy(adapted(LoRAConfig()), policy, 0, has_reference=False)
  assert nothing is None


def test_a_critic_beside_adapters_has_some_on_a_base_of_the_same_kind():
  config = LoRAConfig(base="nf4")
  stage = RLStage(**bases.BASES[RLStage] | dict(critic_path="b", algorithm=dataclasses.replace(
      bases.REINFORCE, critic="separate")))
  calls = []
  load = lambda path, **settings: calls.append(settings["quantize"]) or (
      tiny.MODEL, {"trunk": {}, "value_head": {}}, fakes.TOKENIZER)
  with mock.patch.object(policies.weights, "load_scalar_model", load), mock.patch.object(
      policies.weights, "find_model", lambda path: path), mock.patch.object(
          policies, "_add_adapters", lambda setup, model, trunk, key: {"adapters": model.lora}):
    model, params = policies.load_critic(adapted(config), stage, 0, None)
  assert calls == ["nf4"] and model.lora == config
  assert params["trunk"] == {"adapters": config}
