"""Prompts of a queue, some at once, against one call for all of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models, rollout, sampling
from rlreason.models import ModelConfig
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.sampling import SamplingOptions, continuous
from rlreason.sampling.continuous import Batching
from rlreason.tokenizers import WordTokenizer
from rlreason.types import Prompts
from tests.algorithms import tiny

TINY = ModelConfig(
    vocab_size=17, width=12, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=6, mlp_width=20)
WINDOWED = dataclasses.replace(TINY, sliding_window=4)
HEAD = {"kernel": np.linspace(-1, 1, TINY.width, dtype=np.float32), "bias": np.float32(0.3)}
STOP = (3, 5)
TOKENIZER = dataclasses.replace(WordTokenizer.from_words(tuple("abcdefghi")), eos_ids=tiny.STOP)


@functools.cache
def params_of(config):
  random = np.random.default_rng(0)
  is_scale = lambda path: path[-1].key == "scale"
  return jax.tree.map_with_path(
      lambda path, leaf: (0.4 * random.standard_normal(leaf.shape) + is_scale(path)).astype(
          leaf.dtype), models.abstract_params(config))


def make_prompts(count):
  random = np.random.default_rng(1)
  lengths = 1 + np.arange(count) % 5
  return Prompts(
      tokens=random.integers(0, TINY.vocab_size, (count, 5)).astype(np.int32),
      mask=np.arange(5) >= 5 - lengths[:, None], index=np.arange(count, dtype=np.int32))


closed = jax.jit(
    sampling.sample, static_argnums=0, static_argnames=("options", "stop_ids", "group_size"))
queued = jax.jit(
    continuous.sample_queue, static_argnums=(0, 1),
    static_argnames=("options", "stop_ids", "group_size"))


def assert_same(got, expected):
  """Tokens and masks bitwise, floats to the rounding of sums over caches of another length."""
  for name in ("prompt_tokens", "prompt_mask", "completion_tokens", "token_mask", "action_mask",
               "truncated"):
    np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
  for name in ("log_probs", "values"):
    np.testing.assert_allclose(getattr(got, name), getattr(expected, name), atol=1e-5)


@pytest.mark.parametrize("config, prompts, groups, group_size, new_tokens", [
    (TINY, 21, 8, 1, 40), (WINDOWED, 7, 2, 3, 12)])
def test_samples_are_those_of_one_call(config, prompts, groups, group_size, new_tokens):
  run = dict(
      options=SamplingOptions(max_new_tokens=new_tokens), stop_ids=STOP, group_size=group_size,
      value_head=HEAD)
  args = config, params_of(config), make_prompts(prompts), jax.random.key(4)
  got = queued(Batching(groups), *args, **run)
  assert_same(got, closed(*args, **run))
  lengths = np.asarray(got.token_mask.sum(axis=1))
  assert len(set(lengths.tolist())) > 2


def test_rows_that_never_end_and_rows_that_end_at_once():
  """The latter with fewer prompts than may be sampled at once."""
  options = SamplingOptions(max_new_tokens=6)
  args = TINY, params_of(TINY), make_prompts(7), jax.random.key(4)
  endless = queued(Batching(3), *args, options=options, stop_ids=(), value_head=HEAD)
  assert_same(endless, closed(*args, options=options, stop_ids=(), value_head=HEAD))
  assert np.all(endless.token_mask) and np.all(endless.truncated)
  short = queued(Batching(9), *args, options=options, stop_ids=tuple(range(17)))
  assert short.token_mask.sum(axis=1).tolist() == [1] * 7 and not np.any(short.truncated)
  np.testing.assert_array_equal(short.completion_tokens[:, 0], endless.completion_tokens[:, 0])


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_each_of_eight_devices_has_a_queue_of_its_own():
  run = dict(options=SamplingOptions(max_new_tokens=12), stop_ids=STOP, value_head=HEAD)
  prompts, params, key = make_prompts(32), params_of(TINY), jax.random.key(4)
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:8]), ("data",))
  sharded = jax.device_put(
      prompts, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
  batching = Batching(16, parts=8)
  assert_same(queued(batching, TINY, params, sharded, key, **run),
              closed(TINY, params, prompts, key, **run))
  text = queued.lower(batching, TINY, params, sharded, key, **run).compile().as_text()
  # Whether a loop continues depends on all devices; no data of a row leave their device.
  assert "all-reduce" in text and "all-gather" not in text and "all-to-all" not in text


def test_as_few_steps_as_rows_allow(monkeypatch):
  """30 rows, 5 at a time: far fewer steps than 6 batches that each wait for their longest row."""
  steps, original = [], models.decode_step
  def decode_step(*args):
    jax.debug.callback(lambda: steps.append(1))
    return original(*args)
  monkeypatch.setattr(models, "decode_step", decode_step)
  got = jax.jit(functools.partial(
      continuous.sample_queue, Batching(5), TINY, options=SamplingOptions(max_new_tokens=60),
      stop_ids=STOP))(params_of(TINY), make_prompts(30), jax.random.key(4))
  jax.effects_barrier()
  lengths = np.asarray(got.token_mask.sum(axis=1))
  waiting = lengths.reshape(6, 5).max(axis=1).sum() - 6
  fewest = -(-(lengths - 1).sum() // 5)
  assert fewest <= len(steps) < 0.7 * waiting
  assert len(steps) <= fewest + lengths.max()


def test_a_generator_of_a_queue_samples_as_one_of_batches():
  """Two devices with three batches of four prompts."""
  rows = [{"prompt": "a b c"[:1 + 2 * (i % 3)]} for i in range(12)]
  keys = jax.random.split(jax.random.key(1), 3)

  def make(layout, **settings):
    generate = rollout.make_generator(
        tiny.MODEL, TOKENIZER, layout, options=SamplingOptions(max_new_tokens=6), group_size=2,
        prompt_buckets=(4,), **settings)
    return functools.partial(generate, layout.put_state({"policy": tiny.random_params()}))

  generate = make(make_layout(ParallelConfig(data=2)))
  parts = [generate(rows[4 * i:4 * i + 4], keys[i]) for i in range(3)]
  expected = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  for mode in ("jit", "pmap"):
    layout = make_layout(ParallelConfig(data=2, mode=mode))
    batching = Batching(4 // layout.num_replicas, 2 // layout.num_replicas, batch=4)
    got = make(layout, sampler=functools.partial(continuous.sample_queue, batching))(rows, keys)
    np.testing.assert_array_equal(got.completion_tokens, expected.completion_tokens)
    np.testing.assert_array_equal(got.token_mask, expected.token_mask)


def test_what_does_not_divide():
  with pytest.raises(ValueError, match="groups: got 3, allowed: a multiple of 2, the parts"):
    continuous.sample_queue(
        Batching(3, parts=2), TINY, params_of(TINY), make_prompts(4), jax.random.key(0),
        options=SamplingOptions(max_new_tokens=2), stop_ids=())
