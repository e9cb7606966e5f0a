"""Weights that correct for the difference between the sampler's and the trainer's policy.

A sampler with another precision, or other kernels, assigns a token another probability than the
trainer does, so its data are off-policy from the first step. A policy loss is multiplied by the
weights here. Source: Yao et al. 2025, https://fengyao.notion.site/off-policy-rl.
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
  removes the token from the loss, but not from the number of tokens that an aggregation divides by.

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


def sequence_mask(
    old_log_probs: jax.Array, sampler_log_probs: jax.Array, mask: jax.Array, *,
    mean: Literal["geometric", "product"] = "geometric", low: float = 0.999, high: float = 1.001,
    importance: Literal["none", "token", "sequence"] = "none", cap: float | None = None,
) -> jax.Array:
  """1 for the tokens of rows on which sampler and trainer agree, 0 for all others.

  A row is kept while the geometric mean of its ratios π_old / π_sampler, or their product, is in
  [low, high]: Liu et al. 2025, https://yingru.notion.site (When Speed Kills Stability). The bounds
  are those of verl's geometric mean; `presets.SAMPLER_MASKS` has those of other implementations. A
  mismatch of 0.02 nats in each token is a geometric mean of 1.0202 at any length, and a product of
  1.221 for 10 tokens and 7.389 for 100: a product drops long rows.

  Args:
    old_log_probs: f32[B, T] by the trainer, at the start of the update, nats.
    sampler_log_probs: f32[B, T] by the sampler, nats.
    mask: bool[B, T] True on completion tokens.
    mean: of the ratios of a row.
    low: the smallest that is kept, 0 or more.
    high: the largest that is kept, at least `low`.
    importance: also weights kept tokens by their ratio, or by the product of their row.
    cap: the largest such weight, above 0; None for no bound.

  Returns:
    f32[B, T], gradients stopped, 0 where masked. A weight of 0 removes a token from the loss, but,
    unlike in verl, not from the number of tokens that an aggregation divides by.

  Raises:
    ValueError: the bounds are in the wrong order, a choice is unknown, or a cap has nothing to cap.
  """
  if low > high:
    raise ValueError(f"low: got {low}, allowed: at most high={high}")
  if mean not in ("geometric", "product"):
    raise ValueError(f"mean: got {mean!r}, allowed: geometric, product")
  if importance not in ("none", "token", "sequence"):
    raise ValueError(f"importance: got {importance!r}, allowed: none, token, sequence")
  if cap is not None and importance == "none":
    raise ValueError(f"cap: got {cap} with importance='none', allowed: None")
  log_ratios = masks.zero_masked(old_log_probs - sampler_log_probs, mask)
  reduced = masks.masked_mean if mean == "geometric" else masks.masked_sum
  of_rows = finite_ratio(reduced(log_ratios, mask, axis=1))[:, None]
  weights = jnp.ones(mask.shape, jnp.float32)
  if importance != "none":
    weights = _importance(old_log_probs, sampler_log_probs, mask, importance)
    weights = weights if cap is None else jnp.minimum(weights, cap)
  return jax.lax.stop_gradient(
      masks.zero_masked(weights, mask & (low <= of_rows) & (of_rows <= high)))


def off_policy_mask(
    log_probs: jax.Array, sampler_log_probs: jax.Array, advantages: jax.Array, mask: jax.Array, *,
    threshold: float = 0.5,
) -> jax.Array:
  """0 for rows of negative advantage that have become too unlikely, 1 for all others.

  A row with A < 0 and mean_t(log π_sampler - log π) > δ is masked: DeepSeek-V3.2,
  https://arxiv.org/abs/2512.02556. π is the current policy, so that drift within the updates of one
  rollout is masked too. Rows with A >= 0 are always kept, and so are those that became likelier.
  Released implementations: δ = 0.5 (examples of TRL, ms-swift), 1e-4 (slime).

  Args:
    log_probs: f32[B, T] of the policy, nats.
    sampler_log_probs: f32[B, T] by the sampler, nats.
    advantages: f32[B, T].
    mask: bool[B, T] True on completion tokens.
    threshold: δ, nats per token.

  Returns:
    f32[B, T], gradients stopped, 0 where masked. The number of tokens that an aggregation divides
    by does not change.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([log_probs, sampler_log_probs, advantages, mask])
  drift = masks.masked_mean(sampler_log_probs - log_probs, mask, axis=1)[:, None]
  is_left = (advantages < 0) & (drift > threshold)
  return jax.lax.stop_gradient((mask & ~is_left).astype(jnp.float32))


def _importance(old_log_probs, sampler_log_probs, mask, level):
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([old_log_probs, sampler_log_probs, mask])
  log_ratios = masks.zero_masked(old_log_probs - sampler_log_probs, mask)
  if level == "sequence":
    log_ratios = jnp.broadcast_to(jnp.sum(log_ratios, axis=1, keepdims=True), mask.shape)
  elif level != "token":
    raise ValueError(f"level: got {level!r}, allowed: token, sequence")
  return jax.lax.stop_gradient(finite_ratio(log_ratios))
