"""Stages of the methods: dynamic sampling, greedy baselines, shared prompts, pairs, teachers."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rlreason import losses, models, weights
from rlreason.algorithms import DistillConfig, PreferenceConfig, presets
from rlreason.rewards import RewardSpec, WorkerPool
from rlreason.slots import Slot
from rlreason.training import experience, metrics, run as run_lib, stages as stages_lib
from rlreason.training.settings.recipe import from_config
from rlreason.training.setup import make_setup
from tests.training import tiny_run

PROMPTS, GROUP = 8, 2


def even_share(prompts, completions, **columns):
  """A reward with spread on texts of an untrained model."""
  return [len(text) % 5 / 4 for text in completions]


def rl_config(algorithm, **changes):
  config = tiny_run.make_config()
  config.parallel.data = 1
  config.stages = ("rl",)
  rewards = dict(verifier=dict(weight=0.0), spread=dict(function=even_share, weight=1.0))
  fields = config.to_dict()
  fields["rl"] |= dict(
      algorithm=dataclasses.replace(algorithm, minibatch_size=PROMPTS * GROUP), rewards=rewards,
      num_prompts=PROMPTS, group_size=GROUP, **changes)
  return from_config(fields)


def run_step(recipe, tmp_path, steps=1):
  """The outputs of some steps of the only stage, and the stage's parameters before."""
  setup, policy = make_setup(recipe)
  stages_lib.check_stages(setup)
  with WorkerPool(num_workers=1) as pool:
    stage = stages_lib.make_stage(setup, recipe.stages[0], policy, 0, pool, tmp_path)
    before, state, outputs = jax.tree.map(np.array, stage.state.params), stage.state, []
    for number in range(steps):
      outputs.append(stage.step(state, number, stage.data, jax.random.key(number)))
      state = outputs[-1].state
  return outputs, before


def ratio(metrics, name):
  numerator, denominator = metrics[name]
  return float(np.sum(numerator)) / float(np.sum(denominator))


def test_shared_prompts_and_packed_rows_change_nothing(tmp_path):
  states, wastes = [], []
  padded = dict(share_prompts=False, pack_rows=False)
  for settings in (padded, {}, padded | dict(pack_rows=True, packed_width=64)):
    algorithm = presets.grpo(kl_coef=0.1, recompute_log_probs=True, **settings)
    outputs, _ = run_step(rl_config(algorithm), tmp_path)
    states.append(jax.device_get(outputs[0].state.params))
    wastes.append(outputs[0].host_metrics["rollout/padding_waste"])
    assert ratio(outputs[0].device_metrics, "policy/ratio_error") < 1e-5
  for state in states[1:]:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), states[0], state)
  assert wastes[0] == wastes[1] != wastes[2]


def test_a_correction_weighs_what_an_older_policy_has_sampled(tmp_path):
  """Sampled a step ahead, the ratio to the sampler is no longer 1; rows are packed meanwhile."""
  algorithm = presets.grpo(
      recompute_log_probs=True, share_prompts=False,
      correction=Slot(losses.truncated_importance, {"cap": 2.0}))
  found = {}
  for ahead in (0, 1):
    recipe = rl_config(algorithm, draws_ahead=ahead)
    setup, policy = make_setup(recipe)
    with WorkerPool(num_workers=1) as pool:
      stage = stages_lib.make_stage(setup, recipe.stages[0], policy, 0, pool, tmp_path)
      draws, state, found[ahead] = experience.Draws(stage, jax.random.key(0)), stage.state, []
      draws.begin(0, state.params)
      for number in range(3):
        output = stage.learn(state, number, draws.next(number, state.params), jax.random.key(1))
        state = output.state
        found[ahead].append([ratio(output.device_metrics, name) for name in (
            "policy/sampler_error", "policy/correction")])
      draws.close()
  # The first step of both is drawn by the policy that learns from it; so are all with none ahead.
  np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
  for error, weight in (*found[0], found[1][0]):
    assert error < 1e-5 and weight == pytest.approx(1, abs=1e-5)
  for error, weight in found[1][1:]:
    assert error > 1e-3 and weight != pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mode, data", [("jit", 1), ("jit", 2), ("pmap", 2)])
def test_a_queue_of_prompts_samples_what_a_batch_does(mode, data, tmp_path):
  config = tiny_run.make_data_config()
  config.stages, config.parallel = ("sample",), dict(mode=mode, data=data)
  config.sample = config.sample.to_dict() | dict(start="initial", num_prompts=8, group_size=2)
  rows = []
  for at_once in (0, 2, 8):
    config.sample.prompts_at_once = at_once
    (output,), _ = run_step(from_config(config), tmp_path)
    rows.append(output.rows)
  assert rows[0] == rows[1] == rows[2] and len(rows[0]) == 16
  if data == 2:
    config.sample.prompts_at_once = 3
    with pytest.raises(ValueError, match="prompts_at_once: got 3, allowed: a multiple of 2"):
      run_step(from_config(config), tmp_path)
  config.sample.prompts_at_once = 9
  with pytest.raises(ValueError, match="prompts_at_once: got 9, allowed: 0 to num_prompts=8"):
    from_config(config)


def test_a_step_fills_up_with_groups_that_differ(tmp_path):
  recipe = rl_config(presets.dapo(), max_resample_rounds=3)
  (output,), _ = run_step(recipe, tmp_path)
  metrics = output.host_metrics
  assert 1 <= metrics["rollout/rounds"] <= 3
  assert metrics["rollout/sampled_groups"] == PROMPTS * metrics["rollout/rounds"]
  # Of 3 rounds of 8 groups of this reward, more than 8 differ.
  assert metrics["rollout/zero_variance_groups"] == 0.0


def test_the_greedy_completion_is_the_baseline_of_remax(tmp_path):
  (output,), before = run_step(rl_config(presets.remax(kl_coef=0.0)), tmp_path)
  assert np.isfinite(ratio(output.device_metrics, "loss/policy"))
  moved = jax.tree.map(
      lambda x, y: np.abs(np.asarray(x) - y).max(), output.state.params, before)
  assert max(jax.tree.leaves(moved)) > 0


def test_a_given_answer_is_the_reward_of_latro(tmp_path):
  recipe = rl_config(presets.latro(), answer_template="\\boxed{ {answer} }")
  (output,), _ = run_step(recipe, tmp_path)
  assert ratio(output.device_metrics, "reward/answer_log_prob") < -1
  assert ratio(output.device_metrics, "loss/nll") > 1
  assert ratio(output.device_metrics, "policy/ratio_error") < 1e-5
  with pytest.raises(ValueError, match="answer_template: got 'x', allowed: text with {answer}"):
    rl_config(presets.latro(), answer_template="x")
  with pytest.raises(ValueError, match="answer_template: .*allowed: with algorithm.recompute_log"):
    rl_config(presets.grpo(), answer_template="{answer}")


def share_at_the_end(prompts, completions, **columns):
  """`even_share` as lists: one half of it at the end of the text, and the other there too."""
  shares = even_share(prompts, completions)
  return [[(len(text), share / 2), (("turn", 0), share / 2)]
          for text, share in zip(completions, shares)]


def share_at_the_start(prompts, completions, **columns):
  return [[(0, share)] if text else [] for text, share in zip(
      completions, even_share(prompts, completions))]


def progress(prompts, completions, **columns):
  return [[(0, 0.5), (len(text) // 2, 1.0)] if text else [] for text in completions]


def with_reward(recipe, **fields):
  stage, = recipe.stages
  spec = dataclasses.replace(stage.rewards[-1], **fields)
  return dataclasses.replace(
      recipe, stages=(dataclasses.replace(stage, rewards=(*stage.rewards[:-1], spec)),))


@pytest.mark.parametrize("algorithm, changes, matters", [
    (presets.ppo(gae_lambda=0.5), {}, True),
    (presets.dr_grpo(max_length=32), {}, True),
    (presets.grpo(kl_coef=0.1), {}, False),
    (presets.dapo(), dict(max_resample_rounds=2), False),
    (presets.rloo(), dict(max_resample_rounds=2), True)])
def test_a_list_of_rewards_at_the_end_is_the_number(algorithm, changes, matters, tmp_path):
  """And one at the start is not, where a method tells tokens apart."""
  params, metrics_of = [], []
  for function in (even_share, share_at_the_end, share_at_the_start):
    recipe = with_reward(rl_config(algorithm, **changes), function=function)
    (output,), _ = run_step(recipe, tmp_path)
    params.append(jax.device_get(output.state.params))
    metrics_of.append(output.host_metrics)
  one, other, third = params
  distance = lambda x, y: max(
      float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(x), jax.tree.leaves(y)))
  assert distance(one, other) < 1e-5
  assert (distance(one, third) > 1e-4) == matters
  plain, placed, _ = metrics_of
  assert placed["reward/total/mean"] == plain["reward/total/mean"] == placed["reward/within/mean"]
  assert "reward/within/mean" not in plain


def test_a_potential_of_a_stage_moves_credit_and_pays_nothing(tmp_path):
  config = presets.ppo(gae_lambda=1.0, whiten_advantages=False)
  params = []
  for weight in (0.0, 1.0):
    recipe = rl_config(config)
    stage, = recipe.stages
    spec = RewardSpec(name="progress", weight=weight, function=progress, is_potential=True)
    recipe = dataclasses.replace(
        recipe, stages=(dataclasses.replace(stage, rewards=(*stage.rewards, spec)),))
    (output,), _ = run_step(recipe, tmp_path)
    params.append(jax.device_get(output.state.params))
    assert output.host_metrics["reward/progress/mean"] > 0.9
    sample = output.samples[0]
    assert sample["rewards"]["total"] == sample["rewards"]["spread"]
    assert ("potentials" in sample) == bool(weight)
  assert any(np.abs(x - y).max() > 1e-5 for x, y in zip(*map(jax.tree.leaves, params)))


def test_a_potential_that_would_reach_no_token_is_refused(tmp_path):
  recipe = with_reward(rl_config(presets.grpo(kl_coef=0.1)), function=progress, is_potential=True)
  with pytest.raises(ValueError, match="rewards.spread.is_potential: got True with critic='none' "
                     "and advantage=group_normalized, .*allowed: with a critic, or with group_cen"):
    run_step(recipe, tmp_path)


# Rollouts, taken apart and put together.


# Pairs and teachers.


def other_config(kind, **fields):
  config = tiny_run.make_config()
  config.parallel.data = 1
  config.stages = ("other",)
  config.other = dict(kind=kind, steps=2, optimizer=dict(learning_rate=1e-2), **fields)
  return config


@pytest.mark.parametrize("loss, columns", [
    (Slot(losses.dpo, {"beta": 0.1}), ("chosen", "rejected")),
    (Slot(losses.kto, {"beta": 0.1}), ("completion",))])
def test_a_preference_stage_learns_its_pairs(tmp_path, loss, columns):
  texts = {"chosen": "1 + 2 = 3", "rejected": "3 - 1 = 2", "completion": "1 + 2 = 3"}
  row = {"prompt": "1 2 3 target 6 :", **{name: texts[name] for name in columns}}
  rows = [row | ({"is_right": i % 2 == 0} if "completion" in columns else {}) for i in range(8)]
  (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  recipe = from_config(other_config(
      "preference", batch_size=8, completion_length=8, examples=str(tmp_path / "pairs.jsonl"),
      preference=PreferenceConfig(loss=loss, average_log_probs=False)).to_dict())
  outputs, _ = run_step(recipe, tmp_path, steps=2)
  margins = [ratio(output.device_metrics, "preference/margin") for output in outputs]
  assert np.isfinite(margins).all()
  if "chosen" in columns:
    assert margins[1] > margins[0]
  missing = dataclasses.replace(recipe.stages[0], examples="nowhere.jsonl")
  with pytest.raises(FileNotFoundError, match="config.other.examples: 'nowhere.jsonl' not found"):
    stages_lib.check_stages(make_setup(dataclasses.replace(recipe, stages=(missing,)))[0])


def test_a_reward_model_is_trained_and_pays_a_policy(tmp_path):
  """Its stage leaves the policy alone and a folder whose standardized scores are the reward."""
  row = {"prompt": "1 2 3 target 6 :", "chosen": "1 + 2 = 3", "rejected": "3 - 1 = 2"}
  (tmp_path / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 10)  # 8, and 2 of the next batch
  config = other_config(
      "reward_model", batch_size=8, completion_length=8, examples=str(tmp_path / "pairs.jsonl"))
  config = config.to_dict() | {"stages": ("other", "rl")}
  config["rl"] |= dict(
      steps=1, num_prompts=8, group_size=1, reward_model="stage:other",
      rewards=dict(learned=dict(weight=1.0), verifier=dict(weight=0.0)),
      algorithm=presets.reinforce_plus_plus(minibatch_size=8, kl_coef=0.0))
  summary = run_lib.train(from_config(config), tmp_path / "run")
  assert [stage["name"] for stage in summary["stages"]] == ["start", "other", "rl"]
  assert not summary["stages"][1]["evaluation"]  # it is no policy
  lines = metrics.read_lines(tmp_path / "run" / "metrics.jsonl")
  steps = [line for line in lines if line["stage"] == "other"]
  assert steps[1]["reward_model/margin"] > steps[0]["reward_model/margin"]

  model, params, tokenizer = weights.load_scalar_model(tmp_path / "run" / "models" / "other")
  ids = lambda text: tokenizer.encode(text) + [tokenizer.eos_ids[0]]
  prompt = tokenizer.encode(row["prompt"], add_special=True)
  def score(completion):
    tokens = np.array([prompt + completion])
    hidden = jax.jit(models.forward, static_argnums=0)(
        model, params["trunk"], tokens, np.ones(tokens.shape, bool))
    head = params["value_head"]
    return float(hidden[0, -1] @ head["kernel"] + head["bias"])
  # Two values with mean 0 and variance 1.
  np.testing.assert_allclose(
      [score(ids(row["chosen"])), score(ids(row["rejected"]))], [1.0, -1.0], atol=1e-3)
  sample = next(line for line in metrics.read_lines(tmp_path / "run" / "samples.jsonl")
                if line["stage"] == "rl")
  prompt = tokenizer.encode(sample["prompt"], add_special=True)
  completion = tokenizer.encode(sample["completion"])
  if sample["length"] > len(completion):
    completion.append(tokenizer.eos_ids[0])
  assert sample["rewards"]["learned"] == pytest.approx(score(completion), abs=1e-3)


@pytest.mark.parametrize("fields, message", [
    (dict(reward_model=""), "reward_model: got '' with a reward 'learned', allowed: both"),
    (dict(rewards=dict(verifier=dict(weight=1.0))), "reward_model: got 'stage:other' without"),
    (dict(reward_model="stage:nobody"), "rl.reward_model: got 'nobody', allowed: earlier stages"),
    (dict(reward_model="nowhere"), "nowhere")])
def test_a_reward_model_that_is_not_there_is_refused(tmp_path, fields, message):
  config = other_config(
      "reward_model", batch_size=8, completion_length=8, examples=str(tmp_path / "pairs.jsonl"))
  row = {"prompt": "1 2 3 target 6 :", "chosen": "1 + 2 = 3", "rejected": "3 - 1 = 2"}
  (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
  config = config.to_dict() | {"stages": ("other", "rl")}
  config["rl"] |= dict(reward_model="stage:other", rewards=dict(learned=dict(weight=1.0))) | fields
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    stages_lib.check_stages(make_setup(from_config(config))[0])


@pytest.mark.parametrize("student_fraction", [1.0, 0.0])
def test_a_distillation_stage_nears_its_teacher(tmp_path, student_fraction):
  config = other_config(
      "distill", teacher=str(tmp_path / "teacher"), num_prompts=8,
      sampling=dict(max_new_tokens=12), distill=DistillConfig(divergence=Slot(losses.forward_kl)))
  if not student_fraction:
    row = {"prompt": "1 2 3 target 6 :", "answer": "1 + 2 + 3", "completion": "1 + 2 = 3 3 + 3 = 6"}
    (tmp_path / "texts.jsonl").write_text((json.dumps(row) + "\n") * 8)
    config.other.update(student_fraction=0.0, examples=str(tmp_path / "texts.jsonl"))
  config.model.width, config.model.head_dim = 24, 12
  setup, teacher = make_setup(from_config(config.to_dict() | {"stages": ()}))
  teacher = jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, teacher)  # so that it differs
  weights.save_model(tmp_path / "teacher", setup.model, teacher, setup.tokenizer)
  config.model.width, config.model.head_dim = 16, 8
  outputs, _ = run_step(from_config(config.to_dict()), tmp_path, steps=2)
  values = [ratio(output.device_metrics, "loss/distill") for output in outputs]
  assert 0 < values[1] < values[0]
  assert outputs[0].host_metrics["distill/is_own"] == student_fraction


@pytest.mark.parametrize("settings, message", [
    (dict(packed_width=64), "got 64 where rows are not packed .* allowed: 0, or share_prompts=F"),
    (dict(packed_width=9, share_prompts=False), r"got 9, allowed: 0, or \d+ or more")])
def test_a_width_of_packed_rows_that_cannot_be_used_is_refused(settings, message):
  recipe = rl_config(presets.grpo(**settings))
  setup, _ = make_setup(recipe)
  with pytest.raises(ValueError, match=f"config.rl.algorithm.packed_width: {message}"):
    stages_lib.check_stages(setup)
