"""Tokens of rows that devices split: what they exchange, and the numbers, against one device."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import models, types
from rlreason.algorithms import PolicyGradientConfig, policy_gradient
from rlreason.models import heads
from rlreason.parallel import ParallelConfig, make_layout
from tests.algorithms import tiny
from tests.parallel.layout_test import assert_close
from tests.parallel.logits_test import COLLECTIVE

MESHES = {
    "sequence4": ParallelConfig(data=2, sequence=4),
    "fsdp2_sequence2_tensor2": ParallelConfig(fsdp=2, sequence=2, tensor=2, data=1),
    "sequence8": ParallelConfig(data=1, sequence=8)}
MODEL = dataclasses.replace(
    tiny.MODEL, vocab_size=37, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4)
KINDS = {
    "plain": {}, "sliding": dict(sliding_window=4, sliding_layers=(True, False)),
    "capped": dict(attention_softcap=2.0, logit_softcap=5.0),
    "experts": dict(num_experts=4, experts_per_token=2),
    "adapters": dict(lora=models.LoRAConfig(rank=2, alpha=4.0))}
meshes = pytest.mark.parametrize("name", MESHES)


def make_rows(count, length, has_gaps):
  """Tokens, segments and positions i32[B, T]: padding, two examples in a row, and gaps in it."""
  random = np.random.default_rng(0)
  columns = np.arange(length)
  ends = random.integers(length // 2, length + 1, (count, 1))
  segments = np.where(columns < length // 3, 1, 2) * ((columns >= 2) & (columns < ends))
  if has_gaps:
    segments = segments * (random.random((count, length)) < 0.8)
  positions = np.zeros((count, length), int)
  for segment in (1, 2):
    is_there = segments == segment
    positions = np.where(is_there, np.cumsum(is_there, axis=1) - 1, positions)
  return tuple(x.astype(np.int32) for x in (
      random.integers(2, 37, (count, length)), segments, positions))


def run(layout, model, count, length, has_gaps):
  """Log-probs and entropies of a model, and gradients of a loss of these."""
  tokens, segments, positions = make_rows(count, length, has_gaps)
  rows = tokens, segments, positions
  kept = (segments > 0)[:, 1:]

  def loss(params, tokens, segments, positions):
    hidden, balance = models.forward_and_balance(model, params, tokens, segments, positions)
    found = models.token_log_probs(model, params, hidden[:, :-1], tokens[:, 1:])
    found = jax.tree.map(lambda x: jnp.where(kept, x, 0.0), found)
    return jnp.sum(jnp.sin(found[0]) + 0.1 * found[1]) / kept.sum() + 0.1 * balance, found

  params = layout.put_params(tiny.random_params(model), models.abstract_boxed_params(model))
  program = layout.compile_whole(
      lambda _, params, *rows: (None, jax.value_and_grad(loss, has_aux=True)(params, *rows)))
  return jax.device_get(program(None, params, *rows)[1])


@functools.cache
def expected_of(kind, count, length, has_gaps):
  model = dataclasses.replace(MODEL, **KINDS[kind])
  return run(make_layout(ParallelConfig(data=1)), model, count, length, has_gaps)


@meshes
@pytest.mark.parametrize("kind, count, length, has_gaps", [
    ("plain", 8, 16, False), ("plain", 8, 13, True), ("plain", 3, 16, True), ("plain", 3, 17, True),
    ("sliding", 8, 13, False), ("capped", 8, 13, True), ("experts", 8, 16, False),
    ("experts", 4, 13, True), ("adapters", 8, 13, False)])
def test_numbers_are_those_of_one_device(name, kind, count, length, has_gaps):
  """Also of lengths and numbers of rows that the devices do not divide."""
  model = dataclasses.replace(MODEL, **KINDS[kind])
  (loss, found), gradients = run(make_layout(MESHES[name]), model, count, length, has_gaps)
  (expected_loss, expected), expected_gradients = expected_of(kind, count, length, has_gaps)
  assert abs(loss - expected_loss) < 1e-5
  assert_close(found, expected)
  assert_close(gradients, expected_gradients)
  assert all(np.abs(x).max() > 1e-6 for x in jax.tree.leaves(expected_gradients))


@meshes
def test_the_reward_of_whole_rows(name):
  """It is read at one token of a row, which one of the devices has."""
  random = np.random.default_rng(0)
  hidden = random.standard_normal((8, 24, 16)).astype(np.float32)
  mask = np.arange(24) < random.integers(0, 25, (8, 1))
  head = models.init_reward_head(16, jax.random.key(0))
  layout = make_layout(MESHES[name])
  program = layout.compile_whole(
      lambda rows, head: (heads.reward_of_rows(head, *rows), 0))
  found, _ = program(layout.put_rows((hidden, mask)), head)
  assert_close(found, heads.reward_of_rows(head, hidden, mask))


def shapes_of(text, kinds):
  """The sizes of the arrays that collectives of some kinds make."""
  lines = (line for line in text.splitlines() if COLLECTIVE.search(line))
  return [tuple(int(n) for n in re.search(r"\w\[([\d,]*)\]", line)[1].split(",") if n)
          for line in lines if COLLECTIVE.search(line)[1] in kinds]


@meshes
def test_no_device_has_all_tokens_of_a_row_but_for_keys_and_values(name):
  """The update of a policy and a critic: 8 rows of 24 + 232 tokens, of width 48."""
  layout = make_layout(MESHES[name])
  model = dataclasses.replace(MODEL, vocab_size=1030, width=48, num_layers=1)
  config = PolicyGradientConfig(minibatch_size=8, critic="separate")
  algorithm = policy_gradient(config, model, optax.adam(0.01), temperature=1.0, group_size=1)
  params = layout.put_params(tiny.random_params(model), models.abstract_boxed_params(model))
  critic = {"trunk": params, "value_head": models.init_value_head(model.width)}
  state = layout.put_state(algorithm.init({"policy": params, "critic": critic}))
  numbers, mask = np.ones((8, 232), np.float32), np.ones((8, 232), bool)
  batch = layout.put_rows(types.RolloutBatch(
      prompt_tokens=np.ones((8, 24), np.int32), prompt_mask=mask[:, :24],
      completion_tokens=np.ones((8, 232), np.int32), loss_mask=mask, old_log_probs=numbers,
      advantages=numbers, old_values=numbers, returns=numbers))
  program = layout.compile_update(algorithm.update_step, state)
  text = program.lower(state, batch, jax.random.key(0)).compile().as_text()
  gathered = shapes_of(text, ("all-gather",))
  columns = {232, 255, 256}
  assert any(256 in shape and shape[-1] == 4 for shape in gathered)  # keys and values
  for shape in gathered:
    assert not (columns & set(shape) and {48, 1030, 515} & set(shape)), shape
    assert np.prod(shape) <= max(8 * 256 * 2 * 4, 1030 * 48), shape
  # The states before the completions' tokens move by as many columns as prompts need.
  moved = shapes_of(text, ("collective-permute",))
  assert max(np.prod(shape) for shape in moved) <= 8 * 24 * 48
  for kind in ("all-to-all", "all-reduce"):
    assert not [shape for shape in shapes_of(text, (kind,)) if columns & set(shape) and (
        {48, 1030, 515} & set(shape))]


@meshes
def test_parameters_are_split_by_all_devices_of_different_tokens(name):
  layout = make_layout(MESHES[name])
  model = dataclasses.replace(MODEL, width=48)
  params = layout.put_params(tiny.random_params(model), models.abstract_boxed_params(model))
  kernel = params["layers"]["mlp"]["up"]["kernel"]
  assert np.prod(kernel.sharding.shard_shape(kernel.shape)) * 8 == kernel.size * (
      1 if name != "sequence4" else 2)  # `data` does not split them
