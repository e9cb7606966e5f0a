"""The mixture of experts: a router sends each token through a few of many feed-forward layers.

On a mesh with an axis of experts each device keeps some of them, and computes all tokens of these
(expert parallelism). The tokens of a layer are gathered over that axis, each device computes the
pairs (token, chosen expert) of its own experts, and the sums for each token are reduced and
scattered back. This sends 2 (n - 1) D values a token with n devices on the axis. Sending every pair
to its device and back would be 2 k D (n - 1) / n, which is less only where n is larger than k, the
experts of a token; and its messages have different lengths.

No token is dropped. A device may have to compute the pairs of all devices, so that these would be
the shapes; it computes its own in chunks of constant size instead, of which an even load needs one.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import linen as nn
import jax
from jax.sharding import PartitionSpec
import jax.numpy as jnp

from rlreason.models import quantize
from rlreason.models.config import ModelConfig
from rlreason.models.layers import (
    INIT_STDDEV, activate, group_tile, multiply, multiply_groups, outer_groups, partitioned)
from rlreason.parallel import rules
from rlreason.parallel.shards import map_parts, map_rows
from rlreason.types import Params

_INNER, _OUTER = ("experts", "embed", "expert_mlp"), ("experts", "expert_mlp", "embed")
CHUNKS = "expert_chunks"  # scope of the loop, which turns once where the load is even
_SPARE = 1.25  # size of a chunk, as a multiple of an even load
_FEW = 4096  # so many pairs, such as those of a decode step, are one chunk


class Experts(nn.Module):
  """Top-k routed SwiGLU experts, as in Qwen3-MoE.

  Tokens are sorted by expert, so that each expert computes one product with only its own tokens:
  there is no capacity limit, and no token is dropped.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, x: jax.Array, counts: jax.Array | None = None):
    """x [B, T, D], [B, T] the weight of each token -> [B, T, D] and the load, f32[2, E].

    The load is, for each expert, the number of counted tokens routed to it, and the sum of their
    probabilities for it; None without `counts`.
    """
    c = self.config
    # Flat, but for devices that split both axes.
    axes = ("batch", "length") if rules.splits_columns(x.shape[:2]) else ("batch",)
    rows = x.reshape(*(x.shape[:2] if len(axes) == 2 else (-1,)), c.width)
    router = self._kernel("router", (c.width, c.num_experts), ("embed", None))
    # f32 probabilities: bf16 has too many ties, which are broken by index.
    probabilities = jax.nn.softmax(
        multiply(("embed", None), rows, router).astype(jnp.float32), axis=-1)
    choose = lambda x: tuple(jax.lax.top_k(x, c.experts_per_token))
    weights, chosen = map_rows(choose, ((*axes, None),), ((*axes, None),) * 2)(probabilities)
    if c.normalize_experts:
      weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    kernels = [
        self._kernel("gate", (c.num_experts, c.width, c.mlp_width), _INNER),
        self._kernel("up", (c.num_experts, c.width, c.mlp_width), _INNER),
        self._kernel("down", (c.num_experts, c.mlp_width, c.width), _OUTER)]
    if _is_spread(x):
      of_token = lambda values: values.reshape(*x.shape[:2], -1)
      out = _on_mesh(c, x, of_token(weights), of_token(chosen), tuple(kernels))
    else:
      flat = lambda values: values.reshape(-1, values.shape[-1])
      out = _through_experts(c, flat(rows), flat(chosen), *kernels)
      out = jnp.sum(out * flat(weights).astype(out.dtype)[..., None], axis=1).reshape(x.shape)
    if counts is None:
      return out, None
    counts = counts.reshape(*rows.shape[:-1], 1).astype(jnp.float32)
    choices = jnp.bincount(
        chosen.reshape(-1), jnp.broadcast_to(counts, chosen.shape).reshape(-1),
        length=c.num_experts)
    probabilities = jnp.where(counts > 0, counts * probabilities, 0.0)
    return out, jnp.stack([choices, jnp.sum(probabilities, axis=range(rows.ndim - 1))])

  def _kernel(self, name: str, shape: tuple[int, ...], axes: tuple) -> jax.Array | Params:
    c = self.config
    stored = self.variables.get("params", {}).get(f"{name}_kernel")
    if quantize.is_quantized(stored):
      return stored
    return self.param(f"{name}_kernel", partitioned(nn.initializers.normal(INIT_STDDEV), axes),
                      shape, jnp.dtype(c.param_dtype))


def _through_experts(config: ModelConfig, rows, chosen, gate, up, down) -> jax.Array:
  """Rows [..., D] through their k experts i32[..., k], [..., k, D]; kernels of all experts."""
  order = jnp.argsort(chosen.reshape(-1), stable=True)
  sizes = jnp.bincount(chosen.reshape(-1), length=config.num_experts)

  def product(rows, kernel):
    if not quantize.is_quantized(kernel):
      return jax.lax.ragged_dot(rows, kernel.astype(rows.dtype), sizes)
    # Recomputed in the backward pass: keeping the floats would store the whole kernel.
    return jax.checkpoint(
        lambda rows, kernel: jax.lax.ragged_dot(
            rows, quantize.dequantize(kernel, -2, config.compute_dtype), sizes),
        prevent_cse=False)(rows, kernel)

  rows = rows.reshape(-1, rows.shape[-1])[order // config.experts_per_token]
  out = product(activate(product(rows, gate), config) * product(rows, up), down)
  # Back in the order of tokens: a gather, whose sum over k is deterministic.
  return out[jnp.argsort(order)].reshape(*chosen.shape, -1)


def balance_loss(loads: jax.Array | None, num_tokens: jax.Array) -> jax.Array:
  """The load-balancing loss of Switch Transformers (https://arxiv.org/abs/2101.03961), eq. 4 to 6.

  E * sum over experts of (share of the choices) * (mean probability), over all layers together. It
  is `experts_per_token` when the load is even, and more when it is not. Shares have no gradient.

  Args:
    loads: f32[N, 2, E], of `Experts`; None for a model without them.
    num_tokens: f32 scalar, number of counted tokens.

  Returns:
    f32 scalar; 0 without tokens or experts.
  """
  if loads is None:
    return jnp.float32(0)
  layers, _, experts = loads.shape
  choices, probabilities = jnp.sum(loads, axis=0) / jnp.maximum(num_tokens * layers, 1.0)
  return experts * jnp.sum(jax.lax.stop_gradient(choices) * probabilities)


def _is_spread(x: jax.Array) -> bool:
  """Whether activations [B, T, D] are to be passed to `_on_mesh`: else it is of no use."""
  mesh = rules.current_mesh()
  return (mesh is not None and (mesh.size > 1 or rules.platform() == "tpu") and
          not x.shape[0] % rules.num_shards("batch") and
          not x.shape[1] % rules.num_shards("length"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _on_mesh(
    config: ModelConfig, x: jax.Array, weights: jax.Array, chosen: jax.Array, kernels: tuple
) -> jax.Array:
  """The weighted sum of the outputs of each token's experts, on a mesh.

  Kernels are gathered in the type of the computation, but not over the axis of experts. Their
  gradients are f32 until each device has its part of the sum over all tokens.

  Args:
    config: the model.
    x: [B, T, D].
    weights: f32[B, T, k].
    chosen: i32[B, T, k] different experts.
    kernels: gate and up [E, D, F] and down [E, F, D]; floats or quantised.

  Returns:
    [B, T, D], of the type of `x`.
  """
  specs = _make_specs(kernels)
  return _mapped(functools.partial(_forward, config, specs), specs, 3, specs.tokens)(
      x, weights, chosen, kernels)


def _keep(config, x, weights, chosen, kernels):
  # Only arguments are kept: with `remat` nothing reads the result, and it is not computed again.
  return _on_mesh(config, x, weights, chosen, kernels), (x, weights, chosen, kernels)


def _pull(config, kept, gradient):
  x, weights, chosen, kernels = kept
  specs, is_frozen = _make_specs(kernels), quantize.is_quantized(kernels[0])
  of_x, of_weights, of_kernels = _mapped(
      functools.partial(_backward, config, specs), specs, 4,
      (specs.tokens, specs.tokens, () if is_frozen else specs.kernels))(
          x, weights, chosen, gradient, kernels)
  return of_x, of_weights, None, None if is_frozen else of_kernels


_on_mesh.defvjp(_keep, _pull)


class _Specs(NamedTuple):
  """How the arguments are split."""

  tokens: PartitionSpec  # of arrays [B, T, ...]
  kernels: tuple  # of each kernel, or of each part of a quantised one
  axis: str | None  # the mesh axis of experts
  count: int  # its devices
  names: tuple[str, ...]  # the mesh axes whose devices have different tokens
  inner: str | None  # one of an expert's features, whose devices have the same tokens


def _make_specs(kernels: tuple) -> _Specs:
  inner = None  # the parts of a quantised kernel need not be divisible alike
  if not quantize.is_quantized(kernels[0]):
    inner = rules.split_axis("expert_mlp", kernels[0].shape[2])
  inner = None if inner == rules.table()["length"] else inner
  others = () if inner is None else (inner,)
  spec = lambda axes, x: rules.part_of(
      rules.spec_of(axes, x.shape), (*rules.TOKENS, *others))
  found = tuple(jax.tree.map(functools.partial(spec, axes), kernel)
                for axes, kernel in zip((_INNER, _INNER, _OUTER), kernels, strict=True))
  axis = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, PartitionSpec))[0][0]
  batch, length = (rules.table()[name] for name in ("batch", "length"))
  return _Specs(
      PartitionSpec(batch, length), found, axis,
      1 if axis is None else rules.current_mesh().shape[axis],
      (*rules.names_of(batch), *rules.names_of(length)), inner)


def _mapped(fn: Callable, specs: _Specs, num_of_tokens: int, out_specs: Any) -> Callable:
  """`fn` of each device's tokens and kernels."""
  return map_parts(fn, (*[specs.tokens] * num_of_tokens, specs.kernels), out_specs)


class _Pairs(NamedTuple):
  """The pairs (token, chosen expert) of the N tokens of all devices of the axis."""

  order: jax.Array  # i32[N k, padded], indices of pairs: by expert, those of other devices last
  position: jax.Array  # i32[N, k] in `order`; -1: of another device
  weights: jax.Array  # f32[N k]
  sizes: jax.Array  # i32[E / n], pairs of each expert of this device
  chunk: int  # pairs that are computed at once

  @property
  def num_chosen(self) -> int:
    return self.position.shape[1]


class _Chunk(NamedTuple):
  """Some consecutive pairs."""

  tokens: jax.Array  # i32[chunk]
  weights: jax.Array  # f32[chunk]
  sizes: jax.Array  # i32[E / n]; in total `chunk` or less
  position: jax.Array  # i32[N, k] in the chunk; -1: not in it


def _make_pairs(specs: _Specs, weights, chosen, num_experts: int) -> _Pairs:
  """The pairs of this device's tokens, [b, t, k], and of the others'; it has `num_experts`."""
  num_own, weights = chosen.size, _gather(specs, weights).reshape(-1)
  chosen = _gather(specs, chosen)
  first = 0 if specs.axis is None else jax.lax.axis_index(specs.axis) * num_experts
  expert = chosen.reshape(-1) - first
  is_here = (expert >= 0) & (expert < num_experts)
  expert = jnp.where(is_here, expert, num_experts)
  order = jnp.argsort(expert, stable=True)
  position = jnp.where(is_here, jnp.argsort(order), -1).reshape(chosen.shape)
  sizes = jnp.bincount(expert, length=num_experts).astype(jnp.int32)
  # Devices have the load of `num_own` pairs on average.
  chunk = chosen.size if chosen.size <= max(num_own, _FEW) else min(
      chosen.size, int(_SPARE * num_own))
  chunk += -chunk % group_tile()
  return _Pairs(jnp.pad(order, (0, -order.size % chunk)), position, weights, sizes, chunk)


def _take(pairs: _Pairs, start: jax.Array | int) -> _Chunk:
  index = jax.lax.dynamic_slice_in_dim(pairs.order, start, pairs.chunk)
  ends = jnp.clip(jnp.cumsum(pairs.sizes) - start, 0, pairs.chunk)
  position = pairs.position - start
  is_there = (pairs.position >= 0) & (position >= 0) & (position < pairs.chunk)
  return _Chunk(index // pairs.num_chosen, pairs.weights[index], jnp.diff(ends, prepend=0),
                jnp.where(is_there, position, -1))


def _add_chunks(fn: Callable[[_Chunk], Any], pairs: _Pairs) -> Any:
  """The sum of the results of `fn`, a tree, over the chunks that have pairs of this device."""
  if pairs.order.size == pairs.chunk:
    return fn(_take(pairs, 0))
  zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda: fn(_take(pairs, 0))))
  add = lambda start, total: (
      start + pairs.chunk, jax.tree.map(jnp.add, total, fn(_take(pairs, start))))
  total = jnp.sum(pairs.sizes)
  with jax.named_scope(CHUNKS):
    return jax.lax.while_loop(
        lambda state: state[0] < total, lambda state: add(*state), (jnp.int32(0), zeros))[1]


def _gather(specs: _Specs, x: jax.Array) -> jax.Array:
  """[b, t, ...] of this device -> [N, ...] of all devices of the axis."""
  x = x.reshape(-1, x.shape[-1])
  return x if specs.axis is None else jax.lax.all_gather(x, specs.axis, tiled=True)


def _scatter(specs: _Specs, total: jax.Array, like: jax.Array) -> jax.Array:
  """The sum over devices of [N, ...], for the tokens of this device, [b, t, ...]."""
  if specs.axis is not None:
    total = jax.lax.psum_scatter(total, specs.axis, tiled=True)
  if specs.inner is not None:
    total = jax.lax.psum(total, specs.inner)
  return total.reshape(like.shape)


def _sum_of_tokens(chunk: _Chunk, values: jax.Array, num_blocks: int) -> jax.Array:
  """The sum, for each token, of the values [chunk, D] of its pairs: [N, D].

  A gather, whose sums have a fixed order, unlike those of rows that are added in place. The tokens
  are in blocks, because their values, before the sum, are k times as many.
  """
  def of_block(position):
    rows = (jnp.where(index[:, None] < 0, 0, values[jnp.maximum(index, 0)]).astype(jnp.float32)
            for index in position.T)
    return functools.reduce(jnp.add, rows).astype(values.dtype)

  if num_blocks == 1:
    return of_block(chunk.position)
  blocks = chunk.position.reshape(num_blocks, -1, chunk.position.shape[1])
  return jax.lax.map(of_block, blocks).reshape(-1, values.shape[1])


def _whole(config: ModelConfig, specs: _Specs, kernels: tuple) -> list[jax.Array]:
  """The kernels of this device's experts, in the type of the computation."""
  def whole(part, spec):
    for axis, name in enumerate(spec):
      if name not in (None, specs.axis, specs.inner):
        part = jax.lax.all_gather(part, name, axis=axis, tiled=True)
    return part

  def one(kernel, spec):
    if quantize.is_quantized(kernel):
      parts = {name: whole(part, spec[name]) for name, part in kernel.items()}
      return quantize.dequantize(parts, -2, config.compute_dtype)
    return whole(kernel.astype(config.compute_dtype), spec)

  return [one(kernel, spec) for kernel, spec in zip(kernels, specs.kernels, strict=True)]


def _weighted(values: jax.Array, weights: jax.Array) -> jax.Array:
  """[M, F] times f32[M], rounded once."""
  return (values.astype(jnp.float32) * weights[:, None]).astype(values.dtype)


def _forward(config: ModelConfig, specs: _Specs, x, weights, chosen, kernels) -> jax.Array:
  """`_on_mesh` on one device."""
  gate, up, down = _whole(config, specs, kernels)
  rows, pairs = _gather(specs, x), _make_pairs(specs, weights, chosen, len(gate))

  def of_chunk(chunk):
    some, sizes = rows[chunk.tokens], chunk.sizes
    inner = activate(multiply_groups(some, gate, sizes), config) * multiply_groups(
        some, up, sizes)
    # Weighted before the last product, whose results are the larger ones.
    out = multiply_groups(_weighted(inner, chunk.weights), down, sizes)
    return _sum_of_tokens(chunk, out, specs.count)

  return _scatter(specs, _add_chunks(of_chunk, pairs), x)


def _backward(config: ModelConfig, specs: _Specs, x, weights, chosen, gradient, kernels) -> tuple:
  """Its gradients on one device: of x, weights, and floats of kernels; of others ()."""
  gate, up, down = _whole(config, specs, kernels)
  rows, pairs = _gather(specs, x), _make_pairs(specs, weights, chosen, len(gate))
  of_rows, is_frozen = _gather(specs, gradient), quantize.is_quantized(kernels[0])

  def of_chunk(chunk):
    some, out, sizes = rows[chunk.tokens], of_rows[chunk.tokens], chunk.sizes
    inner, pull = jax.vjp(
        lambda gate, up: activate(gate, config) * up,
        multiply_groups(some, gate, sizes), multiply_groups(some, up, sizes))
    of_inner = multiply_groups(out, down, sizes, is_transposed=True)
    of_weight = jnp.sum(of_inner.astype(jnp.float32) * inner.astype(jnp.float32), axis=-1)
    of_gate, of_up = pull(_weighted(of_inner, chunk.weights))
    of_some = multiply_groups(of_gate, gate, sizes, is_transposed=True) + multiply_groups(
        of_up, up, sizes, is_transposed=True)
    return (
        _sum_of_tokens(chunk, of_some, specs.count),
        jnp.where(chunk.position < 0, 0.0, of_weight[jnp.maximum(chunk.position, 0)]),
        () if is_frozen else (
            outer_groups(some, of_gate, sizes), outer_groups(some, of_up, sizes),
            outer_groups(_weighted(inner, chunk.weights), out, sizes)))

  of_x, of_weights, of_kernels = _add_chunks(of_chunk, pairs)
  return (_scatter(specs, of_x, x), _scatter(specs, of_weights, weights),
          tuple(_sum(specs, total, spec).astype(kernel.dtype) for total, spec, kernel
                in zip(of_kernels, specs.kernels, kernels, strict=not is_frozen)))


def _sum(specs: _Specs, total: jax.Array, spec: PartitionSpec) -> jax.Array:
  """This device's part of a kernel's gradient, added up over the devices with other tokens."""
  mesh = rules.current_mesh()
  left = [name for name in specs.names if mesh.shape[name] > 1 and name != specs.axis]
  for axis, name in enumerate(spec):
    if name not in (None, specs.axis, specs.inner):
      total = jax.lax.psum_scatter(total, name, scatter_dimension=axis, tiled=True)
      left = [other for other in left if other not in rules.names_of(name)]
  return jax.lax.psum(total, left) if left else total
