"""Whole steps on eight devices, under jit over three meshes and under pmap, against one device."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import losses, models, sampling, types
from rlreason.algorithms import (
    PolicyGradientConfig, SFTConfig, init_rl_params, policy_gradient, presets, sft)
from rlreason.models import lora, quantize
from rlreason.parallel import ALONE, Layout, ParallelConfig, make_layout
from rlreason.slots import Slot
from rlreason.training.metrics import CompilationCounter
from rlreason.training.stages.rl import Planner
from tests.algorithms import tiny

# Every axis is divided by two tensor and two fsdp devices.
MODEL = dataclasses.replace(tiny.MODEL, vocab_size=12, num_heads=4, head_dim=4)
LAYOUTS = {
    "data8": ParallelConfig(data=8), "data4_fsdp2": ParallelConfig(data=4, fsdp=2),
    "data2_fsdp2_tensor2": ParallelConfig(data=2, fsdp=2, tensor=2),
    "sequence2": ParallelConfig(data=2, fsdp=2, sequence=2),
    "data2_sequence2_tensor2": ParallelConfig(data=2, sequence=2, tensor=2),
    "rules": ParallelConfig(data=2, fsdp=2, tensor=2, rules=("embed:none", "mlp:fsdp")),
    "pmap8": ParallelConfig(mode="pmap", data=8)}
PROMPTS, GROUP, NEW_TOKENS = 16, 2, 5
ROWS = PROMPTS * GROUP
# Two epochs of two minibatches of two micro-batches. The token mean needs the lengths of all rows.
CONFIG = PolicyGradientConfig(
    epochs=2, minibatch_size=16, micro_batch_size=8, kl_coef=0.1, kl_target=6.0,
    aggregation="token-mean", entropy_coef=0.01, value_coef=0.5)
# A large epsilon: Adam would turn the rounding of a tiny gradient into a whole step.
OPTIMIZER = optax.adam(0.01, eps=1e-3)
layouts = pytest.mark.parametrize("name", LAYOUTS)


class Result(NamedTuple):
  """What came of two steps of PPO."""

  layout: Layout
  rollout: Any
  scores: Any
  batch: Any
  start: Any  # the state before the first update, whose buffers were donated
  state: Any  # placed
  metrics: Any
  compilations: int  # of the second step


def make_params(layout, seed=0, model=MODEL):
  boxed = models.abstract_boxed_params(model)
  return layout.put_params(tiny.random_params(model, seed), boxed)


def make_policy(layout, model):
  """The policy of a run; with adapters, on a base of 4 bits."""
  params = make_params(layout, model=dataclasses.replace(model, lora=None))
  if model.lora is None:
    return params
  boxed = lora.split(models.abstract_boxed_params(model))[0]
  adapters = lora.split(tiny.random_params(model))[0]
  return lora.join(
      jax.jit(functools.partial(quantize.quantize_params, kind="nf4"))(params),
      layout.put_params(adapters, boxed))


def make_prompts(seed):
  random = np.random.default_rng(seed)
  mask = np.arange(3) >= random.integers(0, 3, (PROMPTS, 1))
  return types.Prompts(
      tokens=random.integers(2, 12, (PROMPTS, 3)).astype(np.int32), mask=mask,
      index=np.arange(PROMPTS, dtype=np.int32))


def with_gaps(rollout):
  """Every third token is given, another in each row."""
  is_given = (np.arange(NEW_TOKENS) + np.arange(ROWS)[:, None]) % 3 == 0
  actions = rollout.action_mask & ~is_given
  return rollout.replace(
      action_mask=actions, log_probs=np.where(actions, rollout.log_probs, np.float32(0)))


@functools.cache
def run_ppo(parallel, config=CONFIG, model=MODEL, has_gaps=False, has_plan=False):
  """Two steps; with gaps or a plan, groups share their prompt where the layout has it."""
  layout = make_layout(parallel)
  algorithm = policy_gradient(config, model, OPTIMIZER, temperature=0.8, group_size=GROUP)
  params = init_rl_params(config, model, make_policy(layout, model))
  is_shared = config.critic == "shared"
  if config.has_critic:
    (params if is_shared else params["critic"])["value_head"] = tiny.random_value_head()
  state = start = layout.put_state(algorithm.init(params))
  reference = layout.put_state(make_params(layout, 1, model)) if model.lora is None else None
  options = sampling.SamplingOptions(max_new_tokens=NEW_TOKENS, temperature=0.8)

  def sample(params, prompts, key):
    return sampling.sample(
        model, params["policy"], prompts, key, options=options, stop_ids=(1,), group_size=GROUP,
        value_head=params["value_head"] if is_shared else None)

  generate, score = layout.compile_sampler(sample), layout.compile_rows(algorithm.score)
  planner = Planner(config, GROUP, layout)
  make_batch = layout.compile_whole(algorithm.make_batch)
  update = layout.compile_update(algorithm.update_step, state)

  def step(state, number):
    key_sample, key_update = jax.random.split(jax.random.key(number))
    rollout = layout.get_rows(
        generate(state.params, layout.put_rows(make_prompts(number)), key_sample))
    rollout = with_gaps(rollout) if has_gaps else rollout
    placed = layout.put_rows(rollout)
    moved = reference if state.reference is None else state.reference
    scores = score({"params": state.params, "reference": moved}, placed,
                   planner.of_rollout(rollout) if has_gaps or has_plan else None)
    rewards = np.sum(rollout.completion_tokens % 3 == 0, axis=1).astype(np.float32)
    outcome = layout.put_rows(types.Outcome(rewards, np.arange(ROWS) % 7 != 3))
    batch, _ = make_batch((placed, scores, outcome), layout.get_state(state.coefs))
    if has_gaps or has_plan:
      order = planner.order(ROWS, key_update)
      plan = planner.of_update(order, rollout, np.arange(ROWS) % 7 != 3, batch)
      batch = batch.replace(plan=plan)
      is_shared = config.share_prompts and layout.takes_plans
      assert isinstance(batch.plan, types.GroupPlan if is_shared else types.RowPlan)
    host = (rollout, *map(layout.get_rows, (scores, batch)))
    return *host, *update(state, batch, key_update)

  first = step(state, 0)
  counter = CompilationCounter()
  _, _, _, state, metrics = step(first[3], 1)
  counter.close()
  return Result(layout, *first[:3], start, state, jax.device_get(metrics), counter.count)


def alone():
  return run_ppo(ParallelConfig(data=1))


def assert_close(left, right, tolerance=1e-5):
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance),
      jax.device_get(left), jax.device_get(right))


@pytest.mark.skipif(
    jax.default_backend() != "cpu" or jax.__version_info__ >= (0, 11),
    reason="about XLA on the CPU; later versions fuse them too, but keep the layout of the kernel")
def test_a_product_is_not_fused_with_the_softmax_after_it():
  """Fused, the kernel of large logits is laid out anew on every call: ten times the time."""
  layout = make_layout(ParallelConfig(data=1))
  program = layout.compile_rows(lambda kernel, rows, _: jnp.sum(jnp.exp(rows @ kernel), axis=-1))
  text = program.lower(jnp.ones((64, 1024)), jnp.ones((32, 64)), None).compile().as_text()
  computations = [part for part in text.split("\n}") if " dot(" in part]
  assert computations or "onednn" in text or "__ynn" in text
  assert not any(" exponential(" in part for part in computations)


@layouts
def test_samples_are_those_of_one_device(name):
  got, expected = run_ppo(LAYOUTS[name]).rollout, alone().rollout
  np.testing.assert_array_equal(got.completion_tokens, expected.completion_tokens)
  assert len(set(expected.token_mask.sum(axis=1))) > 2  # several lengths
  assert_close(got, expected)


@layouts
def test_scores_and_batch_are_those_of_one_device(name):
  got, expected = run_ppo(LAYOUTS[name]), alone()
  assert_close(got.scores, expected.scores)
  assert_close(got.batch, expected.batch, 2e-5)


@layouts
def test_updates_are_those_of_one_device(name):
  got, expected = run_ppo(LAYOUTS[name]), alone()
  assert_close(got.layout.get_state(got.state), expected.state)
  assert int(expected.state.step) == 2
  assert float(expected.state.coefs["kl"]) != CONFIG.kl_coef
  for metric, (numerator, denominator) in expected.metrics.items():
    value = np.sum(numerator) / max(np.sum(denominator), 1.0)
    other = got.metrics[metric][0].sum() / max(got.metrics[metric][1].sum(), 1.0)
    assert other == pytest.approx(value, abs=2e-5), metric


@pytest.mark.parametrize("name", ["data4_fsdp2", "sequence2", "pmap8"])
def test_a_critic_of_its_own_and_kl_in_the_loss_too(name):
  config = dataclasses.replace(
      CONFIG, critic="separate", kl_placement="loss", kl_estimator="k3", kl_target=None)
  one, result = run_ppo(ParallelConfig(data=1), config), run_ppo(LAYOUTS[name], config)
  assert_close(result.layout.get_state(result.state).params, one.state.params)


@pytest.mark.parametrize("name", ["data2_fsdp2_tensor2", "sequence2", "pmap8"])
def test_given_tokens_within_completions_too(name):
  # Whole groups on each of 8 devices; under pmap and where columns are split, packed rows.
  config = dataclasses.replace(CONFIG, micro_batch_size=16, pack_rows=True, packed_width=14)
  one = run_ppo(ParallelConfig(data=1), config, has_gaps=True)
  result = run_ppo(LAYOUTS[name], config, has_gaps=True)
  given = one.rollout.token_mask & ~one.rollout.action_mask
  assert given.any() and not np.any(np.where(given, one.batch.advantages, 0))
  assert_close(result.batch.replace(plan=None), one.batch.replace(plan=None))
  assert_close(result.layout.get_state(result.state).params, one.state.params)


@pytest.mark.parametrize("name", ["data8", "data2_fsdp2_tensor2", "sequence2", "pmap8"])
def test_packed_rows_are_of_each_device_and_as_padded_ones(name):
  config = dataclasses.replace(
      CONFIG, critic="separate", recompute_log_probs=True, share_prompts=False)
  one = run_ppo(ParallelConfig(data=1), config)
  packed = dataclasses.replace(config, pack_rows=True, packed_width=14)
  result = run_ppo(LAYOUTS[name], packed, has_plan=True)
  is_token = one.rollout.token_mask
  for key, scores in one.scores.items():
    assert_close(np.where(is_token, result.scores[key], 0), np.where(is_token, scores, 0))
  assert_close(result.layout.get_state(result.state).params, one.state.params)


# Everything that a method without a critic may have and PPO has not.
GROUPED = presets.kl_cov(
    minibatch_size=16, micro_batch_size=8, advantage_threshold=0.1, kl_coef=0.1,
    kl_placement="loss",
    kl_estimator="k3", reference_every=1, reference_decay=0.5,
    selection=Slot(losses.select_kl_cov, {"fraction": 0.1}))


@pytest.mark.parametrize("name", ["data2_fsdp2_tensor2", "data2_sequence2_tensor2", "pmap8"])
def test_groups_dropped_rows_selected_tokens_and_a_moving_reference_too(name):
  one, result = run_ppo(ParallelConfig(data=1), GROUPED), run_ppo(LAYOUTS[name], GROUPED)
  np.testing.assert_array_equal(result.rollout.completion_tokens, one.rollout.completion_tokens)
  assert_close(result.batch, one.batch, 2e-5)
  assert_close(result.layout.get_state(result.state), one.state)
  assert result.compilations == 0
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(result.start))
  trained, counted = (
      np.any(mask, axis=1).sum() for mask in (one.batch.loss_mask, one.batch.counted_mask))
  assert 0 < trained < counted < ROWS
  kernels = [params["layers"]["mlp"]["up"]["kernel"]
             for params in (one.state.reference, one.state.params["policy"])]
  assert 1e-4 < np.abs(kernels[0] - kernels[1]).max() < 0.02


@pytest.mark.parametrize(
    "name, critic", [("data2_fsdp2_tensor2", "separate"), ("sequence2", "separate"),
                     ("data2_sequence2_tensor2", "shared"), ("pmap8", "shared")])
def test_adapters_on_a_quantised_base_too(name, critic):
  config = dataclasses.replace(CONFIG, critic=critic)
  model = dataclasses.replace(MODEL, lora=models.LoRAConfig(rank=2, alpha=4.0))
  one, result = (run_ppo(layout, config, model) for layout in (
      ParallelConfig(data=1), LAYOUTS[name]))
  np.testing.assert_array_equal(result.rollout.completion_tokens, one.rollout.completion_tokens)
  assert_close(result.scores, one.scores)
  assert_close(result.layout.get_state(result.state), one.state, 2e-5)
  assert result.compilations == 0


@layouts
def test_one_device_learned_something(name):
  del name
  policy = tiny.random_params(MODEL)
  moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), alone().state.params["policy"], policy)
  assert min(jax.tree.leaves(moved)) > 1e-3


@layouts
def test_a_second_step_compiles_nothing(name):
  assert run_ppo(LAYOUTS[name]).compilations == 0


@layouts
def test_the_state_is_donated(name):
  """Parameters and moments exist once: the old buffers are gone after an update."""
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(run_ppo(LAYOUTS[name]).start))


def shard_share(leaf):
  return np.prod(leaf.sharding.shard_shape(leaf.shape)) / leaf.size


def test_parameters_and_moments_are_sharded():
  state = run_ppo(LAYOUTS["data2_fsdp2_tensor2"]).state
  adam, policy = state.opt_state[0], state.params["policy"]
  assert shard_share(policy["embed"]["embedding"]) == 1 / 4
  for name in ("q", "k", "v", "o"):
    assert shard_share(policy["layers"]["attention"][name]["kernel"]) == 1 / 4
  for name in ("gate", "up", "down"):
    assert shard_share(policy["layers"]["mlp"][name]["kernel"]) == 1 / 4
  for moments in (adam.mu["policy"], adam.nu["policy"]):
    assert all(jax.tree.leaves(jax.tree.map(
        lambda moment, param: moment.sharding.is_equivalent_to(param.sharding, param.ndim),
        moments, policy)))


def test_fsdp_alone_halves_the_matrices_and_data_none():
  of = lambda name: run_ppo(LAYOUTS[name]).state.params["policy"]["layers"]["mlp"]["up"]["kernel"]
  assert shard_share(of("data4_fsdp2")) == 1 / 2
  assert shard_share(of("data8")) == 1


def test_a_minibatch_smaller_than_the_mesh_is_not_split():
  config = dataclasses.replace(CONFIG, minibatch_size=4, micro_batch_size=0, epochs=1)
  got = run_ppo(LAYOUTS["data8"], config)
  assert_close(got.state, run_ppo(ParallelConfig(data=1), config).state)


def test_pmap_refuses_a_micro_batch_smaller_than_the_replicas():
  with pytest.raises(ValueError, match="micro-batch: got 4 rows, allowed: a multiple of 8"):
    run_ppo(LAYOUTS["pmap8"], dataclasses.replace(CONFIG, micro_batch_size=4))


@layouts
def test_rows_that_cannot_be_split_are_refused(name):
  layout = make_layout(LAYOUTS[name])
  with pytest.raises(ValueError, match=f"rows: got 7, allowed: a multiple of {layout.num_shards}"):
    layout.put_rows({"x": np.zeros((7, 2))})


@layouts
def test_rows_come_back_in_their_order(name):
  layout = make_layout(LAYOUTS[name])
  rows = {"x": np.arange(16.0).reshape(16, 1), "y": np.arange(32, dtype=np.int32)}
  placed = layout.put_rows(rows)
  back = layout.get_rows(placed)
  jax.tree.map(np.testing.assert_array_equal, back, rows)


# Supervised updates.


def packed_batch(seed):
  random = np.random.default_rng(seed)
  segments = np.repeat(np.array([[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 2, 2, 2, 2, 2, 2]], np.int32), 8,
                       axis=0)
  return types.PackedBatch(
      tokens=random.integers(0, 12, segments.shape).astype(np.int32), segment_ids=segments,
      positions=np.tile(np.arange(8, dtype=np.int32), (16, 1)),
      loss_weights=(random.random(segments.shape) * (segments > 0)).astype(np.float32))


@functools.cache
def run_sft(parallel, model=MODEL):
  layout = make_layout(parallel)
  algorithm = sft(SFTConfig(micro_batch_size=8), model, OPTIMIZER)
  state = layout.put_state(algorithm.init({"policy": make_params(layout, model=model)}))
  update = layout.compile_update(algorithm.update_step, state)
  state, _ = update(state, layout.put_rows(packed_batch(0)), jax.random.key(0))
  counter = CompilationCounter()
  state, metrics = update(state, layout.put_rows(packed_batch(1)), jax.random.key(1))
  counter.close()
  return jax.device_get(layout.get_state(state)), jax.device_get(metrics), counter.count


@layouts
def test_supervised_updates_are_those_of_one_device(name):
  state, metrics, compilations = run_sft(LAYOUTS[name])
  expected, expected_metrics, _ = run_sft(ParallelConfig(data=1))
  assert_close(state, expected)
  assert compilations == 0 and int(expected.step) == 2
  for metric, (numerator, denominator) in expected_metrics.items():
    got = metrics[metric][0] / max(metrics[metric][1], 1.0)
    assert got == pytest.approx(numerator / max(denominator, 1.0), abs=2e-5), metric


def test_one_device_is_the_plain_algorithm():
  """The layout of one device adds nothing: the update, jitted by itself, is the same."""
  algorithm = sft(SFTConfig(micro_batch_size=8), MODEL, OPTIMIZER)
  update = jax.jit(functools.partial(algorithm.update_step, replicas=ALONE))
  state = algorithm.init({"policy": tiny.random_params(MODEL)})
  for number in range(2):
    state, _ = update(state, packed_batch(number), jax.random.key(number))
  assert_close(state, run_sft(ParallelConfig(data=1))[0], 1e-6)
