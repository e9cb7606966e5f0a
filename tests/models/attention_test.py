"""Grouped-query attention against one written out head by head."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import masks
from rlreason.models import rope
from rlreason.models.attention import Attention
from rlreason.models.config import ModelConfig


def _config(**fields):
  return ModelConfig(**{**dict(
      vocab_size=11, width=10, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=6, mlp_width=5),
                        **fields})


def _rotations(positions, config):
  return tuple(part[0] for part in rope.rope_rotations(positions, config))


def _params(config):
  x = jnp.zeros((1, 1, config.width))
  shapes = jax.eval_shape(lambda: nn.unbox(Attention(config).init(
      jax.random.key(0), x, _rotations(jnp.zeros((1, 1)), config),
      mask=jnp.ones((1, 1, 1, 1), bool))))
  random = np.random.default_rng(0)
  return jax.tree.map(
      lambda leaf: jnp.asarray(0.5 * random.standard_normal(leaf.shape), leaf.dtype),
      shapes["params"])


def _reference(config, params, x, positions, mask):
  """softmax(q k / sqrt(h)) v for one head at a time."""
  project = lambda name: (
      np.einsum("btd,dnh->btnh", x, params[name]["kernel"])
      + (np.asarray(params[name]["bias"]) if config.qkv_bias else 0.0))
  query, key, value = project("q"), project("k"), project("v")
  if config.qk_norm:
    norm = lambda x, name: x / np.sqrt(
        np.mean(x**2, -1, keepdims=True) + config.norm_eps) * np.asarray(params[name]["scale"])
    query, key = norm(query, "q_norm"), norm(key, "k_norm")
  rotations = _rotations(positions, config)
  query, key = [np.asarray(rope.apply_rope(jnp.asarray(x), rotations)) for x in (query, key)]
  out = np.zeros_like(query)
  for row in range(x.shape[0]):
    for head in range(config.num_heads):
      kv = head // (config.num_heads // config.num_kv_heads)
      scores = query[row, :, head] @ key[row, :, kv].T / np.sqrt(
          config.score_width or config.head_dim)
      if config.attention_softcap:
        scores = config.attention_softcap * np.tanh(scores / config.attention_softcap)
      scores = np.where(mask[row, 0], scores, -np.inf)
      weights = np.exp(scores - scores.max(-1, keepdims=True))
      out[row, :, head] = weights / weights.sum(-1, keepdims=True) @ value[row, :, kv]
  return np.einsum("btnh,nhd->btd", out, params["o"]["kernel"])


@pytest.mark.parametrize("fields", [
    {}, dict(qkv_bias=True), dict(qk_norm=True), dict(num_kv_heads=4), dict(num_kv_heads=1),
    dict(score_width=20), dict(attention_softcap=0.7, score_width=2)])
def test_attention_is_softmax_attention_head_by_head(fields):
  config = _config(**fields)
  params = _params(config)
  x = jax.random.normal(jax.random.key(2), (2, 5, config.width))
  segment_ids = jnp.array([[0, 1, 1, 1, 1], [1, 1, 2, 2, 2]])
  positions = jnp.array([[0, 0, 1, 2, 3], [0, 1, 0, 1, 2]])
  mask = masks.attention_mask(segment_ids)
  rotations = _rotations(positions, config)
  got, (keys, values) = jax.jit(Attention(config).apply)(
      {"params": params}, x, rotations, mask=mask)
  np.testing.assert_allclose(
      got, _reference(config, params, np.asarray(x), positions, np.asarray(mask)), atol=2e-5)
  assert keys.shape == values.shape == (2, 5, config.num_kv_heads, config.head_dim)


def test_one_token_attends_to_itself():
  config = _config()
  params = _params(config)
  x = jax.random.normal(jax.random.key(2), (1, 1, config.width))
  got, (_, values) = jax.jit(Attention(config).apply)(
      {"params": params}, x, _rotations(jnp.array([[7]]), config),
      mask=jnp.ones((1, 1, 1, 1), bool))
  expected = np.einsum("btnh,nhd->btd", np.repeat(values, 2, axis=2), params["o"]["kernel"])
  np.testing.assert_allclose(got, expected, atol=1e-5)
