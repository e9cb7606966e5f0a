"""Weights for tokens that another policy sampled than the trainer believes.

A sampler in another precision, or with other kernels, gives a token another probability than the
trainer does; its data are off-policy at the first step already. The weights here are multiplied
into a policy loss. Source: Yao et al. 2025, https://fengyao.notion.site/off-policy-rl.
"""

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from rlreason import masks
from rlreason.losses.policy import finite_ratio

Level = Literal["token", "sequence"]


def truncated_importance(
    old_log_probs: jax.Array, sampler_log_probs: jax.Array, mask: jax.Array, *,
    cap: float = 2.0, level: Level = "token",
) -> jax.Array:
  """Truncated importance sampling (TIS): min(π_old / π_sampler, cap).

  Args:
    old_log_probs: f32[B, T] by the trainer, at the start of the update, nats.
    sampler_log_probs: f32[B, T] by the sampler, nats.
    mask: bool[B, T] True on completion tokens.
    cap: the largest weight, above 0.
    level: "sequence" gives every token the product of the ratios of its row.

  Returns:
    f32[B, T], gradients stopped, 0 where masked.

  Raises:
    ValueError: the level is unknown.
  """
  weights = _importance(old_log_probs, sampler_log_probs, mask, level)
  return masks.zero_masked(jnp.minimum(weights, cap), mask)


def masked_importance(
    old_log_probs: jax.Array, sampler_log_probs: jax.Array, mask: jax.Array, *,
    low: float = 0.5, high: float = 5.0, level: Level = "token",
) -> jax.Array:
  """Masked importance sampling (MIS): π_old / π_sampler, and 0 outside [low, high].

  The defaults are those of IcePop, Ring-1T 2025, https://arxiv.org/abs/2510.18855. A weight of 0
  takes the token out of the loss, not out of the number of tokens that an aggregation divides by.

  Args:
    old_log_probs: f32[B, T] by the trainer, at the start of the update, nats.
    sampler_log_probs: f32[B, T] by the sampler, nats.
    mask: bool[B, T] True on completion tokens.
    low: the smallest ratio that is kept, 0 or more.
    high: the largest ratio that is kept, at least `low`.
    level: "sequence" gives every token the product of the ratios of its row.

  Returns:
    f32[B, T], gradients stopped, 0 where masked.

  Raises:
    ValueError: the bounds are in the wrong order, or the level is unknown.
  """
  if low > high:
    raise ValueError(f"low: got {low}, allowed: at most high={high}")
  weights = _importance(old_log_probs, sampler_log_probs, mask, level)
  return masks.zero_masked(weights, mask & (low <= weights) & (weights <= high))


def _importance(old_log_probs, sampler_log_probs, mask, level):
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([old_log_probs, sampler_log_probs, mask])
  log_ratios = masks.zero_masked(old_log_probs - sampler_log_probs, mask)
  if level == "sequence":
    log_ratios = jnp.broadcast_to(jnp.sum(log_ratios, axis=1, keepdims=True), mask.shape)
  elif level != "token":
    raise ValueError(f"level: got {level!r}, allowed: token, sequence")
  return jax.lax.stop_gradient(finite_ratio(log_ratios))
