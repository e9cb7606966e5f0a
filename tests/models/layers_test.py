"""Norms, projections and the feed-forward layer, on hand-worked numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from rlreason.models import layers
from rlreason.models.config import ModelConfig


def _config(**fields):
  return ModelConfig(**{**dict(
      vocab_size=11, width=6, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=4, mlp_width=5),
                        **fields})


def test_rms_norm_hand_worked():
  norm = layers.RMSNorm(_config(norm_eps=0.5))
  # mean of squares 12.5, + 0.5 = 13
  got = norm.apply({"params": {"scale": jnp.array([1.0, 2.0])}}, jnp.array([[3.0, -4.0]]))
  np.testing.assert_allclose(got, [[3 / math.sqrt(13), -8 / math.sqrt(13)]], rtol=1e-6)


def test_rms_norm_with_a_scale_that_is_its_distance_from_1():
  norm = layers.RMSNorm(_config(norm_eps=0.5, unit_offset_norms=True))
  got = norm.apply({"params": {"scale": jnp.array([0.0, 1.0])}}, jnp.array([[3.0, -4.0]]))
  np.testing.assert_allclose(got, [[3 / math.sqrt(13), -8 / math.sqrt(13)]], rtol=1e-6)


def test_rms_norm_of_bf16_is_computed_in_f32():
  x = jnp.array([[300.0] + [1.0] * 255], jnp.bfloat16)
  norm = layers.RMSNorm(_config(norm_eps=0.0))
  got = norm.apply({"params": {"scale": jnp.ones(256)}}, x)
  assert got.dtype == jnp.bfloat16
  # In bf16, 90000 + 255 ones would lose every one of them.
  exact = x.astype(np.float32) / np.sqrt((90000 + 255) / 256)
  np.testing.assert_allclose(got.astype(np.float32), exact, rtol=2**-8)


def test_projection_is_an_einsum_with_bias():
  projection = layers.Projection(_config(), (2, 3), ("embed", "heads", "head_dim"), use_bias=True)
  x = jax.random.normal(jax.random.key(0), (4, 5, 6))
  kernel = jax.random.normal(jax.random.key(1), (6, 2, 3))
  bias = jax.random.normal(jax.random.key(2), (2, 3))
  got = projection.apply({"params": {"kernel": kernel, "bias": bias}}, x)
  expected = np.einsum("btd,dhk->bthk", x, kernel) + np.asarray(bias)
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_projection_of_two_axes():
  projection = layers.Projection(_config(), (6,), ("heads", "head_dim", "embed"), in_axes=2)
  x = jax.random.normal(jax.random.key(0), (4, 5, 2, 3))
  kernel = jax.random.normal(jax.random.key(1), (2, 3, 6))
  got = projection.apply({"params": {"kernel": kernel}}, x)
  np.testing.assert_allclose(got, np.einsum("bthk,hkd->btd", x, kernel), atol=1e-5)


def test_mlp_hand_worked():
  kernel = lambda value: {"kernel": jnp.array([[value]])}
  params = {"gate": kernel(0.5), "up": kernel(3.0), "down": kernel(10.0)}
  got = layers.MLP(_config(width=1, mlp_width=1)).apply({"params": params}, jnp.array([[2.0]]))
  np.testing.assert_allclose(got, [[10 * (1 / (1 + math.exp(-1))) * 6]], rtol=1e-6)


def test_mlp_with_the_gate_of_gemma():
  kernel = lambda value: {"kernel": jnp.array([[value]])}
  params = {"gate": kernel(0.5), "up": kernel(3.0), "down": kernel(10.0)}
  config = _config(width=1, mlp_width=1, activation="gelu_tanh")
  got = layers.MLP(config).apply({"params": params}, jnp.array([[2.0]]))
  # gate 1: 0.5 (1 + tanh(sqrt(2 / pi) 1.044715)) = 0.841192
  np.testing.assert_allclose(got, [[10 * 0.841192 * 6]], rtol=1e-5)
