"""Attention of whole rows by the Pallas kernel for TPUs that ships with JAX (splash attention).

It keeps no [T, T] array: the scores of a block are computed, used and discarded, in the backward
pass too, which one kernel computes. Instead of a mask it needs only the segments; causality and
windows are part of the kernel.

The last tokens of a row attend to the most others. Where devices split the columns, in 2n parts,
device d of n has part d and part 2n - 1 - d: each has the same number of pairs of tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlreason.parallel.rules import manual_axis, num_shards
from rlreason.parallel.shards import map_rows, map_shards, whole_columns

LANES = 128  # rows are padded to a multiple of it
RESIDUALS = "flash_residuals"  # what the backward pass reads, by its name for `jax.checkpoint`
_BLOCKS = (512, 256, LANES)  # sizes of a block of scores; the largest that divides the row is used
_KEY_BYTES = 2**19  # most of the keys in a block of the backward pass, which must fit on the chip
_APART = -1e9  # a score of two tokens of different completions


class _Kernel(NamedTuple):
  """What a kernel is made for, besides the shapes of its arguments."""

  window: int | None
  softcap: float | None
  interpret: bool
  is_balanced: bool = False  # the columns, which devices split, are in the order of `balanced`


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array, *,
    window: int | None, scale: float, softcap: float | None, interpret: bool = False,
) -> jax.Array:
  """Causal attention within segments; arbitrary where `segment_ids` is 0.

  The tokens of a segment are contiguous, so that a window may count columns instead of positions.

  Args:
    query: [B, T, H, h].
    key: [B, T, K, h].
    value: [B, T, K, h].
    segment_ids: i32[B, T].
    window: as in `masks.attention_mask`.
    scale: of the scores.
    softcap: as in `attention.attend`.
    interpret: whether to run without a TPU, slowly.

  Returns:
    [B, T, H, h].
  """
  length = query.shape[1]
  right = lambda x: _pad(x, 0, -length % (LANES * num_shards("length")))
  ids = right(segment_ids)
  return _run(
      _Kernel(window, softcap, interpret), right(_scaled(query, scale)), right(key), right(value),
      ids, ids)[:, :length]


def attend_balanced(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array, *,
    window: int | None, scale: float, softcap: float | None, interpret: bool = False,
) -> jax.Array:
  """`attend` for columns in the order of `balanced`.

  T is a multiple of 128 times the devices that split the columns; else as there, [B, T, H, h].
  """
  return _run(_Kernel(window, softcap, interpret, is_balanced=True), _scaled(query, scale), key,
              value, segment_ids, segment_ids)


def attend_shared(
    query: jax.Array, key: jax.Array, value: jax.Array, prompt_mask: jax.Array,
    completion_ids: jax.Array, *, group_size: int, scale: float, interpret: bool = False,
) -> jax.Array:
  """Causal attention of the packed completions of one prompt to it, and each to itself.

  A kernel with segments cannot let several of them see the prompt. Completions are kept apart by
  the scores instead: queries and keys have more features, whose product is 0 for a token of the
  same completion or of the prompt, and -1e9 for others. It costs little: the kernel's products
  have 128 features or more, and those with values are unchanged.

  Args:
    query: [R, W, H, h] of packed rows.
    key: [R, S + W, K, h], those of the row's prompt first.
    value: [R, S + W, K, h].
    prompt_mask: bool[R, S].
    completion_ids: i32[R, W] 1 to `group_size`, 0 on padding, where the result is arbitrary.
    group_size: the most completions of a row.
    scale: of the scores.
    interpret: whether to run without a TPU, slowly.

  Returns:
    [R, W, H, h].
  """
  (_, width, heads, size), columns = query.shape, prompt_mask.shape[1]
  extra = group_size + 1 + -(size + group_size + 1) % LANES
  owner = jax.nn.one_hot(completion_ids, extra, dtype=key.dtype)[:, :, None]
  of_query = jnp.broadcast_to(_APART * (1 - owner), (*query.shape[:2], heads, extra))
  of_key = jnp.broadcast_to(
      _pad(owner, columns, 0), (*key.shape[:2], key.shape[2], extra))
  query = jnp.concatenate([_scaled(query, scale), of_query], axis=-1)
  key = jnp.concatenate([key, of_key], axis=-1)
  left, right = -columns % LANES, -width % LANES
  both = lambda x: _pad(x, left, right)
  ones = jnp.ones(completion_ids.shape, jnp.int32)
  ids = both(jnp.concatenate([prompt_mask.astype(jnp.int32), ones], axis=1))
  return _run(
      _Kernel(None, None, interpret), _pad(query, 0, right), both(key), both(value),
      _pad(ones, 0, right), ids)[:, :width]


def _scaled(query, scale):
  return query * jnp.asarray(scale, query.dtype)


def _pad(x, left, right):
  """Zeros before and after the tokens, on the second axis."""
  return jnp.pad(x, ((0, 0), (left, right)) + ((0, 0),) * (x.ndim - 2))


def _run(kind: _Kernel, query, key, value, query_ids, key_ids):
  """The last T of L tokens, [B, T, H, h] with ids i32[B, T], attend to all, [B, L, K, h]."""
  shards = num_shards("length")

  def whole(x, axis):
    x = whole_columns(x, axis)
    return in_order(x, axis, shards) if kind.is_balanced else x

  def of_shard(query, key, value, query_ids, key_ids):
    if shards > 1:
      key, value, key_ids = whole(key, 2), whole(value, 2), whole(key_ids, 1)
    kernel = jax.vmap(_make_kernel(kind, query[0], key[0, 0], shards))
    return (_in_bf16(kernel) if query.dtype == jnp.bfloat16 else kernel)(
        query, key, value, query_ids, key_ids)

  # Query heads are split like key heads, so that a group stays with its key head.
  heads, ids = ("batch", "kv_heads", "length", "head_dim"), ("batch", "length")
  heads_first = lambda x: x.swapaxes(1, 2)
  return heads_first(map_shards(of_shard, (heads, heads, heads, ids, ids), heads)(
      heads_first(query), heads_first(key), heads_first(value), query_ids, key_ids))


def _in_bf16(kernel):
  """The kernel, whose products are of bf16 whatever the precision of f32 products.

  The compiler refuses products of bf16 in a kernel that ask for the precision of f32. The backward
  pass is traced later than the forward pass, hence a rule of its own.
  """
  @jax.custom_vjp
  def attend_in_bf16(*args):
    with jax.default_matmul_precision("bfloat16"):
      return kernel(*args)

  def forward(query, key, value, *ids):
    with jax.default_matmul_precision("bfloat16"):
      return jax.vjp(lambda *heads: kernel(*heads, *ids), query, key, value)

  def backward(pull, gradient):
    with jax.default_matmul_precision("bfloat16"):
      return (*pull(gradient), None, None)

  attend_in_bf16.defvjp(forward, backward)
  return attend_in_bf16


def _make_kernel(kind: _Kernel, query: jax.Array, key: jax.Array, shards: int):
  """A function of query [H, T, h], key [K, L, h], value [K, L, h], ids i32[T] and i32[L].

  Of the arguments, a query [H, T, h] and keys of one head [L, h], only the shapes are used. With
  `shards`, devices that each have T of the queries, it is that of this device.
  """
  # Imported here, so that nothing else depends on an experimental module.
  from jax.experimental.pallas.ops.tpu import splash_attention

  (heads, count, _), (length, size) = query.shape, key.shape
  part = count // 2 if kind.is_balanced else count  # a block of two parts would be half empty
  shape, offset = (count * shards, length), length - count * shards
  mask = (splash_attention.CausalMask(shape, offset) if kind.window is None else
          splash_attention.LocalMask(shape, (kind.window - 1, 0), offset=offset))
  if kind.is_balanced:
    mask.q_sequence = balanced(length, shards)
  of_query, of_key = (
      next(size for size in _BLOCKS if x % size == 0 or size == LANES) for x in (part, length))
  # Each block of keys has its own sum of the query's gradient, which are added up afterwards.
  most = max(of_key, _KEY_BYTES // (size * key.dtype.itemsize))
  of_keys = max(n for n in range(of_key, most + 1, of_key) if length % n == 0)
  kernel = splash_attention.make_splash_mha(
      splash_attention.MultiHeadMask([mask] * heads), head_shards=1, q_seq_shards=shards,
      block_sizes=splash_attention.BlockSizes(
          of_query, of_key, of_key, of_query, of_keys, of_key, use_fused_bwd_kernel=True),
      attn_logits_soft_cap=kind.softcap, residual_checkpoint_name=RESIDUALS,
      interpret=kind.interpret)
  kernel = kernel if shards == 1 else _of_device(kernel, shards)
  return lambda query, key, value, query_ids, key_ids: kernel(
      query, key, value, splash_attention.SegmentIds(query_ids, key_ids))


def _of_device(kernel, shards: int):
  """The kernel with this device's part of what it knows of the queries: their axis is the last of
  one axis, and else the one before the last."""
  def part(x):
    axis = max(x.ndim - 2, 0)
    size = x.shape[axis] // shards
    start = jax.lax.axis_index(manual_axis("length")) * size
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

  return jax.tree.map(part, kernel)


def _parts(shards: int) -> list[int]:
  """The parts in the order of the devices that have them: 0, 3, 1, 2 for 2 devices."""
  return [part for d in range(shards) for part in (d, 2 * shards - 1 - d)]


def balanced(length: int, shards: int) -> np.ndarray:
  """i32[T] the columns in the order of the devices that have them; T a multiple of 2 * `shards`."""
  return np.arange(length, dtype=np.int32).reshape(2 * shards, -1)[_parts(shards)].reshape(-1)


def in_order(x: jax.Array, axis: int, shards: int) -> jax.Array:
  """An array of balanced columns on `axis`, all of them on this device, in the order of a row."""
  parts = jnp.split(x, 2 * shards, axis)
  return jnp.concatenate([parts[i] for i in np.argsort(_parts(shards))], axis)


def exchange(x: jax.Array, shards: int) -> jax.Array:
  """[B, T, D] of balanced columns, split over devices, in the order of a row, split as well.

  Of the two parts that each device has, one becomes the first half of some device's columns, and
  the other the second half of another's.
  """
  last = 2 * shards - 1

  def of_device(x):
    axis = manual_axis("length")
    low, high = jnp.split(x, 2, axis=1)
    is_even = jax.lax.axis_index(axis) % 2 == 0
    # An even part is a first half: the lower part of an even device, the upper one of an odd one.
    first = jax.lax.ppermute(
        jnp.where(is_even, low, high), axis,
        [(d, (last - d if d % 2 else d) // 2) for d in range(shards)])
    second = jax.lax.ppermute(
        jnp.where(is_even, high, low), axis,
        [(d, (d if d % 2 else last - d) // 2) for d in range(shards)])
    return jnp.concatenate([first, second], axis=1)

  axes = ("batch", "length", "embed_act")
  return map_rows(of_device, (axes,), axes)(x)
