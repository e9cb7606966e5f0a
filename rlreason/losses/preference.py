"""Losses of preference tuning, from the log-probabilities of whole completions.

Arrays are `chosen` and `rejected`, log-probs of the two completions of a pair under the policy, and
`ref_chosen` and `ref_rejected`, those under the reference, f32[B] each, in nats: summed over the
tokens of a completion, or averaged where a docstring states it. The gradient flows into the former
two. Each loss is f32[B], one per pair; the mean over pairs is taken later.
"""

import chex
import jax
import jax.numpy as jnp

from rlreason import masks
from rlreason.losses.logprobs import log1mexp


def dpo(
    chosen: jax.Array, rejected: jax.Array, ref_chosen: jax.Array, ref_rejected: jax.Array, *,
    beta: float, label_smoothing: float = 0.0,
) -> jax.Array:
  """Direct preference optimisation: the Bradley-Terry loss of the rewards β log(π / π_ref).

  -(1 - ε) log σ(βΔ) - ε log σ(-βΔ),  Δ = log(π_w / ref_w) - log(π_l / ref_l).  Eq. (7), Rafailov et
  al. 2023, https://arxiv.org/abs/2305.18290; ε as in their released code.

  At Δ = 0 it is log 2, and its gradient -β/2 (1 - 2ε) on `chosen`.

  Args:
    chosen, rejected, ref_chosen, ref_rejected: f32[B] sums over tokens.
    beta: β above 0, per nat; a larger one moves the optimum nearer to the reference.
    label_smoothing: ε in [0, 0.5), share of pairs assumed to have swapped labels.

  Returns:
    f32[B].
  """
  chex.assert_equal_shape([chosen, rejected, ref_chosen, ref_rejected])
  logits = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
  return -((1.0 - label_smoothing) * jax.nn.log_sigmoid(logits)
           + label_smoothing * jax.nn.log_sigmoid(-logits))


def ipo(
    chosen: jax.Array, rejected: jax.Array, ref_chosen: jax.Array, ref_rejected: jax.Array, *,
    beta: float,
) -> jax.Array:
  """Identity preference optimisation: a margin of 1 / 2β and no more.

  (Δ - 1 / 2β)²,  Δ as in `dpo`.  Eq. (17), Azar et al. 2023, https://arxiv.org/abs/2310.12036 (τ
  there).  Differs from the paper: meant for means over tokens, as in released implementations; a
  margin of sums grows with the length, the target does not.

  Args:
    chosen, rejected, ref_chosen, ref_rejected: f32[B] means over tokens.
    beta: above 0, per nat.

  Returns:
    f32[B].
  """
  chex.assert_equal_shape([chosen, rejected, ref_chosen, ref_rejected])
  margin = (chosen - ref_chosen) - (rejected - ref_rejected)
  return jnp.square(margin - 1.0 / (2.0 * beta))


def kto(
    log_probs: jax.Array, ref_log_probs: jax.Array, is_desirable: jax.Array, kl: jax.Array, *,
    beta: float, desirable_weight: float = 1.0, undesirable_weight: float = 1.0,
) -> jax.Array:
  """Kahneman-Tversky optimisation: completions without a partner, each desirable or not.

  λ_D σ(-β(r - z)) where desirable, else λ_U σ(-β(z - r)),  r = log(π / π_ref).  Section 4,
  Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306.

  Args:
    log_probs: f32[B] sums over tokens; the gradient flows here.
    ref_log_probs: f32[B] under the reference.
    is_desirable: bool[B].
    kl: f32[B] the baseline z of the batch, see `kto_baseline`; gradients stopped.
    beta: β above 0, per nat.
    desirable_weight: λ_D. The paper recommends λ_D n_D / (λ_U n_U) in [1, 4/3].
    undesirable_weight: λ_U.

  Returns:
    f32[B].
  """
  chex.assert_equal_shape([log_probs, ref_log_probs, is_desirable, kl])
  sign = jnp.where(is_desirable, 1.0, -1.0)
  weight = jnp.where(is_desirable, desirable_weight, undesirable_weight)
  distance = sign * (log_probs - ref_log_probs - jax.lax.stop_gradient(kl))
  return weight * jax.nn.sigmoid(-beta * distance)


def kto_baseline(log_ratios: jax.Array, mask: jax.Array) -> jax.Array:
  """An estimate of KL(π || π_ref) from completions that belong to other prompts; f32 scalar.

  max(0, mean log(π / π_ref)), section 4.1 of https://arxiv.org/abs/2402.01306. It is biased, and
  needs no samples of the policy.

  Args:
    log_ratios: f32[B] of each prompt with a completion of another one.
    mask: bool[B] rows that have one.
  """
  return jax.lax.stop_gradient(jnp.maximum(masks.masked_mean(log_ratios, mask), 0.0))


def orpo(chosen: jax.Array, rejected: jax.Array, *, beta: float) -> jax.Array:
  """Odds-ratio preference optimisation: likelihood of the chosen, and its odds over the rejected.

  -log p_w - β log σ(log odds(p_w) - log odds(p_l)),  odds(p) = p / (1 - p).  Eqs. (6)-(7), Hong et
  al. 2024, https://arxiv.org/abs/2403.07691 (λ there); p is the geometric mean over tokens.

  Args:
    chosen, rejected: f32[B] means over tokens.
    beta: 0 or more.

  Returns:
    f32[B].
  """
  chex.assert_equal_shape([chosen, rejected])
  log_odds = (chosen - log1mexp(chosen)) - (rejected - log1mexp(rejected))
  return -chosen - beta * jax.nn.log_sigmoid(log_odds)


def simpo(chosen: jax.Array, rejected: jax.Array, *, beta: float, gamma: float) -> jax.Array:
  """Simple preference optimisation: no reference, lengths normalised, a margin to reach.

  -log σ(β (log p_w - log p_l) - γ).  Eq. (6), Meng et al. 2024, https://arxiv.org/abs/2405.14734.

  Args:
    chosen, rejected: f32[B] means over tokens.
    beta: β above 0, per nat; 2 to 2.5 in the paper.
    gamma: γ, 0 or more, on the scale of β times nats; 0.3 to 1.6 in the paper.

  Returns:
    f32[B].
  """
  chex.assert_equal_shape([chosen, rejected])
  return -jax.nn.log_sigmoid(beta * (chosen - rejected) - gamma)
