"""Per-token estimates of KL(policy || reference) and the controller of its coefficient."""

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from rlreason.losses.policy import finite_ratio

KLEstimator = Literal["k1", "k2", "k3"]


# Nats. The exponential of a little more overflows f32.
MAX_CLAMP = 80.0


def kl_estimate(
    log_probs: jax.Array, ref_log_probs: jax.Array, estimator: KLEstimator, *,
    clamp_ratio: float | None = None, clamp: float | None = None,
) -> jax.Array:
  """Estimates of KL(π || π_ref) from samples of π (http://joschu.net/blog/kl-approx.html).

  With x = log π - log π_ref: k1 = x (unbiased, any sign), k2 = x² / 2, k3 = exp(-x) - 1 + x
  (unbiased, never negative). In a reward use k1. As a loss term use k2 or k3: the gradient of k1
  has expectation 0, and that of k3 is not the gradient of the KL.

  Released implementations clamp, which removes the gradient beyond the bounds: verl clamps x at 20
  and the result at 10, for k3 alone; OpenRLHF the result at 10; trl neither.

  Args:
    log_probs: f32[...] nats.
    ref_log_probs: f32[...] nats.
    estimator: k1, k2 or k3.
    clamp_ratio: clips x to +- this, above 0 and at most 80 nats; None: no clipping.
    clamp: clips the result to +- this, above 0 and at most 80 nats; None: no clipping.

  Returns:
    f32[...] nats.

  Raises:
    ValueError: the estimator is unknown, or a clamp is out of range.
  """
  chex.assert_equal_shape([log_probs, ref_log_probs])
  for name, bound in (("clamp_ratio", clamp_ratio), ("clamp", clamp)):
    if bound is not None and not 0 < bound <= MAX_CLAMP:
      raise ValueError(f"{name}: got {bound}, allowed: above 0, at most {MAX_CLAMP:g}, or None")
  x = log_probs - ref_log_probs
  if clamp_ratio is not None:
    x = jnp.clip(x, -clamp_ratio, clamp_ratio)
  if clamp is None:
    return _estimate(x, estimator)
  # Every estimate of +-(clamp + 1) is beyond the clamp already. Without the inner bound k3
  # overflows, and its gradient is 0 * inf.
  x = jnp.clip(x, -clamp - 1.0, clamp + 1.0)
  return jnp.clip(_estimate(x, estimator), -clamp, clamp)


def _estimate(x, estimator):
  if estimator == "k1":
    return x
  if estimator == "k2":
    return 0.5 * jnp.square(x)
  if estimator == "k3":
    return jnp.expm1(-x) + x
  raise ValueError(f"estimator: got {estimator!r}, allowed: k1, k2, k3")


def unbiased_kl(
    log_probs: jax.Array, old_log_probs: jax.Array, kl: jax.Array
) -> jax.Array:
  """π / π_old times a KL estimate, with the gradient of both: DeepSeek-V3.2.

  https://arxiv.org/abs/2512.02556. With k3 (or k1) it and its gradient have, over samples of π_old,
  the expectations of KL(π || π_ref) and its gradient, on-policy or not: the gradient of r k3 is r
  (log π - log π_ref) grad log π. The gradient of k3 alone is that of the other KL on-policy, and of
  neither off-policy. For log π = -1, log π_old = -1.2 and log π_ref = -1.5, k3 is 0.1065 and this
  0.1301 with a slope of 0.6107 (k3 alone: 0.3935).

  Args:
    log_probs: f32[...] of the policy, nats; the gradient flows here.
    old_log_probs: f32[...] of the policy that sampled, nats.
    kl: f32[...] `kl_estimate` of `log_probs`, nats.

  Returns:
    f32[...] nats.
  """
  chex.assert_equal_shape([log_probs, old_log_probs, kl])
  return finite_ratio(log_probs - old_log_probs) * kl


def adapt_kl_coef(
    kl_coef: jax.Array, kl: jax.Array, *, target: float, horizon: float, num_sequences: int
) -> jax.Array:
  """The proportional controller of Ziegler et al. 2019 (https://arxiv.org/abs/1909.08593), 2.2.

  coef <- coef * (1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon).
  KL = 12, target 6, n = 512, horizon 10000 multiplies the coefficient by 1.01024.

  Args:
    kl_coef: f32 scalar.
    kl: f32 scalar, mean over sequences of the KL summed over tokens, nats.
    target: nats per sequence.
    horizon: sequences.
    num_sequences: sequences seen in this step.

  Returns:
    f32 scalar; `kl_coef` itself where the KL is not finite, as in a skipped step.

  Raises:
    ValueError: the target is not above 0.
  """
  if target <= 0:
    raise ValueError(f"target: got {target}, allowed: above 0")
  error = jnp.clip(kl / target - 1.0, -0.2, 0.2)
  return jnp.where(jnp.isfinite(kl), kl_coef * (1.0 + error * num_sequences / horizon), kl_coef)
