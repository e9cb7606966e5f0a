"""The decode loop against full forward passes without a cache, token by token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models, sampling
from rlreason.models.config import ModelConfig
from rlreason.sampling import SamplingOptions, segments
from rlreason.sampling import logits as logits_lib
from rlreason.types import Prompts

TINY = ModelConfig(
    vocab_size=17, width=12, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6, mlp_width=20)
QWEN2 = dataclasses.replace(TINY, qkv_bias=True, tie_embeddings=False)
QWEN3 = dataclasses.replace(TINY, qk_norm=True)

forward = jax.jit(models.forward, static_argnums=0)
logits_of = jax.jit(models.logits, static_argnums=0)
sample = jax.jit(
    sampling.sample, static_argnums=0, static_argnames=("options", "stop_ids", "group_size"))


@functools.cache
def _params(config):
  random = np.random.default_rng(0)
  draw = lambda leaf: jnp.asarray(0.4 * random.standard_normal(leaf.shape), leaf.dtype)
  is_scale = lambda path: path[-1].key == "scale"
  return jax.tree.map_with_path(
      lambda path, leaf: draw(leaf) + jnp.asarray(is_scale(path), leaf.dtype),
      models.abstract_params(config))


def _prompts(lengths=(3, 5), columns=5):
  random = np.random.default_rng(1)
  tokens = random.integers(0, TINY.vocab_size, (len(lengths), 5))
  tokens = np.pad(tokens, ((0, 0), (columns - 5, 0)), constant_values=9)
  return Prompts(
      tokens=jnp.asarray(tokens, jnp.int32),
      mask=jnp.arange(columns)[None] >= columns - jnp.asarray(lengths)[:, None],
      index=jnp.arange(len(lengths), dtype=jnp.int32))


def _head():
  return {"kernel": jax.random.normal(jax.random.key(3), (TINY.width,)), "bias": jnp.float32(0.3)}


def _hidden(config, params, rollout):
  """Hidden states [B, T, D] that the completion tokens were sampled from, without a cache."""
  tokens = jnp.concatenate([rollout.prompt_tokens, rollout.completion_tokens], axis=1)
  mask = jnp.concatenate([rollout.prompt_mask, rollout.token_mask], axis=1)
  start = rollout.prompt_tokens.shape[1] - 1
  return forward(config, params, tokens, mask)[:, start:-1]


@functools.partial(jax.jit, static_argnames=("options", "group_size"))
def _expected(logits, previous, key, options, group_size):
  """Tokens and log-probs [B, T], of logits [B, T, V], the tokens before and the documented keys."""
  row = jnp.arange(logits.shape[0])

  def of_step(t, logits, previous):
    logits = logits_lib.block_bigrams(logits, previous, options.blocked_bigrams)
    if options.temperature == 0:
      return jnp.argmax(logits, axis=1), jnp.max(jax.nn.log_softmax(logits), axis=1)
    key_of = lambda row: jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(
        key, row // group_size), row % group_size), t)
    uniforms = jax.vmap(lambda row: jax.random.uniform(key_of(row), (2,)))(row)
    return logits_lib.choose(logits_lib.filter_logits(logits, options), uniforms)

  return jax.vmap(of_step, in_axes=(0, 1, 1), out_axes=1)(
      jnp.arange(logits.shape[1]), logits, previous)


def _assert_follows_the_model(config, params, rollout, key, options, group_size, head=None):
  """Every token, log-prob and value again, from a full forward pass and the documented keys."""
  hidden = _hidden(config, params, rollout)
  previous = jnp.concatenate(
      [rollout.prompt_tokens[:, -1:], rollout.completion_tokens[:, :-1]], axis=1)
  mask = np.asarray(rollout.token_mask)
  tokens, log_probs = _expected(
      logits_of(config, params, hidden), previous, key, options, group_size)
  np.testing.assert_array_equal(rollout.completion_tokens[mask], tokens[mask])
  np.testing.assert_allclose(rollout.log_probs[mask], log_probs[mask], atol=1e-5)
  if head is not None:
    values = np.where(mask, models.apply_value_head(head, hidden), 0.0)
    # Of values up to 3: f32 keeps the sixth digit of the largest term of a sum, not of the sum.
    np.testing.assert_allclose(
        rollout.values, values, rtol=0, atol=1e-5 * max(1.0, float(np.max(np.abs(values)))))
  assert not np.any(rollout.completion_tokens[~mask]) and not np.any(rollout.log_probs[~mask])


def _assert_ends_as_documented(rollout, stop_ids):
  """The mask covers all up to the first stop token, and that one; the rest is truncated."""
  for tokens, mask, truncated in zip(
      np.asarray(rollout.completion_tokens), np.asarray(rollout.token_mask),
      np.asarray(rollout.truncated), strict=True):
    length = mask.sum()
    assert mask[:length].all() and length >= 1
    is_stop = np.isin(tokens[:length], stop_ids)
    assert not is_stop[:-1].any()
    assert truncated == (not is_stop[-1])
    assert length == len(mask) or not truncated


@pytest.mark.parametrize("config", [TINY, QWEN2, QWEN3], ids=["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_tokens_log_probs_and_values_are_those_of_full_forward_passes(config, temperature):
  params, options = _params(config), SamplingOptions(max_new_tokens=40, temperature=temperature)
  key = jax.random.key(7)
  rollout = sample(
      config, params, _prompts(), key, options=options, stop_ids=(3, 5), group_size=2,
      value_head=_head())
  _assert_follows_the_model(config, params, rollout, key, options, 2, _head())
  _assert_ends_as_documented(rollout, (3, 5))


@pytest.mark.parametrize("fields", [
    dict(top_k=3), dict(top_p=0.7), dict(min_p=0.2),
    dict(temperature=1.3, top_k=8, top_p=0.9, min_p=0.05,
         blocked_bigrams=(((1, 2, 3, 4), (5, 6, 7)),)),
    dict(temperature=0.0, blocked_bigrams=((tuple(range(17)), (1, 4, 8)),))])
def test_filters_in_the_loop(fields):
  options, key = SamplingOptions(max_new_tokens=6, **fields), jax.random.key(1)
  rollout = sample(
      TINY, _params(TINY), _prompts(), key, options=options, stop_ids=(), group_size=3)
  _assert_follows_the_model(TINY, _params(TINY), rollout, key, options, 3)
  assert rollout.values is None
  if options.temperature == 0:
    assert not np.isin(rollout.completion_tokens, (1, 4, 8)).any()


@pytest.mark.parametrize("max_new_tokens", [1, 2])
def test_one_prompt_of_one_token_and_one_or_two_new_ones(max_new_tokens):
  options, key = SamplingOptions(max_new_tokens=max_new_tokens), jax.random.key(2)
  prompts = Prompts(
      tokens=jnp.array([[4]]), mask=jnp.ones((1, 1), bool), index=jnp.zeros(1, jnp.int32))
  rollout = sample(
      TINY, _params(TINY), prompts, key, options=options, stop_ids=(), value_head=_head())
  assert rollout.completion_tokens.shape == rollout.values.shape == (1, max_new_tokens)
  _assert_follows_the_model(TINY, _params(TINY), rollout, key, options, 1, _head())
  assert rollout.truncated.tolist() == [True]


def test_all_rows_end_at_once():
  options = SamplingOptions(max_new_tokens=50)
  rollout = sample(
      TINY, _params(TINY), _prompts(), jax.random.key(0), options=options,
      stop_ids=tuple(range(17)), group_size=2)
  assert rollout.token_mask.sum(axis=1).tolist() == [1] * 4
  assert not np.any(rollout.truncated)


def test_the_program_stops_when_every_row_has_ended():
  steps = []
  options, head = SamplingOptions(max_new_tokens=400), _head()
  # A value head that reports each call: one per token of the longest row.
  apply = lambda hidden: jax.debug.callback(lambda: steps.append(1))
  original = models.apply_value_head
  try:
    models.apply_value_head = lambda head, hidden: (apply(hidden), original(head, hidden))[1]
    rollout = jax.jit(functools.partial(
        sampling.sample, TINY, options=options, stop_ids=(3, 5, 9, 12), group_size=2))(
            _params(TINY), _prompts(), jax.random.key(5), value_head=head)
    jax.effects_barrier()
  finally:
    models.apply_value_head = original
  longest = int(rollout.token_mask.sum(axis=1).max())
  assert len(steps) == longest < 400


@pytest.mark.parametrize("columns", [6, 9, 16])
def test_wider_padding_changes_nothing(columns):
  options = SamplingOptions(max_new_tokens=20)
  run = lambda prompts: sample(
      TINY, _params(TINY), prompts, jax.random.key(4), options=options, stop_ids=(3,),
      group_size=2)
  narrow, wide = run(_prompts()), run(_prompts(columns=columns))
  np.testing.assert_array_equal(narrow.completion_tokens, wide.completion_tokens)
  np.testing.assert_allclose(narrow.log_probs, wide.log_probs, atol=1e-5)


def test_a_batch_split_in_two_gives_the_same_samples():
  prompts, options = _prompts(lengths=(3, 5, 1, 4)), SamplingOptions(max_new_tokens=20)
  run = lambda prompts: sample(
      TINY, _params(TINY), prompts, jax.random.key(4), options=options, stop_ids=(3,),
      group_size=3)
  whole = run(prompts)
  parts = [run(jax.tree.map(lambda x: x[rows], prompts)) for rows in (slice(0, 1), slice(1, 4))]
  joined = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
  np.testing.assert_array_equal(whole.completion_tokens, joined.completion_tokens)
  np.testing.assert_array_equal(whole.token_mask, joined.token_mask)
  np.testing.assert_allclose(whole.log_probs, joined.log_probs, atol=1e-5)


def test_group_size_does_not_change_the_first_samples():
  options = SamplingOptions(max_new_tokens=8)
  run = lambda group_size: sample(
      TINY, _params(TINY), _prompts(), jax.random.key(4), options=options, stop_ids=(),
      group_size=group_size).completion_tokens.reshape(2, group_size, 8)
  np.testing.assert_array_equal(run(3)[:, :2], run(2))
  assert not np.array_equal(run(3)[:, 0], run(3)[:, 1])


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_prompts_sharded_over_eight_devices_give_the_same_samples():
  prompts, options = _prompts(lengths=(3, 5, 1, 4, 2, 5, 5, 3)), SamplingOptions(max_new_tokens=40)
  run = lambda prompts, params: sample(
      TINY, params, prompts, jax.random.key(4), options=options, stop_ids=(3,), group_size=2)
  one = run(prompts, _params(TINY))
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:8]), ("data",))
  sharded = lambda *axes: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
  eight = run(jax.device_put(prompts, sharded("data")), jax.device_put(_params(TINY), sharded()))
  np.testing.assert_array_equal(one.completion_tokens, eight.completion_tokens)
  np.testing.assert_array_equal(one.truncated, eight.truncated)
  np.testing.assert_allclose(one.log_probs, eight.log_probs, atol=1e-5)


def test_bf16_computation():
  config = dataclasses.replace(TINY, dtype="bfloat16")
  options = SamplingOptions(max_new_tokens=8)
  rollout = sample(
      config, _params(TINY), _prompts(), jax.random.key(4), options=options, stop_ids=(),
      group_size=2, value_head=_head())
  assert rollout.log_probs.dtype == rollout.values.dtype == jnp.float32

  def log_probs(config):
    logits = models.logits(config, _params(TINY), _hidden(config, _params(TINY), rollout))
    return jnp.take_along_axis(
        jax.nn.log_softmax(logits), rollout.completion_tokens[..., None], axis=2)[..., 0]

  # Rounding of one path says nothing of another's: both are held against f32.
  exact = log_probs(TINY)
  error = lambda x: float(jnp.mean(jnp.abs(x - exact)))
  assert error(rollout.log_probs) < 2 * error(log_probs(config)) < 0.1


@pytest.mark.parametrize("needed, lengths", [
    (1, [1]), (31, [31]), (32, [32]), (33, [32, 33]), (128, [32, 128]),
    (1000, [32, 128, 512, 1000])])
def test_segments(needed, lengths):
  assert segments.lengths(needed + 1) == lengths


@pytest.mark.parametrize("group, budgets", [
    (1, [0]), (2, [0]), (4, [1, 0]), (6, [1, 0]), (16, [4, 1, 0]), (64, [16, 4, 1, 0])])
def test_row_budgets(group, budgets):
  assert segments.row_budgets(group) == budgets


@pytest.mark.parametrize("group_size, lengths", [(1, (3, 5)), (2, (3, 5)), (7, (5, 2)), (16, (4,))])
def test_rows_that_leave_the_loop_change_nothing(group_size, lengths):
  """Tokens are those of a run in which no row ends, up to the first that stops a row."""
  run = functools.partial(
      sample, TINY, _params(TINY), _prompts(lengths), jax.random.key(11),
      options=SamplingOptions(max_new_tokens=50), group_size=group_size, value_head=_head())
  rollout, endless = run(stop_ids=(3,)), run(stop_ids=())
  is_stop = np.asarray(endless.completion_tokens) == 3
  mask = np.cumsum(is_stop, axis=1) - is_stop == 0
  np.testing.assert_array_equal(rollout.token_mask, mask)
  np.testing.assert_array_equal(rollout.truncated, ~is_stop.any(axis=1))
  np.testing.assert_array_equal(
      rollout.completion_tokens, np.where(mask, endless.completion_tokens, 0))
  for ours, whole in ((rollout.log_probs, endless.log_probs), (rollout.values, endless.values)):
    np.testing.assert_allclose(ours, np.where(mask, whole, 0.0), atol=1e-5)
  assert len(set(mask.sum(axis=1))) > min(group_size, 4) - 1  # they end one after the other


def test_errors_name_what_is_allowed():
  run = functools.partial(sampling.sample, TINY, _params(TINY), _prompts(), jax.random.key(0))
  with pytest.raises(ValueError, match="max_new_tokens: got 9000 after prompts of 5 columns"):
    run(options=SamplingOptions(max_new_tokens=9000), stop_ids=())
  with pytest.raises(ValueError, match="stop_ids: got 17, allowed: 0 to 16"):
    run(options=SamplingOptions(max_new_tokens=2), stop_ids=(3, 17))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rows_that_only_fill_the_embedding_are_never_sampled(temperature):
  """And the log-probs are those of the trainer, which leaves them out too: the ratio is 1."""
  config = models.with_tokens(QWEN2, 11)
  params = dict(_params(QWEN2))
  kernel = params["lm_head"]["kernel"]
  params["lm_head"] = {"kernel": kernel.at[:, 11:].multiply(30.0)}  # each the likeliest at times
  options = SamplingOptions(max_new_tokens=9, temperature=temperature, top_p=1.0)
  draw = lambda config: sample(
      config, params, _prompts(), jax.random.key(7), options=options, stop_ids=(3,), group_size=2)
  assert np.max(draw(QWEN2).completion_tokens) >= 11
  rollout = draw(config)
  mask = np.asarray(rollout.token_mask)
  assert np.max(rollout.completion_tokens[mask]) < 11
  log_probs, _ = models.token_log_probs(
      config, params, _hidden(config, params, rollout), rollout.completion_tokens,
      temperature=temperature)
  np.testing.assert_allclose(rollout.log_probs[mask], log_probs[mask], atol=1e-5)


def test_a_tokenizer_of_as_many_tokens_as_rows_changes_nothing():
  assert models.with_tokens(QWEN2, QWEN2.vocab_size) == QWEN2
  assert models.with_tokens(QWEN2, QWEN2.vocab_size + 3) == QWEN2
  with pytest.raises(ValueError, match="num_tokens: got 18, allowed: 1 to vocab_size=17, or None"):
    dataclasses.replace(QWEN2, num_tokens=18)
