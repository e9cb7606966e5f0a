"""The cache in two parts attends as one softmax over prompt and generated tokens would."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason.models import cache as kv_cache


def _cache(prompts, group, kv_heads, prompt_length, length, size, dtype=jnp.float32):
  shapes = [
      (prompts, kv_heads, size, prompt_length), (prompts, kv_heads, prompt_length, size),
      (prompts * group, kv_heads, size, length), (prompts * group, kv_heads, length, size)]
  random = np.random.default_rng(0)
  return kv_cache.LayerCache(*[
      jnp.asarray(random.standard_normal(shape), dtype) for shape in shapes])


_attend_step = jax.jit(kv_cache.attend)


def _attend(query, cache, prompt_mask, slot, **options):
  """One new token per row, all in one slot, or each in its own."""
  size, slots = query.shape[-1], jnp.broadcast_to(jnp.asarray(slot), query.shape[:1])
  step = kv_cache.DecodeStep(cache, prompt_mask, slots[:, None], **options)
  return _attend_step(query[:, None] * size ** -0.5, step)[:, 0]


def _reference(query, cache, prompt_mask, slot):
  """One row and one head at a time, in float64."""
  query = np.asarray(query, np.float64)
  batch, heads, size = query.shape
  prompts, kv_heads, _, _ = cache.prompt_keys.shape
  out = np.zeros_like(query)
  for row in range(batch):
    prompt = row // (batch // prompts)
    kept = np.asarray(prompt_mask[prompt])
    for head in range(heads):
      kv = head // (heads // kv_heads)
      keys = np.concatenate([
          np.asarray(cache.prompt_keys)[prompt, kv].T[kept],
          np.asarray(cache.keys)[row, kv].T[:slot + 1]])
      values = np.concatenate([
          np.asarray(cache.prompt_values)[prompt, kv][kept],
          np.asarray(cache.values)[row, kv, :slot + 1]])
      scores = keys.astype(np.float64) @ query[row, head] / np.sqrt(size)
      weights = np.exp(scores - scores.max())
      out[row, head] = weights @ values / weights.sum()
  return out


@pytest.mark.parametrize("prompts, group, kv_heads, repeats, slot", [
    (2, 3, 2, 2, 3), (1, 1, 1, 1, 0), (3, 1, 1, 3, 6), (1, 4, 3, 1, 5)])
def test_attend_is_a_softmax_over_prompt_and_own_tokens(prompts, group, kv_heads, repeats, slot):
  cache = _cache(prompts, group, kv_heads, prompt_length=5, length=7, size=6)
  query = jax.random.normal(jax.random.key(1), (prompts * group, kv_heads * repeats, 6))
  prompt_mask = jnp.arange(5)[None] >= jnp.arange(prompts)[:, None]
  got = _attend(query, cache, prompt_mask, slot)
  np.testing.assert_allclose(got, _reference(query, cache, prompt_mask, slot), atol=1e-5)


def test_attend_does_not_look_at_masked_or_later_slots():
  cache = _cache(2, 2, 1, prompt_length=4, length=5, size=4)
  query = jax.random.normal(jax.random.key(1), (4, 2, 4))
  prompt_mask = jnp.array([[False, True, True, True], [False, False, False, True]])
  is_earlier = (jnp.arange(5) <= 2)[None, None]
  garbage = cache.replace(
      prompt_keys=jnp.where(prompt_mask[:, None, None], cache.prompt_keys, 1e6),
      prompt_values=jnp.where(prompt_mask[:, None, :, None], cache.prompt_values, 1e6),
      keys=jnp.where(is_earlier[:, :, None], cache.keys, 1e6),
      values=jnp.where(is_earlier[..., None], cache.values, 1e6))
  np.testing.assert_array_equal(
      _attend(query, garbage, prompt_mask, 2),
      _attend(query, cache, prompt_mask, 2))


def test_attend_with_a_prompt_of_one_token():
  # Two equal scores: the mean of both values.
  keys, values = jnp.ones((1, 1, 2, 1)), jnp.ones((1, 1, 1, 2))
  cache = kv_cache.LayerCache(
      prompt_keys=keys, prompt_values=3 * values, keys=keys, values=5 * values)
  got = _attend(jnp.ones((1, 1, 2)), cache, jnp.ones((1, 1), bool), 0)
  np.testing.assert_allclose(got, [[[4.0, 4.0]]], rtol=1e-6)


def test_write_then_grow_keeps_what_is_there():
  cache = _cache(1, 2, 2, prompt_length=3, length=4, size=2)
  key, value = jax.random.normal(jax.random.key(2), (2, 2, 2, 2))
  grown = kv_cache.grow(
      kv_cache.write(cache, key[:, None], value[:, None], jnp.full((2, 1), 3)), 6)
  assert grown.keys.shape == (2, 2, 2, 6) and grown.values.shape == (2, 2, 6, 2)
  np.testing.assert_array_equal(grown.keys[..., :3], cache.keys[..., :3])
  np.testing.assert_array_equal(grown.keys[..., 3], key)
  np.testing.assert_array_equal(grown.values[:, :, :3], cache.values[:, :, :3])
  np.testing.assert_array_equal(grown.values[:, :, 3], value)
  np.testing.assert_array_equal(grown.prompt_keys, cache.prompt_keys)


def test_rows_write_in_slots_of_their_own_and_none_beyond_the_cache():
  """Two tokens a row; slots before the first and after the last are none."""
  cache = _cache(1, 3, 1, prompt_length=2, length=3, size=2)
  keys, values = jax.random.normal(jax.random.key(2), (2, 3, 2, 1, 2))
  slots = jnp.array([[0, 1], [2, 3], [-1, 0]])
  got = jax.jit(kv_cache.write)(cache, keys, values, slots)
  expected_keys, expected_values = np.array(cache.keys), np.array(cache.values)
  for row, token, slot in ((0, 0, 0), (0, 1, 1), (1, 0, 2), (2, 1, 0)):
    expected_keys[row, :, :, slot] = keys[row, token]
    expected_values[row, :, slot] = values[row, token]
  np.testing.assert_array_equal(got.keys, expected_keys)
  np.testing.assert_array_equal(got.values, expected_values)


def test_several_tokens_attend_as_one_after_the_other():
  cache = _cache(2, 2, 2, prompt_length=5, length=6, size=4)
  query = jax.random.normal(jax.random.key(1), (4, 3, 4, 4))
  prompt_mask = jnp.arange(5)[None] >= jnp.arange(2)[:, None]
  slots = jnp.array([[0, 1, 2], [3, 4, 5], [1, 2, 3], [2, 3, 4]])
  of_tokens = jnp.broadcast_to(prompt_mask.repeat(2, axis=0)[:, None], (4, 3, 5)) & (
      jnp.arange(5)[None, None] >= slots[..., None] - 2)
  for mask in (prompt_mask, of_tokens):
    step = lambda t, mask=mask: kv_cache.DecodeStep(
        cache, mask if mask.ndim == 2 else mask[:, t], slots[:, t], window=4)
    whole = _attend_step(query, step(slice(0, 3)))
    for t in range(3):
      one = slice(t, t + 1)
      np.testing.assert_allclose(
          whole[:, one], _attend_step(query[:, one], step(one)), rtol=1e-6, atol=1e-6)


def test_attend_in_bf16_has_f32_scores():
  cache = _cache(2, 2, 1, prompt_length=9, length=5, size=16, dtype=jnp.bfloat16)
  query = jax.random.normal(jax.random.key(1), (4, 2, 16), jnp.bfloat16)
  prompt_mask = jnp.ones((2, 9), bool)
  got = _attend(query, cache, prompt_mask, 4)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(
      got.astype(np.float32), _reference(query, cache, prompt_mask, 4), atol=0.03)


def test_attend_within_a_window():
  """Slots 2, 3 and 4 of a window of 3 at slot 4, and none of the prompt."""
  cache = _cache(1, 2, 1, prompt_length=3, length=6, size=4)
  query = jax.random.normal(jax.random.key(1), (2, 2, 4))
  got = _attend(query, cache, jnp.zeros((1, 3), bool), 4, window=3)
  late = cache.replace(keys=cache.keys[..., 2:], values=cache.values[:, :, 2:])
  np.testing.assert_allclose(
      got, _attend(query, late, jnp.zeros((1, 3), bool), 2), rtol=1e-5)


def test_rows_of_each_group_are_kept_in_the_order_asked_for():
  """Places 2 and 0 of the first prompt's three rows, 1 and 2 of the second's."""
  cache, kept = _cache(2, 3, 1, prompt_length=2, length=2, size=2), jnp.array([[2, 0], [1, 2]])
  got = kv_cache.keep_rows(cache, kept)
  for new, old in ((got.keys, cache.keys), (got.values, cache.values)):
    np.testing.assert_array_equal(new, np.asarray(old)[[2, 0, 4, 5]])
  np.testing.assert_array_equal(got.prompt_keys, cache.prompt_keys)
