"""Norms, rotary positions, projections and the gated feed-forward layer."""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from rlreason.models.config import Llama3RopeScaling, ModelConfig

INIT_STDDEV = 0.02


def partitioned(init, axes: tuple[str, ...]):
  """An initialiser whose parameter carries logical axis names for `parallel/rules.py`."""
  return nn.with_logical_partitioning(init, axes)


class RMSNorm(nn.Module):
  """x / rms(x) * scale over the last axis (Zhang & Sennrich 2019)."""

  epsilon: float
  param_dtype: str
  axis: str = "embed"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param(
        "scale", partitioned(nn.initializers.ones, (self.axis,)), (x.shape[-1],),
        jnp.dtype(self.param_dtype))
    # f32: the mean of squares of bf16 activations loses the small ones.
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + self.epsilon)
    scale = jnp.expand_dims(scale.astype(jnp.float32), range(x.ndim - 1))
    return (x32 * scale).astype(x.dtype)


class Matrix(nn.Module):
  """A parameter that is looked up or multiplied elsewhere: the embedding, the output layer."""

  shape: tuple[int, ...]
  axes: tuple[str, ...]
  param_name: str
  param_dtype: str

  @nn.compact
  def __call__(self) -> jax.Array:
    return self.param(
        self.param_name, partitioned(nn.initializers.normal(INIT_STDDEV), self.axes), self.shape,
        jnp.dtype(self.param_dtype))


class Projection(nn.Module):
  """A dense map of the last `in_axes` axes to `shape`, e.g. width -> (heads, head_dim)."""

  config: ModelConfig
  shape: tuple[int, ...]
  axes: tuple[str, ...]  # logical names of the kernel's axes, inputs first
  in_axes: int = 1
  use_bias: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dtype, param_dtype = self.config.compute_dtype, jnp.dtype(self.config.param_dtype)
    inputs = x.shape[x.ndim - self.in_axes:]
    kernel = self.param(
        "kernel", partitioned(nn.initializers.normal(INIT_STDDEV), self.axes),
        inputs + self.shape, param_dtype)
    # One product of two matrices, rows flattened too: on the CPU the gradient of a product with more
    # than one row axis is 2.5 times slower.
    fan_in, fan_out = math.prod(inputs), math.prod(self.shape)
    lead = x.shape[:x.ndim - self.in_axes]
    out = x.reshape(-1, fan_in).astype(dtype) @ kernel.reshape(fan_in, fan_out).astype(dtype)
    out = out.reshape(*lead, *self.shape)
    if self.use_bias:
      bias = self.param(
          "bias", partitioned(nn.initializers.zeros, self.axes[self.in_axes:]), self.shape,
          param_dtype)
      out = out + jnp.broadcast_to(bias.astype(dtype), out.shape)
    return out


class MLP(nn.Module):
  """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c = self.config
    gate = Projection(c, (c.mlp_width,), ("embed", "mlp"), name="gate")(x)
    up = Projection(c, (c.mlp_width,), ("embed", "mlp"), name="up")(x)
    return Projection(c, (c.width,), ("mlp", "embed"), name="down")(nn.silu(gate) * up)


def rope_frequencies(config: ModelConfig) -> jax.Array:
  """Angular frequencies of the rotary pairs, radians per token; f32[h / 2]."""
  exponents = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
  frequencies = 1.0 / (config.rope_theta ** exponents)
  if config.rope_scaling is not None:
    frequencies = _llama3_scaling(frequencies, config.rope_scaling)
  return frequencies


def _llama3_scaling(frequencies: jax.Array, scaling: Llama3RopeScaling) -> jax.Array:
  """Slow pairs are divided by `factor`, fast pairs kept, those between are blended."""
  wavelengths = 2 * math.pi / frequencies
  low = scaling.original_max_positions / scaling.low_freq_factor
  high = scaling.original_max_positions / scaling.high_freq_factor
  blend = (scaling.original_max_positions / wavelengths - scaling.low_freq_factor) / (
      scaling.high_freq_factor - scaling.low_freq_factor)
  blended = (1 - blend) * frequencies / scaling.factor + blend * frequencies
  slow = jnp.where(wavelengths > low, frequencies / scaling.factor, blended)
  return jnp.where(wavelengths < high, frequencies, slow)


def apply_rope(x: jax.Array, positions: jax.Array, config: ModelConfig) -> jax.Array:
  """Rotates pairs (i, i + h/2) of each head by position * frequency (Su et al. 2021).

  Args:
    x: [B, T, heads, h].
    positions: i32[B, T].
    config: gives the frequencies.

  Returns:
    [B, T, heads, h], in the type of `x`.
  """
  # f32: angles reach thousands of radians, where bf16 has steps of whole turns.
  angles = positions[..., None].astype(jnp.float32) * rope_frequencies(config)[None, None]
  cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return rotated.astype(x.dtype)
