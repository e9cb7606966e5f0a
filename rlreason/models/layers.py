"""Norms, projections, the gated feed-forward layer, and products of rows in groups."""

import contextlib
import functools
import importlib
import math

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from rlreason.models import quantize
from rlreason.models.config import ModelConfig
from rlreason.parallel import rules
from rlreason.parallel.shards import add_rows, gather_rows, sum_rows, take_rows_of

INIT_STDDEV = 0.02
# Of the products of groups on a TPU: rows of a tile, the largest that divides them; and the most
# features, of which several tiles must fit on the chip, together with an f32 result.
_TILE_ROWS = (512, 256, 128)
_TILE_FEATURES, _OUTER_FEATURES = 1024, 512
PRODUCT = "product"  # results of projections, by their name for `jax.checkpoint`


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def multiply(axes: tuple[str | None, ...], rows: jax.Array, kernel: jax.Array) -> jax.Array:
  """[M, I] times a parameter with the logical axes `axes`, flat [I, O] -> [M, O] like `rows`.

  Or [B, T, I] -> [B, T, O], where devices split both.

  On a mesh the kernel is gathered in the type of `rows`. Its gradient is f32 until it has been
  added up over devices, each of which keeps its part of the sum.
  """
  return rows @ _gathered(axes, rows, kernel)


def _gathered(axes, rows, kernel):
  return gather_rows(kernel.astype(rows.dtype), axes).reshape(rows.shape[-1], -1)


def _multiply_forward(axes, rows, kernel):
  # Of the kernel its part is kept, and gathered again for the backward pass.
  return multiply(axes, rows, kernel), (rows, kernel)


def _multiply_backward(axes, kept, gradient):
  rows, kernel = kept

  def of_kernel(rows, gradient):
    out = jnp.matmul(rows.T, gradient, preferred_element_type=jnp.float32)
    return out.reshape(kernel.shape)

  return (gradient @ _gathered(axes, rows, kernel).T,
          sum_rows(of_kernel, axes, rows, gradient).astype(kernel.dtype))


multiply.defvjp(_multiply_forward, _multiply_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def look_up(dtype: jnp.dtype, table: jax.Array, tokens: jax.Array) -> jax.Array:
  """Rows of a table [V, D] for tokens i32[B, T], [B, T, D] of `dtype`; its gradient adds in f32."""
  return take_rows_of(table.astype(dtype), tokens, ("vocab", "embed"))


def _look_up_forward(dtype, table, tokens):
  return look_up(dtype, table, tokens), (table, tokens)


def _look_up_backward(dtype, kept, gradient):
  table, tokens = kept
  if not rules.splits_columns(tokens.shape):
    tokens, gradient = tokens.reshape(-1), gradient.reshape(-1, gradient.shape[-1])
  total = add_rows(tokens, gradient, table.shape, ("vocab", "embed"))
  return total.astype(table.dtype), None


look_up.defvjp(_look_up_forward, _look_up_backward)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """[M, ...] plus a bias [...] in its type; the bias's gradient is added up in f32."""
  return x + jnp.broadcast_to(bias.astype(x.dtype), x.shape)


def _add_bias_forward(x, bias):
  return add_bias(x, bias), bias


def _add_bias_backward(bias, gradient):
  total = jnp.sum(gradient, axis=range(gradient.ndim - bias.ndim), dtype=jnp.float32)
  return gradient, total.astype(bias.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


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
    param_dtype = jnp.dtype(self.config.param_dtype)
    lead, inputs = x.shape[:x.ndim - self.in_axes], x.shape[x.ndim - self.in_axes:]
    # One product of two matrices, rows flattened too: on the CPU the gradient of a product with
    # more than one row axis is 2.5 times slower. Devices that split both keep them apart.
    rows = x.reshape(*(lead if rules.splits_columns(lead) else (-1,)), math.prod(inputs)).astype(
        self.config.compute_dtype)
    out = self._product(rows, inputs)
    if self._has_adapters():
      out = out + self._adapters(rows, inputs)
    out = out.reshape(*lead, *self.shape)
    if self.use_bias:
      bias = self.param(
          "bias", partitioned(nn.initializers.zeros, self.axes[self.in_axes:]), self.shape,
          param_dtype)
      out = add_bias(out, bias)
    return checkpoint_name(out, PRODUCT)

  def _product(self, rows: jax.Array, inputs: tuple[int, ...]) -> jax.Array:
    """[M, inputs] times the kernel -> [M, outputs]; or [B, T, inputs], as in `multiply`."""
    fan_in, fan_out, dtype = rows.shape[-1], math.prod(self.shape), rows.dtype
    kernel = self.variables.get("params", {}).get("kernel")
    if quantize.is_quantized(kernel) and self.is_transposed:
      return jax.lax.optimization_barrier(quantize.multiply_rows(kernel, rows).astype(dtype)).T
    if quantize.is_quantized(kernel):
      axis = self.in_axes - 1 - len(self.axes)

      # Recomputed in the backward pass: keeping the floats would store the whole kernel.
      @functools.partial(jax.checkpoint, prevent_cse=False)
      def product(rows, kernel):
        whole = jax.tree.map(lambda x: gather_rows(x, self.axes), kernel)
        return rows @ quantize.dequantize(whole, axis, dtype).reshape(fan_in, fan_out)

      return product(rows, kernel)
    kernel = self.param(
        "kernel", partitioned(nn.initializers.normal(INIT_STDDEV), self.axes),
        self.shape + inputs if self.is_transposed else inputs + self.shape,
        jnp.dtype(self.config.param_dtype))
    if not self.is_transposed:
      return multiply(self.axes, rows, kernel)
    out = kernel.reshape(fan_out, fan_in).astype(dtype) @ rows.T
    # XLA would swap the factors back, which takes 1.2 times as long for 8 rows on the CPU.
    return jax.lax.optimization_barrier(out).T

  def _has_adapters(self) -> bool:
    lora = self.config.lora
    return self.has_variable("params", "lora_a") or (
        self.is_initializing() and lora is not None and self.name in lora.targets)

  def _adapters(self, rows: jax.Array, inputs: tuple[int, ...]) -> jax.Array:
    """The contribution of the adapters to the product: (alpha / rank) x A B."""
    lora, fan_in = self.config.lora, rows.shape[-1]
    ins, outs = (*self.axes[:self.in_axes], None), (None, *self.axes[self.in_axes:])
    # As PEFT initialises them: uniform within 1 / sqrt(inputs), and zeros.
    first = lambda key, shape, dtype: jax.random.uniform(
        key, shape, dtype, -fan_in ** -0.5, fan_in ** -0.5)
    a = self.param("lora_a", partitioned(first, ins), (*inputs, lora.rank), jnp.float32)
    b = self.param("lora_b", partitioned(nn.initializers.zeros, outs), (lora.rank, *self.shape),
                   jnp.float32)
    return lora.scale * multiply(outs, multiply(ins, rows, a), b)


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


def group_tile() -> int:
  """Rows have to be a multiple of it."""
  return _TILE_ROWS[-1] if rules.platform() == "tpu" else 1


def multiply_groups(
    rows: jax.Array, kernels: jax.Array, sizes: jax.Array, *, is_transposed: bool = False,
    interpret: bool = False,
) -> jax.Array:
  """Each row times the kernel of its group.

  On a TPU by a Pallas kernel that ships with JAX (megablox), whose work is that of the rows that
  are in a group. XLA has such a kernel for `ragged_dot` too, but computes the gradient of the
  kernels, and both products on other devices, densely: every row with every group.

  Args:
    rows: [M, I], those of a group contiguous, in the order of groups.
    kernels: [E, I, O], or if `is_transposed` [E, O, I].
    sizes: i32[E], rows of each group; M or less in total.
    is_transposed: whether the kernel is read with its outputs first.
    interpret: whether to run the kernel for TPUs elsewhere, slowly.

  Returns:
    [M, O] of the type of the rows; arbitrary, or NaN, for rows that are in no group.
  """
  if not interpret and rules.platform() != "tpu":
    kernels = kernels.swapaxes(1, 2) if is_transposed else kernels
    return jax.lax.ragged_dot(rows, kernels, sizes)
  outputs = kernels.shape[1 if is_transposed else 2]
  tiling = _tile_rows(rows), min(rows.shape[1], _TILE_FEATURES), min(outputs, _TILE_FEATURES)
  with _precision(rows):
    return _megablox().gmm(
        rows, kernels, sizes, rows.dtype, tiling, transpose_rhs=is_transposed, interpret=interpret)


def outer_groups(
    rows: jax.Array, gradients: jax.Array, sizes: jax.Array, *, interpret: bool = False
) -> jax.Array:
  """The gradient of the kernels of `multiply_groups`: sums of outer products of a group's rows.

  Args:
    rows: [M, I], as in `multiply_groups`.
    gradients: [M, O], of its result.
    sizes: i32[E].
    interpret: as in `multiply_groups`.

  Returns:
    f32[E, I, O]; 0 for a group without rows.
  """
  if not interpret and rules.platform() != "tpu":
    numbers = jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())), lhs_ragged_dimensions=[0],
        rhs_group_dimensions=[])
    return jax.lax.ragged_dot_general(
        rows, gradients, sizes, numbers, preferred_element_type=jnp.float32)
  tiling = (_tile_rows(rows), min(rows.shape[1], _OUTER_FEATURES),
            min(gradients.shape[1], _TILE_FEATURES))
  with _precision(rows):
    return _megablox().tgmm(
        rows.T, gradients, sizes, jnp.float32, tiling, interpret=interpret)


def _tile_rows(rows: jax.Array) -> int:
  return next(size for size in _TILE_ROWS if rows.shape[0] % size == 0)


def _precision(rows: jax.Array):
  """The compiler refuses products of bf16 in a kernel that ask for the precision of f32."""
  if rows.dtype == jnp.bfloat16:
    return jax.default_matmul_precision("bfloat16")
  return contextlib.nullcontext()


def _megablox():
  # Imported here, so that nothing else depends on an experimental module; the package's own `gmm`
  # is a function that hides it, without an f32 gradient.
  return importlib.import_module("jax.experimental.pallas.ops.tpu.megablox.gmm")
