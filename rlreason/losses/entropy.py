"""The controller of an entropy bonus: adaptive entropy control of Skywork-OR1.

A bonus of fixed weight is too weak for one model and lets the entropy of another explode. This one
steers the entropy to a target, and pauses above it. Source: He et al. 2025,
https://arxiv.org/abs/2505.22312, with a target of 0.2 nats and steps of 0.005.
"""

import jax
import jax.numpy as jnp


def adapt_entropy_coef(
    coef: jax.Array, entropy: jax.Array, *, target: float, step_size: float
) -> jax.Array:
  """The next coefficient: a step up where the entropy is below the target, else down to 0 at least.

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
