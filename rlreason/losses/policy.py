"""Per-token policy losses. Aggregation over tokens is in `masks.token_weights`."""

import chex
import jax
import jax.numpy as jnp


def clipped_surrogate(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, *,
    clip_low: float, clip_high: float,
) -> jax.Array:
  """PPO's pessimistic surrogate, as a loss.

  max(-A ρ, -A clip(ρ, 1 - ε_low, 1 + ε_high)),  ρ = π / π_old.  Eq. (7), Schulman et al. 2017,
  https://arxiv.org/abs/1707.06347; separate bounds as in DAPO, https://arxiv.org/abs/2503.14476.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here.
    old_log_probs: f32[B, T] of the policy that sampled, at the same temperature, nats.
    advantages: f32[B, T].
    clip_low: ε_low in [0, 1].
    clip_high: ε_high, 0 or more.

  Returns:
    f32[B, T].
  """
  chex.assert_equal_shape([log_probs, old_log_probs, advantages])
  ratio = jnp.exp(log_probs - old_log_probs)
  clipped = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
  return jnp.maximum(-advantages * ratio, -advantages * clipped)


def clip_flags(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, *,
    clip_low: float, clip_high: float,
) -> tuple[jax.Array, jax.Array]:
  """Which tokens lose their gradient to the lower and to the upper bound: bool[B, T] each."""
  ratio = jnp.exp(log_probs - old_log_probs)
  return ((ratio < 1.0 - clip_low) & (advantages < 0),
          (ratio > 1.0 + clip_high) & (advantages > 0))
