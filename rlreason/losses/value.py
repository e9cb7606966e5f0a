"""Per-token value losses and how well a critic explains its returns."""

import chex
import jax
import jax.numpy as jnp

from rlreason import masks


def clipped_value_loss(
    values: jax.Array, old_values: jax.Array, returns: jax.Array, *, clip: float | None
) -> jax.Array:
  """½ max((V - R)², (clip(V, V_old ± ε) - R)²), the pessimistic form of PPO's released code.

  Args:
    values: f32[B, T]; the gradient flows here.
    old_values: f32[B, T] when the rollout was made.
    returns: f32[B, T] targets.
    clip: ε, 0 or more; None for no clipping.

  Returns:
    f32[B, T].
  """
  chex.assert_equal_shape([values, old_values, returns])
  loss = jnp.square(values - returns)
  if clip is not None:
    near = old_values + jnp.clip(values - old_values, -clip, clip)
    loss = jnp.maximum(loss, jnp.square(near - returns))
  return 0.5 * loss


def explained_variance(values: jax.Array, returns: jax.Array, mask: jax.Array) -> jax.Array:
  """1 - Var(R - V) / Var(R) over True tokens; 0 when the returns do not vary."""
  variance = masks.masked_variance(returns, mask)
  unexplained = masks.masked_variance(returns - values, mask)
  return jnp.where(variance > 0, 1.0 - masks.safe_divide(unexplained, variance), 0.0)
