"""Policy losses whose trust region is not a clip of the token's ratio.

A smooth gate (SAPO), a clip of log-ratios under a geometric mean (GMPO), a bound on probabilities
instead of ratios (DPPO), a smooth weight of whole sequences (VESPO). While the data are on-policy
each has the gradient of `policy.reinforce`; they differ only in how they treat off-policy data.
Conventions as in `policy.py`; losses with hard clips of ratios are there.
"""

import chex
import jax
import jax.numpy as jnp

from rlreason import masks
from rlreason.losses.policy import finite_ratio, reinforce

_MOST = 20.0  # nats: released implementations clip a log-ratio, and the log of a weight, at this


def sapo(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, *,
    tau_positive: float = 1.0, tau_negative: float = 1.05,
) -> jax.Array:
  """Soft adaptive policy optimisation: a sigmoid of the ratio instead of its clip.

  -A (4 / τ) sigmoid(τ (ρ - 1)), τ one for A > 0 and another, larger, for the rest: Gao et al. 2025,
  https://arxiv.org/abs/2511.20347. The gradient is that of -A ρ times 4 σ (1 - σ), which is 1 at ρ
  = 1 and decreases on both sides, so that every token keeps a gradient. The value on-policy is -2 A
  / τ, not -A: its values are not comparable with those of other losses.

  For τ = 1 and ρ = 0.5, 1, 1.5, 2 the weight of a token's gradient is 0.470, 1, 1.410 and 1.573.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here.
    old_log_probs: f32[B, T] of the policy at the start of the update, nats.
    advantages: f32[B, T].
    tau_positive: τ where A > 0, above 0.
    tau_negative: τ elsewhere, above 0.

  Returns:
    f32[B, T].

  Raises:
    ValueError: a τ is not above 0.
  """
  chex.assert_equal_shape([log_probs, old_log_probs, advantages])
  for name, tau in (("tau_positive", tau_positive), ("tau_negative", tau_negative)):
    if tau <= 0:
      raise ValueError(f"{name}: got {tau}, allowed: above 0")
  ratios = finite_ratio(log_probs - old_log_probs, _MOST)
  tau = jnp.where(advantages > 0, tau_positive, tau_negative)
  return -advantages * (4.0 / tau) * jax.nn.sigmoid(tau * (ratios - 1.0))


def gmpo(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, mask: jax.Array, *,
    clip_low: float = 0.4, clip_high: float = 0.4,
) -> jax.Array:
  """Geometric-mean policy optimisation: log-ratios are clipped token by token, then averaged.

  -A exp(mean_t c_t), c = s min(s x, s clip(x, -ε_low, ε_high)), x = log ρ, s = sign A, at every
  token of the row: Zhao et al. 2025, https://arxiv.org/abs/2507.20673, with bounds of e^±0.4. The
  bounds are on log ρ, so that ε = 0.4 allows ρ from 0.67 to 1.49. `gspo` clips the mean, this
  function each token before it. With the weights of "sequence-mean" and one advantage per row the
  sum is the paper's objective.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here. A row is a whole sequence.
    old_log_probs: f32[B, T] of the policy at the start of the update, nats.
    advantages: f32[B, T], one in a row.
    mask: bool[B, T] True on completion tokens.
    clip_low: ε_low, nats, 0 or more.
    clip_high: ε_high, nats, 0 or more.

  Returns:
    f32[B, T], 0 where masked.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([log_probs, old_log_probs, advantages, mask])
  advantages = masks.zero_masked(advantages, mask)
  x = masks.zero_masked(log_probs - old_log_probs, mask)
  clipped = jnp.clip(x, -clip_low, clip_high)
  bounded = jnp.where(advantages > 0, jnp.minimum(x, clipped), jnp.maximum(x, clipped))
  ratios = finite_ratio(masks.masked_mean(bounded, mask, axis=1)[:, None])
  return -advantages * ratios


def dppo_tv(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, *,
    bound_low: float = 0.2, bound_high: float = 0.2, cap: float | None = None,
) -> jax.Array:
  """DPPO with the total variation of "this token or another": probabilities are bounded.

  -m sg(min(ρ, cap)) A log π, m = 0 where A > 0 and p - p_old > bound_high, or A < 0 and
  p_old - p > bound_low, else 1: https://arxiv.org/abs/2602.04879. A ratio clip restrains a rare
  token (0.01 to 0.05 is a ratio of 5) and lets a frequent one move far (0.5 to 0.59 is one of
  1.18); this bound does neither.

  Released implementations compare with the sampler (SkyRL, prime-rl) or with the trainer before the
  update (verl): here that is `recompute_log_probs` False or True. When comparing with the sampler,
  a correction for it would count the mismatch twice.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here.
    old_log_probs: f32[B, T] of the policy it is compared with, nats.
    advantages: f32[B, T].
    bound_low: how much a token's probability may fall, in [0, 1].
    bound_high: how much it may rise, in [0, 1].
    cap: the largest ratio, above 0; None: e^20.

  Returns:
    f32[B, T].

  Raises:
    ValueError: the cap is not above 0.
  """
  chex.assert_equal_shape([log_probs, old_log_probs, advantages])
  rise = jax.lax.stop_gradient(jnp.exp(log_probs) - jnp.exp(old_log_probs))
  is_far = jnp.where(advantages > 0, rise > bound_high, -rise > bound_low)
  return _where_near(log_probs, old_log_probs, advantages, is_far, cap)


def dppo_kl(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, *,
    bound: float = 0.05, cap: float | None = None,
) -> jax.Array:
  """DPPO with the KL of "this token or another" instead of `dppo_tv`'s total variation.

  m = 0 where p_old log(p_old / p) + (1 - p_old) log((1 - p_old) / (1 - p)) > bound, and the token
  has moved in the direction of its advantage. From p_old to p, 0.01 to 0.05 is 0.0247 nats, 0.5 to
  0.65 0.0472, 0.5 to 0.75 0.1438.

  Args:
    log_probs, old_log_probs, advantages, cap: as for `dppo_tv`.
    bound: nats, 0 or more.

  Returns:
    f32[B, T].

  Raises:
    ValueError: the cap is not above 0.
  """
  chex.assert_equal_shape([log_probs, old_log_probs, advantages])
  # Rounding may raise a log-prob above 0, and make the probability of the others negative.
  p, p_old = (jax.lax.stop_gradient(jnp.exp(jnp.minimum(x, 0.0)))
              for x in (log_probs, old_log_probs))
  tiny = 1e-8  # as in released implementations: for a token of probability 1
  kl = p_old * jnp.log((p_old + tiny) / (p + tiny)) + (1.0 - p_old) * jnp.log(
      (1.0 - p_old + tiny) / (1.0 - p + tiny))
  is_pushed = jnp.where(advantages > 0, p > p_old, p < p_old)
  return _where_near(log_probs, old_log_probs, advantages, (kl > bound) & is_pushed, cap)


def _where_near(log_probs, old_log_probs, advantages, is_far, cap):
  if cap is not None and cap <= 0:
    raise ValueError(f"cap: got {cap}, allowed: above 0, or None")
  ratios = finite_ratio(log_probs - old_log_probs, _MOST)
  weights = jnp.where(is_far, 0.0, ratios if cap is None else jnp.minimum(ratios, cap))
  return reinforce(log_probs, jax.lax.stop_gradient(weights) * advantages)


def vespo(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, mask: jax.Array, *,
    power_positive: float = 2.0, rate_positive: float = 3.0, power_negative: float = 3.0,
    rate_negative: float = 2.0,
) -> jax.Array:
  """VESPO: the importance weight of a whole sequence, shaped to vanish for large and small ratios.

  -sg(φ(w)) A log π, φ(w) = w^k e^{λ (1 - w)}, w the product of a row's ratios:
  https://arxiv.org/abs/2602.10693, with (k, λ) = (2, 3) for A >= 0 and (3, 2) for A < 0. φ(1) = 1,
  but its maximum is at w = k / λ: 1.208 at 2/3 for A > 0, 1.242 at 3/2 for A < 0. As w is a
  product, small drifts of many tokens give a long row a weight near 0. A correction for the sampler
  multiplies this loss; TRL includes a token-level one in w.

  Args:
    log_probs: f32[B, T] of the policy, nats; the gradient flows here. A row is a whole sequence.
    old_log_probs: f32[B, T] of the policy at the start of the update, nats.
    advantages: f32[B, T].
    mask: bool[B, T] True on completion tokens.
    power_positive: k where A >= 0, 0 or more.
    rate_positive: λ where A >= 0, 0 or more.
    power_negative: k where A < 0, 0 or more.
    rate_negative: λ where A < 0, 0 or more.

  Returns:
    f32[B, T], 0 where masked.
  """
  chex.assert_rank(mask, 2)
  chex.assert_equal_shape([log_probs, old_log_probs, advantages, mask])
  log_ratios = masks.zero_masked(log_probs - old_log_probs, mask)
  log_weight = jnp.sum(jnp.clip(log_ratios, -_MOST, _MOST), axis=1, keepdims=True)
  log_weight = jnp.clip(log_weight, jnp.log(1e-8), _MOST)
  power, rate = (jnp.where(advantages >= 0, *pair) for pair in (
      (power_positive, power_negative), (rate_positive, rate_negative)))
  shaped = jnp.exp(power * log_weight + rate * (1.0 - jnp.exp(log_weight)))
  loss = reinforce(log_probs, jax.lax.stop_gradient(shaped) * advantages)
  return masks.zero_masked(loss, mask)
