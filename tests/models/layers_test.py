"""Norms, projections and rotary positions, on hand-worked numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason.models import layers
from rlreason.models.config import Llama3RopeScaling, ModelConfig


def _config(**fields):
  return ModelConfig(**{**dict(
      vocab_size=11, width=6, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=4, mlp_width=5),
                        **fields})


def _rotate(x, positions):
  return layers.apply_rope(x, layers.rope_rotations(jnp.array(positions), _config()))


def test_rms_norm_hand_worked():
  norm = layers.RMSNorm(epsilon=0.5, param_dtype="float32")
  # mean of squares 12.5, + 0.5 = 13
  got = norm.apply({"params": {"scale": jnp.array([1.0, 2.0])}}, jnp.array([[3.0, -4.0]]))
  np.testing.assert_allclose(got, [[3 / math.sqrt(13), -8 / math.sqrt(13)]], rtol=1e-6)


def test_rms_norm_of_bf16_is_computed_in_f32():
  x = jnp.array([[300.0] + [1.0] * 255], jnp.bfloat16)
  norm = layers.RMSNorm(epsilon=0.0, param_dtype="float32")
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


def test_rope_rotates_pairs_half_a_head_apart():
  # Frequencies 1 and 0.01: pairs (0, 2) and (1, 3).
  x = jnp.array([1.0, 0.0, 0.0, 2.0])[None, None, None]
  got = _rotate(x, [[3]])[0, 0, 0]
  expected = [math.cos(3), -2 * math.sin(0.03), math.sin(3), 2 * math.cos(0.03)]
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_rope_at_position_zero_changes_nothing():
  x = jax.random.normal(jax.random.key(0), (2, 3, 2, 4))
  np.testing.assert_array_equal(_rotate(x, [[0] * 3] * 2), x)


def test_rope_products_depend_on_the_distance_only():
  query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 4))
  product = lambda i, j: float(jnp.sum(_rotate(query, [[i]]) * _rotate(key, [[j]])))
  assert product(17, 12) == pytest.approx(product(5, 0), abs=1e-5)
  assert product(12, 17) != pytest.approx(product(17, 12), abs=1e-3)


def test_rope_of_bf16_keeps_far_positions_apart():
  # 4097 is not a bf16 number; angles in bf16 would be those of 4096.
  x = jnp.array([1.0, 0.0, 0.0, 0.0], jnp.bfloat16)[None, None, None]
  got = _rotate(x, [[4097]])[0, 0, 0]
  np.testing.assert_allclose(got.astype(np.float32)[0], math.cos(4097), atol=0.01)


def test_llama3_scaling_of_slow_fast_and_middle_pairs():
  scaling = Llama3RopeScaling(
      factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192)
  plain = np.asarray(layers.rope_frequencies(_config(head_dim=128, rope_theta=500000.0)))
  scaled = np.asarray(layers.rope_frequencies(
      _config(head_dim=128, rope_theta=500000.0, rope_scaling=scaling)))
  wavelengths = 2 * np.pi / plain
  fast, slow = wavelengths < 8192 / 4, wavelengths > 8192
  np.testing.assert_array_equal(scaled[fast], plain[fast])
  np.testing.assert_allclose(scaled[slow], plain[slow] / 8, rtol=1e-6)
  # (8192 / wavelength - 1) / 3 of the plain frequency, the rest of the divided one.
  middle = ~fast & ~slow
  share = (8192 / wavelengths[middle] - 1) / 3
  np.testing.assert_allclose(
      scaled[middle], plain[middle] * (share + (1 - share) / 8), rtol=1e-5)
  assert fast.sum() and slow.sum() and middle.sum() and np.all(np.diff(scaled) < 0)
