"""Clip-Cov and KL-Cov: restrain the few tokens that lower the entropy most.

The entropy falls with the covariance of log-probabilities and advantages, and a small share of the
tokens accounts for most of it. Source: Cui et al. 2025, https://arxiv.org/abs/2505.22617.

A token's covariance is (log π_old - mean) (A - mean) over the kept tokens of a minibatch. Tokens
are selected once for the minibatch, so that its split into micro-batches has no effect. Differs
from the released code, which uses the current log-probs and selects within each micro-batch.
"""

import chex
import jax
import jax.numpy as jnp

from rlreason import masks
from rlreason.losses.policy import clipped_surrogate, finite_ratio

_ROUNDING = 1e-5  # nats, of log-probs in f32


def select_clip_cov(
    old_log_probs: jax.Array, advantages: jax.Array, mask: jax.Array, key: jax.Array, *,
    fraction: float = 2e-4, low: float = 1.0, high: float = 5.0,
) -> jax.Array:
  """Tokens for `clip_cov`, drawn from those whose covariance is in [low, high].

  Args:
    old_log_probs: f32[B, T] of the policy at the start of the update, nats.
    advantages: f32[B, T].
    mask: bool[B, T] True on completion tokens; rows of a whole minibatch.
    key: consumed. The draw of a token depends on its index among the kept ones, not on padding.
    fraction: share of the kept tokens to draw, in [0, 1]; rounded, at least 1 if there is any.
    low: the smallest covariance, nats times advantage.
    high: the largest covariance.

  Returns:
    bool[B, T].
  """
  covariances = _covariances(old_log_probs, advantages, mask)
  indices = jnp.maximum(jnp.cumsum(mask.reshape(-1).astype(jnp.int32)) - 1, 0)
  draws = jax.vmap(lambda index: jax.random.uniform(jax.random.fold_in(key, index)))(indices)
  is_candidate = mask & (low <= covariances) & (covariances <= high)
  return _select_top(draws.reshape(mask.shape), is_candidate, fraction, mask)


def select_kl_cov(
    old_log_probs: jax.Array, advantages: jax.Array, mask: jax.Array, *, fraction: float = 2e-3
) -> jax.Array:
  """Tokens for `kl_cov`: those of the largest covariance.

  Args:
    old_log_probs: f32[B, T] of the policy at the start of the update, nats.
    advantages: f32[B, T].
    mask: bool[B, T] True on completion tokens; rows of a whole minibatch.
    fraction: share of the kept tokens to select, in [0, 1]; rounded, at least 1 if there is any.
      The paper uses 2e-3 for 7B parameters and 2e-4 for 32B.

  Returns:
    bool[B, T].
  """
  return _select_top(_covariances(old_log_probs, advantages, mask), mask, fraction, mask)


def _covariances(old_log_probs, advantages, mask):
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([old_log_probs, advantages, mask])
  centred = [masks.zero_masked(x, mask) - masks.masked_mean(x, mask)
             for x in (old_log_probs, advantages)]
  return centred[0] * centred[1]


def _select_top(scores, is_candidate, fraction, mask):
  """The candidates with the largest scores, `fraction` of the mask's tokens; bool[B, T]."""
  count = jnp.maximum(jnp.round(fraction * jnp.sum(mask.astype(jnp.float32))), 1.0)
  scores = jnp.where(is_candidate, scores, -jnp.inf).reshape(-1)
  order = jnp.argsort(scores, descending=True)
  ranks = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
  return is_candidate & (ranks.reshape(mask.shape) < count)


def clip_cov(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array,
    is_selected: jax.Array, *, clip_low: float, clip_high: float,
) -> jax.Array:
  """`clipped_surrogate`, and 0 without any gradient on selected tokens.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here.
    old_log_probs: f32[B, T] of the policy at the start of the update, nats.
    advantages: f32[B, T].
    is_selected: bool[B, T], from `select_clip_cov`.
    clip_low: ε_low in [0, 1].
    clip_high: ε_high, 0 or more. The released runs use 1 for both.

  Returns:
    f32[B, T].
  """
  chex.assert_equal_shape([log_probs, is_selected])
  loss = clipped_surrogate(
      log_probs, old_log_probs, advantages, clip_low=clip_low, clip_high=clip_high)
  return jnp.where(is_selected, 0.0, loss)


def kl_cov(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array,
    is_selected: jax.Array, *, kl_coef: float = 1.0,
) -> jax.Array:
  """-A ρ, plus kl_coef |log π - log π_old| on selected tokens; nothing is clipped.

  A difference of 1e-5 nats or less counts as 0.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here.
    old_log_probs: f32[B, T] of the policy at the start of the update, nats.
    advantages: f32[B, T].
    is_selected: bool[B, T], from `select_kl_cov`.
    kl_coef: per nat, 0 or more.

  Returns:
    f32[B, T].
  """
  chex.assert_equal_shape([log_probs, old_log_probs, advantages, is_selected])
  log_ratios = log_probs - old_log_probs
  # The slope of |x| is 1 however small x is: rounding alone would push on-policy tokens, whose
  # log-probs come from two programs.
  distances = jnp.where(jnp.abs(log_ratios) > _ROUNDING, jnp.abs(log_ratios), 0.0)
  penalty = jnp.where(is_selected, kl_coef * distances, 0.0)
  return -advantages * finite_ratio(log_ratios) + penalty
