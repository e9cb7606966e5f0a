"""Masks and masked reductions, for all modules.

A masked reduction divides its numerator by its denominator only at the end, so that the result does
not depend on how a batch is padded, split into micro-batches or spread over devices.
"""

from typing import Callable, Literal, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np

Aggregation = Literal["token-mean", "token-sum", "sequence-mean", "sequence-sum", "constant"]


def zero_masked(x: jax.Array, mask: jax.Array) -> jax.Array:
  """`x` [...] where `mask` bool[...] is True, else 0: a NaN at a masked position does not leak."""
  return jnp.where(mask, x, jnp.zeros((), x.dtype))


def masked_sum(x: jax.Array, mask: jax.Array, axis=None) -> jax.Array:
  """Sum of `x` [...] over the True positions of bool[...], all of them or along `axis`; f32."""
  return jnp.sum(zero_masked(x.astype(jnp.float32), mask), axis=axis)


def safe_divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """`numerator / denominator`, f32[...], and 0 where that is 0, in value and gradient."""
  empty = denominator == 0
  return jnp.where(empty, 0.0, numerator / jnp.where(empty, 1.0, denominator))


def masked_mean(x: jax.Array, mask: jax.Array, axis=None) -> jax.Array:
  """Mean of `x` [...] over True positions of bool[...], in f32; 0 when there are none.

  Over all of them, or along `axis`.
  """
  return safe_divide(masked_sum(x, mask, axis), jnp.sum(mask.astype(jnp.float32), axis=axis))


def masked_variance(x: jax.Array, mask: jax.Array, *, ddof: int = 0) -> jax.Array:
  """Variance over True positions, in f32; 0 for one position or none, and for equal numbers.

  For `x` [...] and `mask` bool[...] a scalar. The sum of squares is divided by the number of
  positions minus `ddof`: 0 is biased, 1 is not.
  """
  errors = centred(x, mask)
  freedom = jnp.sum(mask.astype(jnp.float32)) - ddof
  return safe_divide(masked_sum(jnp.square(errors), mask), freedom)


def whiten(
    x: jax.Array, mask: jax.Array, *, shift_mean: bool = True, epsilon: float = 1e-8,
    ddof: int = 0,
) -> jax.Array:
  """Scales `x` to unit variance over True positions; 0 where masked.

  Equal numbers become 0. With `shift_mean=False` the mean is kept, as PPO for language models does
  for rewards (Ziegler et al. 2019, https://arxiv.org/abs/1909.08593).

  Args:
    x: f32[...], such as [B, T] of tokens or [B] of rows.
    mask: bool[...].
    shift_mean: whether the result is centred on 0.
    epsilon: added to the variance.
    ddof: 0 for the biased variance, 1 for the unbiased one.

  Returns:
    f32[...].
  """
  # Masked first: else the gradient of the product below is 0 * NaN where a masked `x` is NaN.
  x = zero_masked(x, mask)
  scaled = centred(x, mask) * jax.lax.rsqrt(masked_variance(x, mask, ddof=ddof) + epsilon)
  return zero_masked(scaled if shift_mean else scaled + masked_mean(x, mask), mask)


def shifted(x: jax.Array, mask: jax.Array, axis=None) -> jax.Array:
  """`x` minus the maximum over its True positions, in f32; 0 where masked. Gradients pass through.

  For `x` [...] and `mask` bool[...] f32[...], along `axis` or over all. Equal numbers become
  exactly 0.
  """
  x = zero_masked(x.astype(jnp.float32), mask)
  lowest = jnp.finfo(jnp.float32).min
  highest = jnp.max(x, axis=axis, keepdims=True, initial=lowest, where=mask)
  return zero_masked(x - jax.lax.stop_gradient(highest), mask)


def centred(x: jax.Array, mask: jax.Array, axis=None) -> jax.Array:
  """`x` minus its mean over True positions, in f32; 0 where masked.

  For `x` [...] and `mask` bool[...] f32[...], along `axis` or over all. Equal numbers become
  exactly 0: dividing a rounding residue by their standard deviation would amplify it.
  """
  x = shifted(x, mask, axis)
  total, count = (jnp.sum(y, axis=axis, keepdims=True) for y in (x, mask.astype(jnp.float32)))
  return zero_masked(x - safe_divide(total, count), mask)


def token_weights(
    mask: jax.Array, aggregation: Aggregation, *, constant_length: int = 1,
    all_sum: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
  """Per-token weights that turn a sum over tokens into the chosen reduction of a batch.

  A loss is `sum(weights * per_token_loss)`. The weights are computed once, from the mask of a whole
  minibatch; any split of that minibatch then adds up to the same loss and gradient.

  - `token-mean`: every token counts the same, 1 / (tokens in the batch).
  - `token-sum`: every token counts 1.
  - `sequence-mean`: mean over the tokens of a row, then mean over the rows that have any.
  - `sequence-sum`: sum over the tokens of a row, then mean over the rows that have any.
  - `constant`: `sequence-sum` divided by `constant_length`, Dr. GRPO
    (https://arxiv.org/abs/2503.20783).

  For lengths (2, 8) and a per-token loss of 1 in the first row and 0 in the second, the results are
  0.2, 2, 0.5, 1 and, with `constant_length=10`, 0.1.

  Args:
    mask: bool[B, T] tokens that are trained on.
    aggregation: one of the above.
    constant_length: tokens; only for `constant`.
    all_sum: adds a scalar over the replicas that hold the other rows of the minibatch.

  Returns:
    f32[B, T], 0 where masked.

  Raises:
    ValueError: the aggregation is unknown.
  """
  chex.assert_rank(mask, 2)
  kept = mask.astype(jnp.float32)
  lengths = jnp.sum(kept, axis=1, keepdims=True)
  rows = all_sum(jnp.sum((lengths > 0).astype(jnp.float32)))
  if aggregation == "token-mean":
    return safe_divide(kept, all_sum(jnp.sum(kept)))
  if aggregation == "token-sum":
    return kept
  if aggregation == "sequence-mean":
    return safe_divide(kept, lengths * rows)
  if aggregation == "sequence-sum":
    return safe_divide(kept, rows)
  if aggregation == "constant":
    return safe_divide(kept, rows * constant_length)
  raise ValueError(
      f"aggregation: got {aggregation!r}, allowed: {', '.join(get_args(Aggregation))}")


def lengths(mask: jax.Array) -> jax.Array:
  """The number of columns of each row up to its last True one, gaps included; i32[B].

  Of a `token_mask` this is the number of tokens in the row. `[T, T, F, F, T, F] -> 5`, of numpy or
  jax.

  Args:
    mask: bool[B, T].
  """
  columns = np.arange(1, mask.shape[1] + 1, dtype=np.int32)[None]
  return (mask * columns).max(axis=1, initial=0)


def before_end(mask: jax.Array) -> jax.Array:
  """True up to the last True position of each row, gaps filled; bool[B, T]."""
  return np.arange(mask.shape[1])[None] < lengths(mask)[:, None]


def runs(mask: np.ndarray) -> np.ndarray:
  """The index, from 1, of the run of True columns that each column is in; 0 where False; i32[B, T].

  Of an `action_mask` these are the turns of the policy. `[T, T, F, T] -> [1, 1, 0, 2]`.
  """
  starts = mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
  return np.cumsum(starts, axis=1, dtype=np.int32) * mask


def positions_from_mask(mask: jax.Array) -> jax.Array:
  """Positions 0, 1, 2... over the True entries of each row; i32[B, T].

  `[F, F, T, T, T] -> [0, 0, 0, 1, 2]` (left padding), `[T, T, F] -> [0, 1, 1]` (right padding).
  """
  return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=-1) - 1, 0)


def attention_mask(
    segment_ids: jax.Array, positions: jax.Array | None = None, window: int | None = None
) -> jax.Array:
  """Causal attention within each segment; padding (segment 0) attends only to itself.

  A padding query keeps its own key, because a softmax over nothing is NaN.

  Args:
    segment_ids: i32[B, T]; 0 on padding.
    positions: i32[B, T] within each segment; only for a window.
    window: number of tokens that a query attends to, itself included; None for all.

  Returns:
    bool[B, 1, T, T], True where query (third axis) may attend to key (last axis).
  """
  chex.assert_rank(segment_ids, 2)
  length = segment_ids.shape[1]
  allowed = jnp.tril(jnp.ones((length, length), bool))[None]
  if window is not None:
    allowed &= positions[:, :, None] - positions[:, None, :] < window
  allowed &= segment_ids[:, :, None] == segment_ids[:, None, :]
  allowed &= (segment_ids > 0)[:, None, :]
  return (allowed | jnp.eye(length, dtype=bool)[None])[:, None]


def shared_prompt_mask(
    segment_ids: jax.Array, positions: jax.Array, prompt_mask: jax.Array,
    window: int | None = None,
) -> jax.Array:
  """Which prompt tokens packed completions may attend to; padding attends to none.

  Args:
    segment_ids: i32[R, T]; 0 on padding.
    positions: i32[R, T], continued from those of the prompt.
    prompt_mask: bool[R, S], of each row's prompt.
    window: as in `attention_mask`.

  Returns:
    bool[R, 1, T, S].
  """
  chex.assert_rank([segment_ids, prompt_mask], [2, 2])
  allowed = (segment_ids > 0)[:, :, None] & prompt_mask[:, None, :]
  if window is not None:
    distance = positions[:, :, None] - positions_from_mask(prompt_mask)[:, None, :]
    allowed &= distance < window
  return allowed[:, None]
