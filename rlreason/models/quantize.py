"""Kernels of a frozen base in 8 or 4 bits, and back.

A quantised kernel replaces the kernel in the tree, as {"int8": values, "scale": scales} or {"nf4":
codes, "scale": scales}, with its axes in the same order, so that it is sharded like the kernel.
Values along the last input axis share a scale: all of them for int8, 64 for nf4 (or the largest
divisor of the axis below that). Norms, biases, embeddings and routers are never quantised.

Libraries do this by intercepting linen's layers, which ours are not, and store a 4-bit value in a
byte on the CPU; here two share a byte.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlreason.types import Params

KINDS = ("int8", "nf4")
_NF4_BLOCK = 64
# Quantiles of the normal distribution, scaled to [-1, 1], with an exact zero: QLoRA (Dettmers et
# al. 2023, https://arxiv.org/abs/2305.14314), appendix E.
NF4 = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0], np.float32)
_NF4_BOUNDS = (NF4[1:] + NF4[:-1]) / 2


def is_quantized(kernel: Any) -> bool:
  return isinstance(kernel, dict)


def is_kernel(path: tuple[str, ...]) -> bool:
  """Whether a parameter of a layer is one that is quantised."""
  return path[-1] == "kernel" or path[-1] in ("gate_kernel", "up_kernel", "down_kernel")


def input_axis(path: tuple[str, ...]) -> int:
  """The last input axis of a kernel, counted from its end."""
  return -3 if path[-2] in ("q", "k", "v") else -2


def quantize(kernel: jax.Array, kind: str, axis: int) -> Params:
  """A kernel of floats in 8 or 4 bits.

  Args:
    kernel: [...].
    kind: int8 or nf4.
    axis: its last input axis, negative; its length is even for nf4.

  Returns:
    {"int8": i8[...], "scale": f32[...]}, the latter with length 1 on the axis; or {"nf4": u8[...],
    "scale": f32[...]}, with half its length (even indices in the low bits) and its blocks.
  """
  length = kernel.shape[axis]
  if kind == "nf4" and length % 2:
    raise ValueError(f"kernel: got {length} inputs, allowed: an even number for nf4, else int8")
  block = length
  if kind == "nf4":
    block = next(size for size in range(_NF4_BLOCK, 0, -1) if length % size == 0)
  blocks = _split(kernel.astype(jnp.float32), axis, block)
  limit = jnp.max(jnp.abs(blocks), axis=axis, keepdims=True)
  limit = jnp.where(limit > 0, limit, 1.0)  # a block of zeros
  if kind == "int8":
    values = jnp.round(blocks * (127.0 / limit)).astype(jnp.int8)
    return {"int8": _merge(values, axis), "scale": jnp.squeeze(limit / 127.0, axis)}
  codes = jnp.searchsorted(jnp.asarray(_NF4_BOUNDS), blocks / limit).astype(jnp.uint8)
  pairs = _split(_merge(codes, axis), axis, 2)
  low, high = (jax.lax.index_in_dim(pairs, i, axis % pairs.ndim, keepdims=False) for i in (0, 1))
  return {"nf4": low | high << 4, "scale": jnp.squeeze(limit, axis)}


def dequantize(kernel: Params, axis: int, dtype: jnp.dtype) -> jax.Array:
  """The kernel [...] as floats of `dtype`, with the shape and the `axis` given to `quantize`."""
  scale = jnp.expand_dims(kernel["scale"], axis)
  if "int8" in kernel:
    values = kernel["int8"].astype(jnp.float32)
  else:
    codes = jnp.stack([kernel["nf4"] & 15, kernel["nf4"] >> 4], axis)
    values = jnp.asarray(NF4)[_merge(codes, axis)]
  blocks = _split(values, axis, values.shape[axis] // kernel["scale"].shape[axis])
  return _merge(blocks * scale, axis).astype(dtype)


def quantize_rows(kernel: jax.Array) -> Params:
  """A matrix [outputs, inputs] as int8 with a scale for each output, for `multiply_rows`.

  {"int8": i8[outputs, inputs], "scale": f32[outputs, 1]}.
  """
  return quantize(kernel, "int8", -1)


def multiply_rows(kernel: jax.Array | Params, rows: jax.Array) -> jax.Array:
  """f32 [outputs, M] of a matrix [outputs, inputs], quantised or not, and rows [M, inputs]."""
  scale = None
  if is_quantized(kernel):
    kernel, scale = kernel["int8"], kernel["scale"]  # [outputs, 1]
  out = jnp.matmul(kernel.astype(rows.dtype), rows.T, preferred_element_type=jnp.float32)
  return out if scale is None else out * scale


def map_kernels(fn, layers: Params, path: tuple[str, ...] = ()) -> Params:
  """Applies `fn(path, kernel)` to the kernels of layers; the rest is unchanged."""
  if path and is_kernel(path):
    return fn(path, layers)
  if not isinstance(layers, dict):
    return layers
  return {name: map_kernels(fn, node, (*path, name)) for name, node in layers.items()}


def quantize_params(params: Params, kind: str) -> Params:
  """Parameters of a model with the kernels of its layers quantised."""
  one = lambda path, kernel: quantize(kernel, kind, input_axis(path))
  return params | {"layers": map_kernels(one, params["layers"])}


def _split(x: jax.Array, axis: int, size: int) -> jax.Array:
  """[..., n, ...] -> [..., n / size, size, ...]: `axis` is then the index in the block."""
  axis %= x.ndim
  return x.reshape(*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1:])


def _merge(x: jax.Array, axis: int) -> jax.Array:
  """Inverse of `_split`."""
  axis %= x.ndim
  return x.reshape(*x.shape[:axis - 1], -1, *x.shape[axis + 1:])
