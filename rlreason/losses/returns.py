"""Returns and advantages over completion tokens."""

import chex
import jax
import jax.numpy as jnp

from rlreason import masks


def gae(
    rewards: jax.Array, values: jax.Array, mask: jax.Array, *, discount: float, gae_lambda: float
) -> tuple[jax.Array, jax.Array]:
  """Generalized advantage estimation over completion tokens.

  Â_t = δ_t + γλ Â_{t+1},  δ_t = r_t + γ V_{t+1} - V_t.  Eqs. (11)-(12), Schulman et al. 2017,
  https://arxiv.org/abs/1707.06347. The value after the last token is 0.
  Differs from the paper: tokens where `mask` is False are skipped, not treated as terminal.

  For r = [0, 0, 1], V = [.2, .4, .6], γ = 1, λ = .95: Â = [.751, .58, .4].

  Args:
    rewards: f32[B, T] reward for emitting token t; not read where `mask` is False.
    values: f32[B, T] V(s_t) before token t.
    mask: bool[B, T] True on completion tokens.
    discount: per-token γ in [0, 1].
    gae_lambda: λ in [0, 1]; 1 is Monte Carlo.

  Returns:
    advantages, returns: f32[B, T] each, gradients stopped, not whitened, 0 where masked.
  """
  chex.assert_rank([rewards, values, mask], 2)
  chex.assert_equal_shape([rewards, values, mask])
  rewards, values = masks.zero_masked(rewards, mask), masks.zero_masked(values, mask)

  def backwards(carry, step):
    next_advantage, next_value = carry
    reward, value, kept = step
    delta = reward + discount * next_value - value
    advantage = delta + discount * gae_lambda * next_advantage
    carry = (jnp.where(kept, advantage, next_advantage), jnp.where(kept, value, next_value))
    return carry, jnp.where(kept, advantage, 0.0)

  start = (jnp.zeros_like(rewards[:, 0]), jnp.zeros_like(rewards[:, 0]))
  _, advantages = jax.lax.scan(
      backwards, start, (rewards.T, values.T, mask.T), reverse=True)
  advantages = advantages.T
  return jax.lax.stop_gradient((advantages, masks.zero_masked(advantages + values, mask)))


def terminal_rewards(scores: jax.Array, mask: jax.Array) -> jax.Array:
  """Pays each row's score on its last True token.

  Args:
    scores: f32[B].
    mask: bool[B, T] completion tokens.

  Returns:
    f32[B, T]; all 0 in a row without tokens.
  """
  chex.assert_rank([scores, mask], [1, 2])
  columns = jnp.arange(mask.shape[1])[None]
  last = jnp.max(jnp.where(mask, columns, -1), axis=1, keepdims=True)
  return jnp.where(columns == last, scores[:, None], 0.0)
