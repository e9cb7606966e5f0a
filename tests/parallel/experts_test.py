"""Experts on the devices of an axis: numbers of one device, and what the programs communicate."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models, sampling, types
from rlreason.algorithms import presets
from rlreason.models import moe
from rlreason.parallel import ParallelConfig, make_layout
from tests.algorithms import tiny
from tests.parallel.layout_test import (
    MODEL as DENSE, OPTIMIZER, assert_close, packed_batch, run_ppo, run_sft)
from tests.parallel.logits_test import COLLECTIVE, in_loops

MODEL = dataclasses.replace(
    DENSE, family="qwen3_moe", qk_norm=True, width=24, mlp_width=40, num_experts=8,
    experts_per_token=3, balance_coef=0.05)
MESHES = {
    "expert8": ParallelConfig(expert=8),
    "data2_fsdp2_expert2": ParallelConfig(data=2, fsdp=2, expert=2),
    "fsdp2_expert2_tensor2": ParallelConfig(fsdp=2, expert=2, tensor=2),
    "fsdp2_expert2_sequence2": ParallelConfig(fsdp=2, expert=2, sequence=2),
    "fsdp8": ParallelConfig(fsdp=8),
    "rules": ParallelConfig(fsdp=2, expert=2, tensor=2, rules=("expert_mlp:none",))}
meshes = pytest.mark.parametrize("name", MESHES)
ONE = ParallelConfig(data=1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  """Several chunks for the pairs of a device, of which an uneven load needs more."""
  monkeypatch.setattr(moe, "_FEW", 4)


def layer_params(model, routing):
  """Parameters of the first layer's experts, whose router sends tokens as `routing` says."""
  params = jax.tree.map(lambda x: x[0], tiny.random_params(model)["layers"]["experts"])
  router = np.array(params["router_kernel"])
  router -= router.mean(axis=0)  # activations are positive: else all tokens prefer the same
  if routing == "one":  # these three, of which two have the same device
    router[:, [1, 2, 6]] += 2.0
  if routing == "none":  # an expert without tokens
    router[:, 5] = -2.0
  return params | {"router_kernel": router}


def layer(model, parallel, routing, x, gradient, counts, finish=lambda params: params):
  """The layer's result, load, and gradients of x and parameters, and the program."""
  def fn(rows, params):
    x, gradient, counts = rows

    def apply(params, x):
      out, load = moe.Experts(model).apply({"params": params}, x, counts)
      return jnp.sum(out.astype(jnp.float32) * gradient) + jnp.sum(jnp.sin(load)), (out, load)

    found, (out, load) = jax.grad(apply, (0, 1), has_aux=True)(params, x)
    return (out, found[1]), (load, finish(found[0]))

  layout = make_layout(parallel)
  of_layer = lambda leaf: leaf.replace(  # without the axis of layers
      value=jax.ShapeDtypeStruct(leaf.value.shape[1:], leaf.value.dtype), names=leaf.names[1:])
  boxed = jax.tree.map(of_layer, models.abstract_boxed_params(model)["layers"]["experts"],
                       is_leaf=lambda x: hasattr(x, "names"))
  params = layout.put_params(layer_params(model, routing), boxed)
  program = layout.compile_whole(fn)
  args = layout.put_rows((x, gradient, counts)), params
  return jax.device_get(program(*args)), program.lower(*args)


def assert_near(found, expected):
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def layer_arrays(rows=16, dtype=np.float32):
  random = np.random.default_rng(0)
  x, gradient = np.abs(random.standard_normal((2, rows, 5, MODEL.width))).astype(np.float32)
  return x.astype(dtype), gradient, random.random((rows, 5)) < 0.8


@pytest.mark.parametrize("routing", ["spread", "one", "none"])
@meshes
def test_a_layer_is_that_of_one_device(name, routing):
  arrays = layer_arrays()
  found, _ = layer(MODEL, MESHES[name], routing, *arrays)
  expected, _ = layer(MODEL, ONE, routing, *arrays)
  load = expected[1][0][0]
  assert {"spread": load.min() > 0, "one": (load > 0).sum() == 3, "none": load[5] == 0}[routing]
  jax.tree.map(assert_near, found, expected)


def test_gradients_of_kernels_are_added_up_in_f32():
  """All tokens are alike, and each adds the same to a gradient: in bf16 it would stop at 256."""
  model = dataclasses.replace(MODEL, dtype="bfloat16")
  x, gradient, counts = layer_arrays(dtype=jnp.bfloat16)
  alike = [np.broadcast_to(array[:1, :1], (64, 5, MODEL.width)) for array in (x, gradient)]
  counts = np.ones((64, 5), bool)
  found, _ = layer(model, MESHES["data2_fsdp2_expert2"], "one", *alike, counts)
  one, _ = layer(model, ONE, "one", *(array[:8] for array in alike), counts[:8])
  for name in ("gate_kernel", "up_kernel", "down_kernel"):
    scale = np.abs(one[1][1][name]).max()
    assert found[1][1][name].dtype == np.float32
    np.testing.assert_allclose(found[1][1][name] / 8 / scale, one[1][1][name] / scale, atol=8e-3)


def test_each_expert_is_split_over_tensor_devices():
  of_shards = lambda params: jax.tree.map(lambda x: jnp.sum(jnp.sin(x)), params)
  _, program = layer(
      MODEL, MESHES["fsdp2_expert2_tensor2"], "spread", *layer_arrays(), finish=of_shards)
  lines = [line for line in program.compile().as_text().splitlines() if COLLECTIVE.search(line)]
  assert [line for line in lines if re.search(r"\[4,24,20\]\S* all-gather", line)]
  assert not [line for line in lines if "[4,24,40]" in line]


@pytest.mark.parametrize("name", ["expert8", "data2_fsdp2_expert2"])
def test_kernels_of_experts_stay_on_their_devices(name):
  of_shards = lambda params: jax.tree.map(lambda x: jnp.sum(jnp.sin(x)), params)
  _, program = layer(MODEL, MESHES[name], "spread", *layer_arrays(), finish=of_shards)
  lines = [line for line in program.compile().as_text().splitlines() if COLLECTIVE.search(line)]
  assert lines and not [line for line in lines if re.search(r"\[8,(24,40|40,24)\]", line)]
  # What fsdp splits is gathered, and the gradient scattered, for the experts of the device.
  assert bool([line for line in lines if re.search(r"\[4,24,40\]\S* all-gather", line)]) == (
      name != "expert8")
  assert bool([line for line in lines if re.search(r"\[4,12,40\]\S* reduce-scatter", line)]) == (
      name != "expert8")


@meshes
def test_supervised_updates_are_those_of_one_device(name):
  state, metrics, _ = run_sft(MESHES[name], MODEL)
  expected, expected_metrics, _ = run_sft(ONE, MODEL)
  assert_close(state, expected)
  assert "loss/balance" in metrics
  for metric, (numerator, denominator) in expected_metrics.items():
    got = metrics[metric][0] / max(metrics[metric][1], 1.0)
    assert got == pytest.approx(numerator / max(denominator, 1.0), abs=1e-5), metric


GRPO = presets.grpo(minibatch_size=16, micro_batch_size=8, kl_coef=0.1)


@pytest.mark.parametrize("name", ["expert8", "data2_fsdp2_expert2", "fsdp2_expert2_tensor2"])
def test_grpo_is_that_of_one_device(name):
  found, expected = run_ppo(MESHES[name], GRPO, MODEL), run_ppo(ONE, GRPO, MODEL)
  np.testing.assert_array_equal(
      found.rollout.completion_tokens, expected.rollout.completion_tokens)
  assert_close(found.rollout, expected.rollout)
  assert_close(found.scores, expected.scores)
  assert_close(found.batch, expected.batch, 2e-5)
  assert_close(found.layout.get_state(found.state), expected.state)
  assert found.compilations == 0
  for metric, (numerator, denominator) in expected.metrics.items():
    value = np.sum(numerator) / max(np.sum(denominator), 1.0)
    other = found.metrics[metric][0].sum() / max(found.metrics[metric][1].sum(), 1.0)
    assert other == pytest.approx(value, abs=1e-5), metric


def test_groups_that_share_their_prompt_too():
  config = dataclasses.replace(GRPO, micro_batch_size=16)  # a group for each device
  found, expected = (run_ppo(mesh, config, MODEL, has_plan=True) for mesh in (
      MESHES["data2_fsdp2_expert2"], ONE))
  assert_close(found.scores, expected.scores)
  assert_close(found.layout.get_state(found.state), expected.state)


def test_adapters_on_quantised_experts_too():
  lora = models.LoRAConfig(rank=2, alpha=4.0, targets=("q", "v"))
  model = dataclasses.replace(MODEL, lora=lora)
  found, expected = (run_ppo(mesh, GRPO, model) for mesh in (
      MESHES["data2_fsdp2_expert2"], ONE))
  np.testing.assert_array_equal(
      found.rollout.completion_tokens, expected.rollout.completion_tokens)
  assert_close(found.scores, expected.scores)
  assert_close(found.layout.get_state(found.state), expected.state, 2e-5)


def test_sampling_gathers_no_expert():
  model = dataclasses.replace(MODEL, vocab_size=1030)
  layout = make_layout(MESHES["data2_fsdp2_expert2"])
  options = sampling.SamplingOptions(max_new_tokens=6)
  program = layout.compile_sampler(lambda params, prompts, key: sampling.sample(
      model, params, prompts, key, options=options, stop_ids=(1,), group_size=2))
  params = layout.put_params(tiny.random_params(model), models.abstract_boxed_params(model))
  prompts = layout.put_rows(types.Prompts(
      tokens=np.full((8, 3), 7, np.int32), mask=np.ones((8, 3), bool),
      index=np.arange(8, dtype=np.int32)))
  text = program.lower(params, prompts, jax.random.key(0)).compile().as_text()
  assert re.search(r"\[4,24,40\]\S* all-gather\(", text)  # over fsdp, once
  assert not re.search(r"\[8,(24,40|40,24)\]", text)
  # In a step, the activations of the axis, 4 rows.
  found = [line for line in in_loops(text) if COLLECTIVE.search(line)]
  sizes = [np.prod([int(n) for n in re.search(r"\[([\d,]*)\]", line)[1].split(",") if n])
           for line in found]
  assert max(sizes) == 4 * MODEL.width, found


def test_a_dense_model_only_splits_its_rows():
  state, _, _ = run_sft(MESHES["data2_fsdp2_expert2"])
  assert_close(state, run_sft(ONE)[0])


def test_experts_that_the_axis_does_not_divide_are_refused():
  layout = make_layout(ParallelConfig(data=1, expert=3))
  with pytest.raises(ValueError, match="config.parallel.expert: got 3, allowed: a divisor of 8, "):
    layout.param_shardings(models.abstract_boxed_params(MODEL))
