"""Rotary positions and their scalings, on hand-worked numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason.models import rope
from rlreason.models.config import (
    DynamicRopeScaling, LinearRopeScaling, Llama3RopeScaling, ModelConfig, YarnRopeScaling)


def _config(**fields):
  return ModelConfig(**{**dict(
      vocab_size=11, width=6, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=4, mlp_width=5),
                        **fields})


def _rotate(x, positions):
  cos, sin = rope.rope_rotations(jnp.array(positions), _config())
  return rope.apply_rope(x, (cos[0], sin[0]))


def _frequencies(**fields):
  """Of the 64 pairs of a head of 128."""
  frequencies, _ = rope.scaled_frequencies(_config(head_dim=128, **fields), jnp.zeros((1, 1, 1)))
  return np.asarray(frequencies)[0, 0]


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
  plain = _frequencies(rope_theta=500000.0)
  scaled = _frequencies(rope_theta=500000.0, rope_scaling=scaling)
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


def test_linear_scaling_divides_every_frequency():
  np.testing.assert_allclose(
      _frequencies(rope_scaling=LinearRopeScaling(4.0)), _frequencies() / 4, rtol=1e-6)


def test_yarn_by_hand():
  # Base 1e4, head 128, 4096 positions: the pair that turns 32 times is 64 ln(4096 / 64 pi) /
  # ln 1e4 = 20.94, down to 20; once, 64 ln(4096 / 2 pi) / ln 1e4 = 45.02, up to 46.
  scaling = YarnRopeScaling(factor=8.0, original_max_positions=4096, attention_factor=1.2)
  share = _frequencies(rope_scaling=scaling) / _frequencies()
  np.testing.assert_allclose(share[:21], 1.0, rtol=1e-6)
  np.testing.assert_allclose(share[46:], 1 / 8, rtol=1e-6)
  np.testing.assert_allclose(share[33], 0.5 + 0.5 / 8, rtol=1e-6)  # halfway from 20 to 46
  cos, sin = rope.rope_rotations(jnp.array([[0]]), _config(rope_scaling=scaling))
  np.testing.assert_allclose(cos[0, 0, 0], [1.2, 1.2], rtol=1e-6)
  assert not np.any(sin)


def test_dynamic_scaling_depends_on_the_position_itself():
  config = _config(rope_scaling=DynamicRopeScaling(2.0, original_max_positions=10))
  frequencies, _ = rope.scaled_frequencies(config, jnp.array([0.0, 9.0, 19.0])[None, :, None])
  # At position 19 the row has 20 tokens: base 1e4 * (2 * 20 / 10 - 1) ** (4 / 2) = 9e4.
  np.testing.assert_allclose(
      frequencies[0], [[1, 0.01], [1, 0.01], [1, 9e4 ** -0.5]], rtol=1e-5)


def test_each_kind_of_layer_has_its_rotations():
  config = _config(
      num_layers=3, rope_theta=1e4, local_rope_theta=100.0, sliding_window=5,
      sliding_layers=(True, False, False), rope_layers=(True, True, False),
      rope_scaling=LinearRopeScaling(2.0))
  cos, _ = rope.rope_rotations(jnp.array([[3]]), config)
  assert [kind.rope for kind in config.kinds] == ["local", "global", "none"]
  np.testing.assert_allclose(
      cos[:, 0, 0], [[math.cos(3), math.cos(0.3)], [math.cos(1.5), math.cos(0.015)], [1, 1]],
      rtol=1e-5)
