"""Per-token policy losses. Aggregation over tokens is in `masks.token_weights`.

These losses clip ratios, or nothing; losses with other trust regions are in `trust.py`.

Arrays are positional, options keyword-only. A function without a `mask` treats each token
independently: the caller makes masked log-probs finite first. One with a `mask` reads whole rows,
but no masked entries.
"""

import chex
import jax
import jax.numpy as jnp

from rlreason import masks

# exp of more than this overflows f32, and the gradient of a clipped infinity is 0 * inf.
MAX_LOG_RATIO = 80.0


def finite_ratio(log_ratio: jax.Array, max_log_ratio: float = MAX_LOG_RATIO) -> jax.Array:
  """exp of f32[...], but constant, and therefore finite, above 80 nats or `max_log_ratio`."""
  return jnp.exp(jnp.minimum(log_ratio, max_log_ratio))


def reinforce(log_probs: jax.Array, advantages: jax.Array) -> jax.Array:
  """-A log π, whose gradient is the policy gradient (Williams 1992) while the data are on-policy.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here.
    advantages: f32[B, T].

  Returns:
    f32[B, T].
  """
  chex.assert_equal_shape([log_probs, advantages])
  return -advantages * log_probs


def clipped_surrogate(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, *,
    clip_low: float = 0.2, clip_high: float = 0.2, dual_clip: float | None = None,
    max_log_ratio: float = MAX_LOG_RATIO,
) -> jax.Array:
  """PPO's pessimistic surrogate, as a loss.

  max(-A ρ, -A clip(ρ, 1 - ε_low, 1 + ε_high)),  ρ = π / π_old.  Eq. (7), Schulman et al. 2017,
  https://arxiv.org/abs/1707.06347; separate bounds as in DAPO, https://arxiv.org/abs/2503.14476.
  With a dual clip c, the loss of a token with A < 0 is at most -c A, and beyond that it has no
  gradient: Ye et al. 2020, https://arxiv.org/abs/1912.09729, where c is 3.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here.
    old_log_probs: f32[B, T] of the policy at the start of the update, at the same temperature,
      nats.
    advantages: f32[B, T].
    clip_low: ε_low in [0, 1].
    clip_high: ε_high, 0 or more.
    dual_clip: c, above 1; None: no such bound.
    max_log_ratio: nats, above which log ρ is held, without a gradient; OpenRLHF uses 20.

  Returns:
    f32[B, T].

  Raises:
    ValueError: the dual clip is not above 1, or the bound of log ρ not in (0, 80].
  """
  chex.assert_equal_shape([log_probs, old_log_probs, advantages])
  if dual_clip is not None and dual_clip <= 1:
    raise ValueError(f"dual_clip: got {dual_clip}, allowed: above 1, or None")
  if not 0 < max_log_ratio <= MAX_LOG_RATIO:
    raise ValueError(
        f"max_log_ratio: got {max_log_ratio}, allowed: above 0, at most {MAX_LOG_RATIO:g}")
  ratios = finite_ratio(log_probs - old_log_probs, max_log_ratio)
  loss = _pessimistic(ratios, advantages, clip_low, clip_high)
  if dual_clip is not None:
    loss = jnp.where(advantages < 0, jnp.minimum(loss, -advantages * dual_clip), loss)
  return loss


def _pessimistic(ratios, advantages, clip_low, clip_high):
  clipped = jnp.clip(ratios, 1.0 - clip_low, 1.0 + clip_high)
  return jnp.maximum(-advantages * ratios, -advantages * clipped)


def gspo(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, mask: jax.Array, *,
    clip_low: float = 3e-4, clip_high: float = 4e-4,
) -> jax.Array:
  """Group sequence policy optimisation: one ratio and one clip for a whole row.

  max(-A s, -A clip(s, 1 - ε_low, 1 + ε_high)),  s = exp(mean_t log(π / π_old)), at every token of
  the row; eqs. (5)-(7), Zheng et al. 2025, https://arxiv.org/abs/2507.18071. With the weights of
  "sequence-mean" and one advantage per row the sum is the paper's objective. Where advantages
  differ within a row, use `gspo_token`.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here. A row is a whole sequence.
    old_log_probs: f32[B, T] of the policy at the start of the update, nats.
    advantages: f32[B, T].
    mask: bool[B, T] True on completion tokens.
    clip_low: ε_low in [0, 1].
    clip_high: ε_high, 0 or more.

  Returns:
    f32[B, T], 0 where masked.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([log_probs, old_log_probs, advantages, mask])
  log_ratios = masks.zero_masked(log_probs - old_log_probs, mask)
  ratios = finite_ratio(jnp.broadcast_to(_row_mean(log_ratios, mask), mask.shape))
  loss = _pessimistic(ratios, masks.zero_masked(advantages, mask), clip_low, clip_high)
  return masks.zero_masked(loss, mask)


def gspo_token(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, mask: jax.Array, *,
    clip_low: float = 3e-4, clip_high: float = 4e-4,
) -> jax.Array:
  """GSPO with an advantage for every token: the row's ratio, the token's gradient.

  As `gspo` with s_t = sg[s] π_t / sg[π_t] instead of s; eqs. (13)-(14), Zheng et al. 2025,
  https://arxiv.org/abs/2507.18071. With one advantage per row and the weights of "sequence-mean",
  value and gradient are those of `gspo`.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here. A row is a whole sequence.
    old_log_probs: f32[B, T] of the policy at the start of the update, nats.
    advantages: f32[B, T].
    mask: bool[B, T] True on completion tokens.
    clip_low: ε_low in [0, 1].
    clip_high: ε_high, 0 or more.

  Returns:
    f32[B, T], 0 where masked.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([log_probs, old_log_probs, advantages, mask])
  log_probs = masks.zero_masked(log_probs, mask)
  log_ratios = log_probs - masks.zero_masked(old_log_probs, mask)
  of_row = jax.lax.stop_gradient(_row_mean(log_ratios, mask))
  ratios = finite_ratio(of_row + (log_probs - jax.lax.stop_gradient(log_probs)))
  loss = _pessimistic(ratios, masks.zero_masked(advantages, mask), clip_low, clip_high)
  return masks.zero_masked(loss, mask)


def _row_mean(x, mask):
  return masks.masked_mean(x, mask, axis=1)[:, None]


def cispo(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, *,
    clip_low: float = 1.0, clip_high: float,
) -> jax.Array:
  """-sg[clip(ρ, 1 - ε_low, 1 + ε_high)] A log π: weights are clipped, no token loses its gradient.

  MiniMax-M1 2025, https://arxiv.org/abs/2506.13585, which has no lower bound, as the default here
  (a ratio is never below 0), and tunes ε_high alone.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here.
    old_log_probs: f32[B, T] of the policy at the start of the update, nats.
    advantages: f32[B, T].
    clip_low: ε_low in [0, 1].
    clip_high: ε_high, 0 or more.

  Returns:
    f32[B, T].
  """
  chex.assert_equal_shape([log_probs, old_log_probs, advantages])
  weights = jnp.clip(finite_ratio(log_probs - old_log_probs), 1.0 - clip_low, 1.0 + clip_high)
  return reinforce(log_probs, jax.lax.stop_gradient(weights) * advantages)


def decoupled_surrogate(
    log_probs: jax.Array, old_log_probs: jax.Array, sampler_log_probs: jax.Array,
    advantages: jax.Array, *, clip_low: float = 0.2, clip_high: float = 0.2,
    cap: float | None = None,
) -> jax.Array:
  """PPO on stale data: clipped around the proximal policy, weighted relative to the sampler.

  min(π_old / π_sampler, cap) * `clipped_surrogate`; Hilton et al. 2021,
  https://arxiv.org/abs/2110.00641, and AReaL, https://arxiv.org/abs/2505.24298. The released code
  of AReaL gives tokens above the cap the weight 0: `clipped_surrogate` with the correction
  `masked_importance` and `low=0`.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here.
    old_log_probs: f32[B, T] of the proximal policy, that at the start of the update, nats.
    sampler_log_probs: f32[B, T] of the policy that sampled, maybe some updates ago, nats.
    advantages: f32[B, T].
    clip_low: ε_low in [0, 1].
    clip_high: ε_high, 0 or more.
    cap: the largest weight, above 0; None for no bound.

  Returns:
    f32[B, T].
  """
  chex.assert_equal_shape([log_probs, old_log_probs, sampler_log_probs, advantages])
  weights = finite_ratio(old_log_probs - sampler_log_probs)
  if cap is not None:
    weights = jnp.minimum(weights, cap)
  return jax.lax.stop_gradient(weights) * clipped_surrogate(
      log_probs, old_log_probs, advantages, clip_low=clip_low, clip_high=clip_high)
