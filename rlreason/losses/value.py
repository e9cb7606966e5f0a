"""Per-token value losses and how well a critic explains its returns."""

import chex
import jax
import jax.numpy as jnp

from rlreason import masks


def clipped_value_loss(
    values: jax.Array, old_values: jax.Array, returns: jax.Array, *, clip: float | None,
    huber_delta: float | None = None,
) -> jax.Array:
  """½ max((V - R)², (clip(V, V_old ± ε) - R)²), the pessimistic form of PPO's released code.

  With δ, Huber's loss replaces ½ e² in both branches: ½ e² for errors up to δ, and
  δ (|e| - ½ δ) beyond, with slope δ.

  Args:
    values: f32[B, T]; the gradient flows here.
    old_values: f32[B, T] when the rollout was made.
    returns: f32[B, T] targets.
    clip: ε, 0 or more; None for no clipping.
    huber_delta: δ, above 0; None for squares everywhere.

  Returns:
    f32[B, T].

  Raises:
    ValueError: δ is not above 0.
  """
  chex.assert_equal_shape([values, old_values, returns])
  if huber_delta is not None and huber_delta <= 0:
    raise ValueError(f"huber_delta: got {huber_delta}, allowed: above 0, or None")
  loss = _half_square(values - returns, huber_delta)
  if clip is not None:
    near = old_values + jnp.clip(values - old_values, -clip, clip)
    loss = jnp.maximum(loss, _half_square(near - returns, huber_delta))
  return loss


def _half_square(error, huber_delta):
  if huber_delta is None:
    return 0.5 * jnp.square(error)
  size = jnp.abs(error)
  inner = jnp.minimum(size, huber_delta)
  return 0.5 * jnp.square(inner) + huber_delta * (size - inner)


def explained_variance(values: jax.Array, returns: jax.Array, mask: jax.Array) -> jax.Array:
  """1 - Var(R - V) / Var(R) over True tokens; 0 when the returns do not vary.

  Of f32[B, T], f32[B, T] and bool[B, T], an f32 scalar.
  """
  variance = masks.masked_variance(returns, mask)
  unexplained = masks.masked_variance(returns - values, mask)
  return jnp.where(variance > 0, 1.0 - masks.safe_divide(unexplained, variance), 0.0)
