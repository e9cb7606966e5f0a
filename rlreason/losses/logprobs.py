"""Log-probabilities and entropies of tokens, from hidden states, without logits for a whole batch.

Logits of `[B, T, V]` in f32 are the largest array of a language-model loss (40 GB for 32 rows of 2k
tokens and a vocabulary of 151k). Here they exist for some tokens and some words at a time. The
forward pass keeps a normaliser per token, with which the backward pass recomputes them together
with the gradient in one pass.
"""

import functools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rlreason import masks
from rlreason.parallel.rules import manual_axis, num_shards

# Logits in memory at once: 64 MiB in f32. The backward pass holds about three arrays of that size.
CHUNK_ELEMENTS = 2**24


def cap(x: jax.Array, limit: float | None) -> jax.Array:
  """Values f32[...] soft-capped to +-limit; unchanged if that is None."""
  return x if limit is None else limit * jnp.tanh(x / limit)


# The logit of nonexistent words: its exponential is 0, and a million of them have a finite sum.
_NO_LOGIT = -1e30


def hide_words(logits: jax.Array, num_words: int | None) -> jax.Array:
  """Logits f32[..., V] in which words from `num_words` on have probability 0; None: unchanged."""
  if num_words is None:
    return logits
  return jnp.where(jnp.arange(logits.shape[-1]) < num_words, logits, _NO_LOGIT)


# A log-probability nearer to 0 than this counts as 0: 1 - p is only rounding in f32.
_NEAREST = 1e-6


def log1mexp(x: jax.Array) -> jax.Array:
  """log(1 - exp(x)), the log-probability of the complement, for log-probabilities x; f32[...].

  For x above -1e-6, where it tends to minus infinity, it is held at -13.8 and has no gradient.
  """
  x = jnp.minimum(x, -_NEAREST)
  return jnp.where(x > -math.log(2), jnp.log(-jnp.expm1(x)), jnp.log1p(-jnp.exp(x)))


def mean_probability(log_probs: jax.Array, mask: jax.Array) -> jax.Array:
  """The mean probability of a row's tokens: the reward of RLPR, https://arxiv.org/abs/2506.18254.

  For 0.9, 0.5 and 0.7 it is 0.7, while their product is 0.315 and their geometric mean 0.680. It
  stays high if one word is worded differently: with 0.01 instead of 0.5 it is 0.537, the product
  0.006 and the geometric mean 0.185. Easy tokens dominate a long answer.

  Args:
    log_probs: f32[B, T] nats.
    mask: bool[B, T] True on the tokens of the answer.

  Returns:
    f32[B]; 0 for a row without such tokens.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([log_probs, mask])
  return masks.masked_mean(jnp.exp(log_probs), mask, axis=1)


def from_logits(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
  """log p(target) and entropy of softmax(logits).

  Args:
    logits: f32[..., V].
    targets: i32[...].

  Returns:
    log_probs, entropy: f32[...] each, in nats.
  """
  words = jnp.arange(logits.shape[-1], dtype=targets.dtype)
  parts = _softmax_parts(logits, words, targets)
  return _of_parts(*parts)[:2]


def _softmax_parts(logits, words, targets):
  """The contribution of logits f32[..., C] of `words` i32[C] to a softmax; f32[...] each.

  Returns:
    The largest logit; the sum of exponentials relative to it; their sum weighted by the relative
    logits; the target's logit, or 0 if it is not among the words.
  """
  largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
  relative = logits - largest[..., None]
  exponentials = jnp.exp(relative)
  chosen = jnp.sum(jnp.where(_is_target(words, targets), logits, 0.0), axis=-1)
  return (largest, jnp.sum(exponentials, axis=-1), jnp.sum(exponentials * relative, axis=-1),
          chosen)


def _is_target(words, targets):
  # A comparison instead of a gather: it fuses, its gradient is not a scatter, and it works on a
  # vocabulary that is sharded over devices.
  return jnp.expand_dims(words, range(targets.ndim)) == targets[..., None]


def _join_parts(largest, total, weighted, chosen):
  """The parts of all chunks together, from parts with the chunks on the first axis."""
  top = jnp.max(largest, axis=0)
  shift = largest - top[None]
  factor = jnp.exp(shift)
  weighted = jnp.sum(factor * (weighted + total * shift), axis=0)
  return top, jnp.sum(factor * total, axis=0), weighted, jnp.sum(chosen, axis=0)


def _of_parts(top, total, weighted, chosen):
  """Log-probs, entropies and log-normalisers from the parts of all words."""
  log_total = jnp.log(total)
  return chosen - top - log_total, log_total - weighted / total, top + log_total


def token_log_probs(
    hidden: jax.Array, kernel: jax.Array, targets: jax.Array, *, temperature: float = 1.0,
    softcap: float | None = None, vocab_axis: int = 1, num_words: int | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[jax.Array, jax.Array]:
  """log p(target) under softmax(hidden @ kernel / temperature), and that distribution's entropy.

  The temperature must be that at which the tokens were sampled: only then is the ratio of the first
  PPO minibatch 1. A temperature of 0 (greedy) is treated as 1.

  Args:
    hidden: [B, T, D].
    kernel: [D, V], or [V, D] with `vocab_axis=0`: transposing it first would cost a copy. In a
      program of each device's part of the vocabulary (`map_rows`), that part.
    targets: i32[B, T].
    temperature: 0 or more.
    softcap: logits x become softcap * tanh(x / softcap) before the temperature; None: no cap.
    vocab_axis: that of the kernel.
    num_words: words of the kernel from here on have probability 0 and no gradient; None: none.
    chunk_elements: logits in memory at once; at least one per row of the batch.

  Returns:
    log_probs, entropy: f32[B, T] each, in nats.
  """
  chex.assert_rank([hidden, kernel, targets], [3, 2, 2])
  (batch, length, _), vocabulary = hidden.shape, kernel.shape[vocab_axis]
  split_by = manual_axis("vocab")  # of devices with other words
  scale = 1.0 / (temperature if temperature > 0 else 1.0)
  if batch * length * vocabulary <= chunk_elements and split_by is None:
    rows = hidden.reshape(-1, hidden.shape[-1])
    equation = f"rd,{_KERNEL_AXES[vocab_axis]}->rc"
    logits = _scaled(_product(equation, rows, kernel.astype(rows.dtype)), scale, softcap)
    return jax.tree.map(
        lambda x: x.reshape(targets.shape),
        from_logits(hide_words(logits, num_words), targets.reshape(-1)))

  # About as many tokens as words: each chunk of words adds to the tokens' gradient, and each block
  # of tokens to the kernel's.
  columns = min(length, max(1, math.isqrt(chunk_elements) // batch))
  blocks = -(-length // columns)
  columns = -(-length // blocks)  # even blocks waste the least padding
  pad = blocks * columns - length
  shards = 1 if split_by else num_shards("vocab")
  shards = shards if vocabulary % shards == 0 else 1
  words = min(max(1, chunk_elements // (batch * columns * shards)), vocabulary // shards)
  chunks = -(-vocabulary // (shards * words))
  plan = _Plan(
      scale, softcap, vocab_axis, shards, chunks, -(-vocabulary // (shards * chunks)),
      num_words, split_by)

  def to_blocks(x):
    x = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2))
    x = x.reshape(batch, blocks, columns, *x.shape[2:]).swapaxes(0, 1)
    return x.reshape(blocks, batch * columns, *x.shape[3:])

  def to_rows(x):
    return x.reshape(blocks, batch, columns).swapaxes(0, 1).reshape(batch, -1)[:, :length]

  return jax.tree.map(
      to_rows, _in_chunks(plan, to_blocks(hidden), kernel, to_blocks(targets)))


class _Plan(NamedTuple):
  """How logits are made, and in which pieces; static."""

  scale: float
  softcap: float | None
  vocab_axis: int
  shards: int  # devices that split the vocabulary: every chunk takes its words from each of them
  chunks: int
  words: int  # of one chunk, per shard
  num_words: int | None  # those from here on are ignored
  split_by: str | None  # the mesh axis over which parts of the softmax are joined


_KERNEL_AXES = ("cd", "dc")  # by vocab_axis: c for the words of a chunk, d for the width


def _product(equation, x, y):
  # One product of two matrices: with batch and columns as separate axes its gradient is 2.3 times
  # slower on the CPU. f32 results, whatever the compute type: see `models.logits`.
  return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def _scaled(logits, scale, softcap):
  return cap(logits, softcap) * scale


def _take_chunk(plan, kernel, index):
  """The kernel of a chunk, its words i32[C], and its start in every shard.

  The last chunk overlaps the one before where the chunks do not divide the vocabulary. In it, words
  that both hold and words to ignore are -1.
  """
  share = kernel.shape[plan.vocab_axis] // plan.shards
  start = jnp.minimum(index * plan.words, share - plan.words)
  column = start + jnp.arange(plan.words)
  words = jnp.arange(plan.shards)[:, None] * share + column[None]
  if plan.split_by is not None:
    words = words + jax.lax.axis_index(plan.split_by) * share
  is_used = (column >= index * plan.words)[None] & (
      True if plan.num_words is None else words < plan.num_words)
  words = jnp.where(is_used, words, -1)
  part = jax.lax.dynamic_slice_in_dim(
      _by_shard(plan, kernel), start, plan.words, axis=plan.vocab_axis + 1)
  width = kernel.shape[1 - plan.vocab_axis]
  part = part.reshape((-1, width) if plan.vocab_axis == 0 else (width, -1))
  return part, words.reshape(-1), start


def _by_shard(plan, kernel):
  """The vocabulary as two axes: shards, words of a shard."""
  axis, shape = plan.vocab_axis, kernel.shape
  return kernel.reshape(*shape[:axis], plan.shards, -1, *shape[axis + 1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_chunks(plan, rows, kernel, targets):
  """`from_logits` of blocks of rows [n, R, D] and targets i32[n, R]; f32[n, R] each."""
  return _forward(plan, rows, kernel, targets)[0]


def _forward(plan, rows, kernel, targets):
  to_logits = f"rd,{_KERNEL_AXES[plan.vocab_axis]}->rc"

  def of_block(block):
    rows, targets = block

    def of_chunk(index):
      part, words, _ = _take_chunk(plan, kernel, index)
      logits = _scaled(_product(to_logits, rows, part.astype(rows.dtype)), plan.scale, plan.softcap)
      logits = jnp.where((words >= 0)[None], logits, _NO_LOGIT)
      return _softmax_parts(logits, words, targets)

    return _join_parts(*jax.lax.map(of_chunk, jnp.arange(plan.chunks)))

  parts = jax.lax.map(of_block, (rows, targets))
  if plan.split_by is not None:
    parts = _join_parts(*(jax.lax.all_gather(part, plan.split_by) for part in parts))
  log_probs, entropy, log_total = _of_parts(*parts)
  return (log_probs, entropy), (rows, kernel, targets, log_total, entropy)


def _backward(plan, kept, gradients):
  """d log p_t / d z = 1_t - p and d H / d z = -p (log p + H), for logits z."""
  rows, kernel, targets, log_total, entropy = kept
  axes, chunk_axis = _KERNEL_AXES[plan.vocab_axis], plan.vocab_axis + 1
  if plan.split_by is not None:
    # The gradient of a result that devices share has been divided among them.
    gradients = jax.lax.psum(gradients, plan.split_by)

  def of_block(kernel_gradient, block):
    rows, targets, log_total, entropy, for_log_probs, for_entropy = block

    def of_chunk(index, sums):
      rows_gradient, kernel_gradient = sums
      part, words, start = _take_chunk(plan, kernel, index)
      part = part.astype(rows.dtype)
      logits, pull = jax.vjp(
          lambda x: _scaled(x, plan.scale, plan.softcap),
          _product(f"rd,{axes}->rc", rows, part))
      log_probs = logits - log_total[:, None]
      gradient = jnp.where(_is_target(words, targets), for_log_probs[:, None], 0.0) - (
          jnp.exp(log_probs) * (
              for_log_probs[:, None] + for_entropy[:, None] * (log_probs + entropy[:, None])))
      gradient, = pull(jnp.where((words >= 0)[None], gradient, 0.0))
      gradient = gradient.astype(rows.dtype)
      add = _by_shard(plan, _product(f"rd,rc->{axes}", rows, gradient))
      add = add.astype(kernel_gradient.dtype) + jax.lax.dynamic_slice_in_dim(
          kernel_gradient, start, plan.words, axis=chunk_axis)
      kernel_gradient = jax.lax.dynamic_update_slice_in_dim(
          kernel_gradient, add, start, axis=chunk_axis)
      return rows_gradient + _product(f"rc,{axes}->rd", gradient, part), kernel_gradient

    rows_gradient, kernel_gradient = jax.lax.fori_loop(
        0, plan.chunks, of_chunk, (jnp.zeros(rows.shape, jnp.float32), kernel_gradient))
    return kernel_gradient, rows_gradient.astype(rows.dtype)

  # A sum over several blocks is in f32; a single block only writes.
  dtype = kernel.dtype if rows.shape[0] == 1 else jnp.float32
  kernel_gradient, rows_gradient = jax.lax.scan(
      of_block, _by_shard(plan, jnp.zeros(kernel.shape, dtype)),
      (rows, targets, log_total, entropy, *gradients))
  return rows_gradient, kernel_gradient.reshape(kernel.shape).astype(kernel.dtype), None


_in_chunks.defvjp(_forward, _backward)
