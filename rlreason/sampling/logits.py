"""From logits to one token per row: temperature, filters, and a draw that is cheap for large V.

All functions are pure functions of f32[B, V] logits, independent of models and loops; a token that
is filtered out has the logit -inf.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlreason.parallel.rules import table
from rlreason.parallel.shards import map_shards
from rlreason.sampling.options import SamplingOptions

_BLOCK = 128  # tokens; a block of the vocabulary is drawn first, then a token in it


def block_bigrams(
    logits: jax.Array, previous: jax.Array,
    bigrams: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...],
) -> jax.Array:
  """Sets -inf on the `next` ids of a pair if a row's newest token is one of its `previous` ids.

  Args:
    logits: f32[B, V].
    previous: i32[B] the newest token of each row.
    bigrams: pairs (previous ids, next ids).

  Returns:
    f32[B, V].
  """
  for before, after in bigrams:
    is_next = np.isin(np.arange(logits.shape[1]), after)
    has_seen = jnp.isin(previous, np.asarray(before, np.int32))
    logits = jnp.where(has_seen[:, None] & is_next[None], -jnp.inf, logits)
  return logits


def filter_logits(logits: jax.Array, options: SamplingOptions) -> jax.Array:
  """Applies the temperature (not 0), top-k, top-p and min-p of `options` to f32[B, V]."""
  logits = logits / options.temperature
  if options.top_k:
    logits = keep_top_k(logits, options.top_k)
  if options.top_p < 1:
    logits = keep_top_p(logits, options.top_p)
  if options.min_p > 0:
    logits = keep_min_p(logits, options.min_p)
  return logits


def keep_top_k(logits: jax.Array, k: int) -> jax.Array:
  """The `k` largest logits of each row, and those equal to the smallest of them; -inf elsewhere.

  f32[B, V], as are the logits.
  """
  chex.assert_rank(logits, 2)
  if k >= logits.shape[1]:
    return logits
  threshold = jax.lax.top_k(logits, k)[0][:, -1:]
  return jnp.where(logits >= threshold, logits, -jnp.inf)


def keep_top_p(logits: jax.Array, p: float) -> jax.Array:
  """The smallest set of most likely tokens with probability `p` or more; -inf elsewhere.

  f32[B, V], as are the logits. Nucleus sampling (Holtzman et al. 2020,
  https://arxiv.org/abs/1904.09751). Tokens as likely as the least likely one of the set are kept
  too. The most likely token is always kept.

  The threshold is found by bisection on the bits of exp(logits - largest), which as integers have
  the same order: 30 passes of a compare and a sum, a tenth of the cost of a sort of [32, 49152].
  """
  chex.assert_rank(logits, 2)
  weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
  needed = p * jnp.sum(weights, axis=1)
  as_float = lambda bits: jax.lax.bitcast_convert_type(bits, jnp.float32)[:, None]

  def halve(_, bounds):
    low, high = bounds  # `low` keeps enough, `high + 1` does not
    middle = low + (high - low + 1) // 2
    kept = jnp.where(weights >= as_float(middle), weights, 0.0)
    is_enough = jnp.sum(kept, axis=1) >= needed
    return jnp.where(is_enough, middle, low), jnp.where(is_enough, high, middle - 1)

  one = int(np.float32(1).view(np.int32))
  bounds = jnp.zeros_like(needed, jnp.int32), jnp.full_like(needed, one, jnp.int32)
  threshold, _ = jax.lax.fori_loop(0, one.bit_length(), halve, bounds)
  return jnp.where(weights >= as_float(threshold), logits, -jnp.inf)


def keep_min_p(logits: jax.Array, p: float) -> jax.Array:
  """Tokens at least `p` times as likely as the likeliest (https://arxiv.org/abs/2407.01082).

  f32[B, V], as are the logits; -inf elsewhere.
  """
  chex.assert_rank(logits, 2)
  largest = jnp.max(logits, axis=1, keepdims=True)
  return jnp.where(logits >= largest + jnp.log(p), logits, -jnp.inf)


def choose(logits: jax.Array, uniforms: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Draws a token of each row from softmax(logits), by the inverse of its distribution function.

  The vocabulary is split into blocks. The first uniform number chooses a block by its probability,
  the second a token in the block: two short cumulative sums and no random number per token (Gumbel
  noise for [32, 49152] costs as much as a small model's whole step). A token of probability 0 is
  never returned, whatever the rounding. Uniform numbers have 2^23 values, so probabilities are
  exact to about 1e-7 times (blocks / share of the block).

  Args:
    logits: f32[B, V]; -inf is allowed, a row of nothing else is not.
    uniforms: f32[B, 2] in [0, 1).

  Returns:
    i32[B] tokens and f32[B] their log-probs under softmax(logits), nats.
  """
  chex.assert_rank([logits, uniforms], 2)
  fn = functools.partial(_choose, logits.shape[1])
  return map_shards(fn, (("batch", "vocab"), ("batch", None)), (("batch",), ("batch",)))(
      logits, uniforms)


def _choose(vocabulary: int, logits: jax.Array, uniforms: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`choose` on a device that has all or some words."""
  if logits.shape[1] < vocabulary:
    return _choose_together(vocabulary, logits, uniforms)
  blocks, _, largest = _in_blocks(logits)
  sums = jnp.sum(jnp.exp(blocks - largest[None, None]), axis=1).T
  block = _inverse_cdf(sums, uniforms[:, 0])
  inside = _of_block(blocks, block) - largest[:, None]
  index = _inverse_cdf(jnp.exp(inside), uniforms[:, 1])
  log_prob = jnp.take_along_axis(inside, index[:, None], axis=1)[:, 0]
  return block * _BLOCK + index, log_prob - jnp.log(jnp.sum(sums, axis=1))


def _choose_together(vocabulary, logits, uniforms):
  """Draws from the same blocks as one device, some of which two devices have parts of."""
  axis, (rows, width) = table()["vocab"], logits.shape
  start, count = jax.lax.axis_index(axis) * width, -(-vocabulary // _BLOCK)
  largest = jax.lax.pmax(jnp.max(logits, axis=1), axis)
  weights = jnp.exp(logits - largest[:, None])
  held = width // _BLOCK + 2  # blocks, the first and the last of which may be of two devices
  put = lambda size, part, at: jax.lax.dynamic_update_slice(
      jnp.zeros((rows, size)), part, (0, at))
  sums = jnp.sum(
      put(held * _BLOCK, weights, start % _BLOCK).reshape(rows, held, _BLOCK), axis=2)
  sums = jax.lax.psum(put(count + held, sums, start // _BLOCK), axis)[:, :count]

  def take(x, columns):
    is_held = (columns >= start) & (columns < start + width)
    found = jnp.take_along_axis(x, jnp.clip(columns - start, 0, width - 1), axis=1)
    return jax.lax.psum(jnp.where(is_held, found, 0.0), axis)

  block = _inverse_cdf(sums, uniforms[:, 0])[:, None] * _BLOCK
  inside = take(weights, block + jnp.arange(_BLOCK)[None])
  token = block[:, 0] + _inverse_cdf(inside, uniforms[:, 1])
  logit = take(logits, token[:, None])[:, 0]
  return token, logit - largest - jnp.log(jnp.sum(sums, axis=1))


def choose_greedily(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The first most likely token of each row, i32[B], and its log-prob at temperature 1, f32[B]."""
  chex.assert_rank(logits, 2)
  fn = functools.partial(_choose_greedily, logits.shape[1])
  return map_shards(fn, (("batch", "vocab"),), (("batch",), ("batch",)))(logits)


def _choose_greedily(vocabulary: int, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`choose_greedily` on a device that has all or some words."""
  blocks, block_largest, largest = _in_blocks(logits)
  # Not a full argmax: a reduction over (value, index) pairs is slow scalar code on the CPU.
  block = jnp.argmax(block_largest, axis=0)
  token = (block * _BLOCK + jnp.argmax(_of_block(blocks, block), axis=1)).astype(jnp.int32)
  is_whole, axis = logits.shape[1] == vocabulary, table()["vocab"]
  if not is_whole:
    mine, largest = largest, jax.lax.pmax(largest, axis)
    token = token + jax.lax.axis_index(axis) * logits.shape[1]
    token = jax.lax.pmin(jnp.where(mine == largest, token, vocabulary), axis)
  total = jnp.sum(jnp.exp(blocks - largest[None, None]), axis=(0, 1))
  return token, -jnp.log(total if is_whole else jax.lax.psum(total, axis))


def _in_blocks(logits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """f32[n, block, B] (padded with -inf), and the largest of each block, [n, B], and row, [B].

  Words come first, as the product of a decode step gives them: a TPU splits this axis without a
  copy.
  """
  padded = jnp.pad(logits.T, ((0, -logits.shape[1] % _BLOCK), (0, 0)), constant_values=-jnp.inf)
  blocks = padded.reshape(-1, _BLOCK, logits.shape[0])
  block_largest = jnp.max(blocks, axis=1)
  return blocks, block_largest, jnp.max(block_largest, axis=0)


def _of_block(blocks: jax.Array, block: jax.Array) -> jax.Array:
  """The logits of one block i32[B] of each row, f32[B, block]."""
  return jnp.take_along_axis(blocks, block[None, None], axis=0)[0].T


def _inverse_cdf(weights: jax.Array, uniforms: jax.Array) -> jax.Array:
  """i32[B] index drawn in proportion to f32[B, n] weights, one of which at least is not 0."""
  indices = jnp.arange(weights.shape[1])[None]
  cumulative = jnp.cumsum(weights, axis=1)
  is_possible = weights > 0
  reached = is_possible & (cumulative > uniforms[:, None] * cumulative[:, -1:])
  # If rounding puts the target at the very end, no sum reaches it: take the last possible index.
  last = jnp.max(jnp.where(is_possible, indices, 0), axis=1)
  return jnp.min(jnp.where(reached, indices, last[:, None]), axis=1)
