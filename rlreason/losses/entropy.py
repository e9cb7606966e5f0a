"""Entropy: the controller of an entropy bonus, and learning from high-entropy tokens.

A bonus of fixed weight is too weak for one model and makes the entropy of another explode. The
adaptive entropy control of Skywork-OR1 keeps the entropy at a target, and pauses above it. Source:
He et al. 2025, https://arxiv.org/abs/2505.22312, with a target of 0.2 nats and steps of 0.005.

Few tokens decide between continuations, and learning from them suffices. Source: Wang et al. 2025,
https://arxiv.org/abs/2506.01939, on DAPO.
"""

import chex
import jax
import jax.numpy as jnp

from rlreason.losses.policy import clipped_surrogate


def adapt_entropy_coef(
    coef: jax.Array, entropy: jax.Array, *, target: float, step_size: float
) -> jax.Array:
  """The next coefficient: a step up if the entropy is below the target, else down, at least 0.

  With a target of 0.2 and steps of 0.005: 0.01 becomes 0.015 at 0.1 nats, and 0.005 at 0.3 nats.

  Args:
    coef: f32 scalar.
    entropy: f32 scalar, mean over tokens, nats.
    target: nats per token.
    step_size: 0 or more.

  Returns:
    f32 scalar; `coef` itself where the entropy is not finite, as in a step that is skipped.
  """
  step = jnp.where(entropy < target, step_size, -step_size)
  return jnp.where(jnp.isfinite(entropy), jnp.maximum(coef + step, 0.0), coef)


def active_entropy_coef(coef: jax.Array, entropy: jax.Array, *, target: float) -> jax.Array:
  """The weight of the bonus in this step: `coef`, and 0 where the entropy is above the target.

  Args:
    coef: f32 scalar, as `adapt_entropy_coef` keeps it.
    entropy: f32 scalar, mean over tokens, nats, before this step.
    target: nats per token.

  Returns:
    f32 scalar; 0 where the entropy is not finite.
  """
  return jnp.where(entropy <= target, coef, 0.0)


def select_high_entropy(
    old_entropies: jax.Array, mask: jax.Array, *, fraction: float = 0.2
) -> jax.Array:
  """Tokens for `selected_surrogate`: those drawn from distributions of high entropy.

  Selects the tokens whose entropy is at least the (1 - fraction) quantile of the kept tokens
  (interpolated): for 2, 0.1, 0.05, 1 and 0.3 nats and a fraction of 0.4 it is 0.58, and 2 and 1 are
  selected. The quantile is over a whole minibatch, for the policy before the update. Differs from
  TRL, which computes it in each micro-batch for the current policy; on-policy the two policies are
  the same.

  Args:
    old_entropies: f32[B, T] nats, of the distribution each token was drawn from.
    mask: bool[B, T] True on completion tokens; rows of a whole minibatch.
    fraction: in [0, 1]; the paper uses 0.2.

  Returns:
    bool[B, T].
  """
  chex.assert_equal_shape([old_entropies, mask])
  threshold = jnp.nanquantile(
      jnp.where(mask, old_entropies.astype(jnp.float32), jnp.nan), 1.0 - fraction)
  return mask & (old_entropies >= threshold)


def selected_surrogate(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array,
    is_selected: jax.Array, *, clip_low: float = 0.2, clip_high: float = 0.28,
) -> jax.Array:
  """`clipped_surrogate` on selected tokens, and 0 without any gradient on all others.

  The others count in the number of tokens that an aggregation divides by, so that selecting a fifth
  of the tokens makes the step about a fifth as long; a KL in the loss covers all tokens.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here.
    old_log_probs: f32[B, T] of the policy at the start of the update, nats.
    advantages: f32[B, T].
    is_selected: bool[B, T], from `select_high_entropy`.
    clip_low: ε_low in [0, 1].
    clip_high: ε_high, 0 or more; the defaults are DAPO's.

  Returns:
    f32[B, T].
  """
  chex.assert_equal_shape([log_probs, is_selected])
  loss = clipped_surrogate(
      log_probs, old_log_probs, advantages, clip_low=clip_low, clip_high=clip_high)
  return jnp.where(is_selected, loss, 0.0)
