"""Attention of whole rows by the Pallas kernel for TPUs that ships with JAX (splash attention).

It keeps no [T, T] array: the scores of a block are computed, used and discarded, in the backward
pass too. Instead of a mask it needs only the segments; causality and windows are part of the
kernel.
"""

import jax
import jax.numpy as jnp

from rlreason.parallel.shards import map_shards

LANES = 128  # rows are padded to a multiple of it
_BLOCKS = (512, 256, LANES)  # sizes of a block of scores; the largest that divides the row is used


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
  pad = -length % LANES

  def heads_first(x):
    return jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))).swapaxes(1, 2)

  def of_shard(query, key, value, segment_ids):
    kernel = jax.vmap(_make_kernel(query.shape[1], length + pad, window, softcap, interpret))
    return (_in_bf16(kernel) if query.dtype == jnp.bfloat16 else kernel)(
        query, key, value, segment_ids)

  # Query heads are split like key heads, so that a group stays with its key head.
  axes = ("batch", "kv_heads", "length", "head_dim")
  out = map_shards(of_shard, (axes, axes, axes, ("batch", "length")), axes)(
      heads_first(query * jnp.asarray(scale, query.dtype)), heads_first(key), heads_first(value),
      jnp.pad(segment_ids, ((0, 0), (0, pad))))
  return out.swapaxes(1, 2)[:, :length]


def _in_bf16(kernel):
  """The kernel, whose products are of bf16 whatever the precision of f32 products.

  The compiler refuses products of bf16 in a kernel that ask for the precision of f32. The backward
  pass is traced later than the forward pass, hence a rule of its own.
  """
  @jax.custom_vjp
  def attend_in_bf16(*args):
    with jax.default_matmul_precision("bfloat16"):
      return kernel(*args)

  def forward(query, key, value, segment_ids):
    with jax.default_matmul_precision("bfloat16"):
      return jax.vjp(lambda *heads: kernel(*heads, segment_ids), query, key, value)

  def backward(pull, gradient):
    with jax.default_matmul_precision("bfloat16"):
      return (*pull(gradient), None)

  attend_in_bf16.defvjp(forward, backward)
  return attend_in_bf16


def _make_kernel(num_heads, length, window, softcap, interpret):
  """A function of query [H, T, h], key and value [K, T, h] and segments i32[T]."""
  # Imported here, so that nothing else depends on an experimental module.
  from jax.experimental.pallas.ops.tpu import splash_attention

  shape = (length, length)
  mask = (splash_attention.CausalMask(shape) if window is None else
          splash_attention.LocalMask(shape, (window - 1, 0), offset=0))
  block = next(size for size in _BLOCKS if length % size == 0)
  kernel = splash_attention.make_splash_mha(
      splash_attention.MultiHeadMask([mask] * num_heads), head_shards=1, q_seq_shards=1,
      block_sizes=splash_attention.BlockSizes(*[block] * 8), attn_logits_soft_cap=softcap,
      interpret=interpret)
  return lambda query, key, value, ids: kernel(
      query, key, value, splash_attention.SegmentIds(ids, ids))
