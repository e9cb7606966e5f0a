"""Norms, projections and the gated feed-forward layer."""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from rlreason.models import quantize
from rlreason.models.config import ModelConfig

INIT_STDDEV = 0.02


def partitioned(init, axes: tuple[str, ...]):
  """An initialiser whose parameter carries logical axis names for `parallel/rules.py`."""
  return nn.with_logical_partitioning(init, axes)


class RMSNorm(nn.Module):
  """x / rms(x) * scale over the last axis (Zhang & Sennrich 2019)."""

  config: ModelConfig
  axis: str = "embed"

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c = self.config
    first = nn.initializers.zeros if c.unit_offset_norms else nn.initializers.ones
    scale = self.param(
        "scale", partitioned(first, (self.axis,)), (x.shape[-1],), jnp.dtype(c.param_dtype))
    # f32: the mean of squares of bf16 activations loses the small ones.
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + c.norm_eps)
    scale = jnp.expand_dims(scale.astype(jnp.float32), range(x.ndim - 1))
    return (x32 * (1.0 + scale if c.unit_offset_norms else scale)).astype(x.dtype)


class Matrix(nn.Module):
  """A parameter used elsewhere: the embedding, or the output layer."""

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
  """A dense map of the last `in_axes` axes to `shape`, e.g. width -> (heads, head_dim).

  With `is_transposed` the kernel has its outputs first, which is faster for the few rows of a
  decode step (see `transformer.split_layers`).
  """

  config: ModelConfig
  shape: tuple[int, ...]
  axes: tuple[str, ...]  # logical names of the kernel's axes, inputs first
  in_axes: int = 1
  use_bias: bool = False
  is_transposed: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dtype, param_dtype = self.config.compute_dtype, jnp.dtype(self.config.param_dtype)
    lead, inputs = x.shape[:x.ndim - self.in_axes], x.shape[x.ndim - self.in_axes:]
    # One product of two matrices, rows flattened too: on the CPU the gradient of a product with
    # more than one row axis is 2.5 times slower.
    rows = x.reshape(-1, math.prod(inputs)).astype(dtype)
    out = self._product(rows, inputs)
    if self._has_adapters():
      out = out + self._adapters(rows, inputs)
    out = out.reshape(*lead, *self.shape)
    if self.use_bias:
      bias = self.param(
          "bias", partitioned(nn.initializers.zeros, self.axes[self.in_axes:]), self.shape,
          param_dtype)
      out = out + jnp.broadcast_to(bias.astype(dtype), out.shape)
    return out

  def _product(self, rows: jax.Array, inputs: tuple[int, ...]) -> jax.Array:
    """[M, inputs] times the kernel -> [M, outputs]."""
    fan_in, fan_out, dtype = rows.shape[1], math.prod(self.shape), rows.dtype
    kernel = self.variables.get("params", {}).get("kernel")
    if quantize.is_quantized(kernel) and self.is_transposed:
      return jax.lax.optimization_barrier(quantize.multiply_rows(kernel, rows).astype(dtype)).T
    if quantize.is_quantized(kernel):
      axis = self.in_axes - 1 - len(self.axes)
      # Recomputed in the backward pass: keeping the floats would store the whole kernel.
      return jax.checkpoint(
          lambda rows, kernel: rows @ quantize.dequantize(kernel, axis, dtype).reshape(
              fan_in, fan_out), prevent_cse=False)(rows, kernel)
    kernel = self.param(
        "kernel", partitioned(nn.initializers.normal(INIT_STDDEV), self.axes),
        self.shape + inputs if self.is_transposed else inputs + self.shape,
        jnp.dtype(self.config.param_dtype))
    if not self.is_transposed:
      return rows @ kernel.reshape(fan_in, fan_out).astype(dtype)
    out = kernel.reshape(fan_out, fan_in).astype(dtype) @ rows.T
    # XLA would swap the factors back, which takes 1.2 times as long for 8 rows on the CPU.
    return jax.lax.optimization_barrier(out).T

  def _has_adapters(self) -> bool:
    lora = self.config.lora
    return self.has_variable("params", "lora_a") or (
        self.is_initializing() and lora is not None and self.name in lora.targets)

  def _adapters(self, rows: jax.Array, inputs: tuple[int, ...]) -> jax.Array:
    """The contribution of the adapters to the product: (alpha / rank) x A B."""
    lora, dtype = self.config.lora, rows.dtype
    fan_in, fan_out = rows.shape[1], math.prod(self.shape)
    # As PEFT initialises them: uniform within 1 / sqrt(inputs), and zeros.
    first = lambda key, shape, dtype: jax.random.uniform(
        key, shape, dtype, -fan_in ** -0.5, fan_in ** -0.5)
    a = self.param("lora_a", partitioned(first, (*self.axes[:self.in_axes], None)),
                   (*inputs, lora.rank), jnp.float32)
    b = self.param("lora_b", partitioned(nn.initializers.zeros, (None, *self.axes[self.in_axes:])),
                   (lora.rank, *self.shape), jnp.float32)
    low = rows @ a.reshape(fan_in, lora.rank).astype(dtype)
    return lora.scale * (low @ b.reshape(lora.rank, fan_out).astype(dtype))


def activate(gate: jax.Array, config: ModelConfig) -> jax.Array:
  """The activation of a feed-forward layer's gate, elementwise: [...] of the compute type."""
  return nn.silu(gate) if config.activation == "silu" else nn.gelu(gate, approximate=True)


class MLP(nn.Module):
  """down(activation(gate(x)) * up(x)) (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""

  config: ModelConfig
  is_transposed: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c = self.config
    project = lambda x, width, axes, name: Projection(
        c, (width,), axes, is_transposed=self.is_transposed, name=name)(x)
    gate = project(x, c.mlp_width, ("embed", "mlp"), "gate")
    up = project(x, c.mlp_width, ("embed", "mlp"), "up")
    return project(activate(gate, c) * up, c.width, ("mlp", "embed"), "down")
