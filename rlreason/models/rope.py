"""Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864) and their scalings."""

import math

import jax
import jax.numpy as jnp

from rlreason.models.config import (
    DynamicRopeScaling, LayerKind, LinearRopeScaling, Llama3RopeScaling, ModelConfig,
    YarnRopeScaling)
from rlreason.parallel import rules

Rotations = tuple[jax.Array, jax.Array]  # cosines and sines


def rope_rotations(positions: jax.Array, config: ModelConfig) -> Rotations:
  """The rotations of every kind of layer, in the order of `config.kinds`.

  Args:
    positions: i32[B, T].
    config: of the model.

  Returns:
    Cosines and sines, each f32[kinds, B, T, h / 2].
  """
  of_kinds = [_of_kind(kind, positions, config) for kind in config.kinds]
  return tuple(jnp.stack(parts) for parts in zip(*of_kinds, strict=True))


def apply_rope(x: jax.Array, rotations: Rotations) -> jax.Array:
  """Rotates pairs (i, i + h/2) of each head of x [B, T, heads, h]; rotations [B, T, h / 2]."""
  cos, sin = (rotation[:, :, None] for rotation in rotations)
  if rules.platform() == "tpu":
    return _rotate_whole(x, cos, sin)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return rotated.astype(x.dtype)


def _rotate_whole(x, cos, sin):
  """The same without halves of heads, each of which takes as long as a head on a TPU.

  The halves change places by a product with a permutation, which is exact.
  """
  size = x.shape[-1]
  swap = jnp.roll(jnp.eye(size, dtype=x.dtype), size // 2, axis=0)
  swapped = jnp.matmul(x, swap, preferred_element_type=jnp.float32)
  cos, sin = jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)
  return (x.astype(jnp.float32) * cos + swapped * sin).astype(x.dtype)


def _of_kind(kind: LayerKind, positions: jax.Array, config: ModelConfig) -> Rotations:
  shape = (*positions.shape, config.head_dim // 2)
  if kind.rope == "none":
    return jnp.ones(shape), jnp.zeros(shape)
  # f32: angles reach thousands of radians, where steps of bf16 exceed a turn.
  positions = positions[..., None].astype(jnp.float32)
  if kind.rope == "local":
    frequencies, gain = _frequencies(config.local_rope_theta, config.head_dim), 1.0
  else:
    frequencies, gain = scaled_frequencies(config, positions)
  angles = positions * frequencies
  return jnp.cos(angles) * gain, jnp.sin(angles) * gain


def _frequencies(theta: float | jax.Array, head_dim: int) -> jax.Array:
  """Angular frequencies of the rotary pairs, radians per token; f32[1 or B, 1 or T, h / 2]."""
  exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32)[None, None] / head_dim
  return 1.0 / (theta ** exponents)


def scaled_frequencies(config: ModelConfig, positions: jax.Array) -> tuple[jax.Array, float]:
  """Frequencies, radians per token, and the factor of cosines and sines, with `rope_scaling`.

  Args:
    config: of the model.
    positions: f32[B, T, 1]; only dynamic scaling uses them.

  Returns:
    f32[1, 1, h / 2], or f32[B, T, h / 2] with dynamic scaling, and the factor.
  """
  scaling, size = config.rope_scaling, config.head_dim
  if isinstance(scaling, DynamicRopeScaling):
    length = jnp.maximum(positions + 1, scaling.original_max_positions)
    stretch = scaling.factor * length / scaling.original_max_positions - (scaling.factor - 1)
    return _frequencies(config.rope_theta * stretch ** (size / (size - 2)), size), 1.0
  frequencies = _frequencies(config.rope_theta, size)
  if isinstance(scaling, LinearRopeScaling):
    return frequencies / scaling.factor, 1.0
  if isinstance(scaling, Llama3RopeScaling):
    return _llama3(frequencies, scaling), 1.0
  if isinstance(scaling, YarnRopeScaling):
    return _yarn(frequencies, scaling, config), scaling.attention_factor
  return frequencies, 1.0


def _llama3(frequencies: jax.Array, scaling: Llama3RopeScaling) -> jax.Array:
  """Divides slow pairs by `factor`, keeps fast pairs, and interpolates between."""
  wavelengths = 2 * math.pi / frequencies
  low = scaling.original_max_positions / scaling.low_freq_factor
  high = scaling.original_max_positions / scaling.high_freq_factor
  blend = (scaling.original_max_positions / wavelengths - scaling.low_freq_factor) / (
      scaling.high_freq_factor - scaling.low_freq_factor)
  blended = (1 - blend) * frequencies / scaling.factor + blend * frequencies
  slow = jnp.where(wavelengths > low, frequencies / scaling.factor, blended)
  return jnp.where(wavelengths < high, frequencies, slow)


def _yarn(frequencies: jax.Array, scaling: YarnRopeScaling, config: ModelConfig) -> jax.Array:
  """Keeps fast pairs, divides slow ones by `factor`, and interpolates between."""
  def pair_that_turns(times: float) -> float:
    """Index of the pair with this number of turns over the original length."""
    return config.head_dim * math.log(scaling.original_max_positions / (times * 2 * math.pi)) / (
        2 * math.log(config.rope_theta))

  low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
  if scaling.truncate:
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, config.head_dim - 1)
  pairs = jnp.arange(config.head_dim // 2, dtype=jnp.float32)[None, None]
  ramp = jnp.clip((pairs - low) / max(high - low, 0.001), 0.0, 1.0)  # 1: interpolated
  return frequencies * (1 - ramp) + frequencies / scaling.factor * ramp
