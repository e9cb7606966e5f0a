"""Returns and advantages over completion tokens."""

import chex
import jax
import jax.numpy as jnp

from rlreason import masks


def gae(
    rewards: jax.Array, values: jax.Array, mask: jax.Array, *, discount: float,
    gae_lambda: float | jax.Array, carry_gaps: bool = True, last_values: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Generalized advantage estimation over completion tokens.

  Â_t = δ_t + γλ Â_{t+1},  δ_t = r_t + γ V_{t+1} - V_t.  Eqs. (11)-(12), Schulman et al. 2017,
  https://arxiv.org/abs/1707.06347. For r = [0, 0, 1], V = [.2, .4, .6], γ = 1, λ = .95:
  Â = [.751, .58, .4].
  Differs from the paper: tokens where `mask` is False are skipped, not treated as terminal; see
  `carry_gaps`. For two λ (VAPO, https://arxiv.org/abs/2504.05118), call it twice and take the
  advantages of one call and the returns of the other.

  Args:
    rewards: f32[B, T] reward for emitting token t; not read where `mask` is False.
    values: f32[B, T] V(s_t) before token t.
    mask: bool[B, T] True on completion tokens.
    discount: per-token γ in [0, 1].
    gae_lambda: λ in [0, 1], for all rows or f32[B]; 1 is Monte Carlo.
    carry_gaps: True: t + 1 is the next True token, however far, as in verl's GAE. False: V and Â
      are 0 in a gap, which ends an episode, as in returns of verl's REINFORCE++ up to 0.8: a reward
      at the end of the row then reaches only the tokens after the last gap.
    last_values: f32[B] V after the last token of a truncated row; 0, or None, where the row ended
      by itself.

  Returns:
    advantages, returns: f32[B, T] each, gradients stopped, not whitened, 0 where masked.
  """
  chex.assert_rank([rewards, values, mask], 2)
  chex.assert_equal_shape([rewards, values, mask])
  rewards, values = masks.zero_masked(rewards, mask), masks.zero_masked(values, mask)
  # Not after the last token: padding must not hide the value that follows a row.
  ends = ~mask & _any_after(mask) & (not carry_gaps)

  def backwards(carry, step):
    next_advantage, next_value = carry
    reward, value, kept, end = step
    delta = reward + discount * next_value - value
    advantage = delta + discount * gae_lambda * next_advantage
    # In a gap, both values of the token after it are carried, or are 0.
    waiting = jnp.where(end, 0.0, next_advantage), jnp.where(end, 0.0, next_value)
    carry = jnp.where(kept, advantage, waiting[0]), jnp.where(kept, value, waiting[1])
    return carry, jnp.where(kept, advantage, 0.0)

  nothing = jnp.zeros_like(rewards[:, 0])
  start = (nothing, nothing if last_values is None else last_values.astype(rewards.dtype))
  _, advantages = jax.lax.scan(
      backwards, start, (rewards.T, values.T, mask.T, ends.T), reverse=True)
  advantages = advantages.T
  return jax.lax.stop_gradient((advantages, masks.zero_masked(advantages + values, mask)))


def _any_after(mask):
  """Whether a position or a later one of its row is True; bool[B, T]."""
  return jnp.flip(jnp.cumsum(jnp.flip(mask, axis=1), axis=1), axis=1) > 0


def length_adaptive_lambda(lengths: jax.Array, *, alpha: float) -> jax.Array:
  """λ = max(0, 1 - 1 / (α l)) for a row of l tokens.

  VAPO, https://arxiv.org/abs/2504.05118: the weights of the TD errors then add up to about α l. The
  clamp is not in the paper: without it λ is negative below 1 / α tokens, which is 20 for the
  paper's α = .05.

  Args:
    lengths: f32[B] tokens.
    alpha: α above 0, per token.

  Returns:
    f32[B] in [0, 1); 0 for a row without tokens.
  """
  return 1.0 - 1.0 / jnp.maximum(alpha * lengths.astype(jnp.float32), 1.0)


def returns_to_go(rewards: jax.Array, mask: jax.Array, *, discount: float) -> jax.Array:
  """Monte Carlo returns: R_t = r_t + γ R_{t+1}, over True tokens.

  Args:
    rewards: f32[B, T]; not read where `mask` is False.
    mask: bool[B, T] True on completion tokens; others are skipped.
    discount: per-token γ in [0, 1].

  Returns:
    f32[B, T], gradients stopped, 0 where masked.
  """
  return gae(rewards, jnp.zeros_like(rewards), mask, discount=discount, gae_lambda=1.0)[1]


def n_step_returns(
    rewards: jax.Array, values: jax.Array, mask: jax.Array, *, discount: float, num_steps: int
) -> tuple[jax.Array, jax.Array]:
  """Advantages and returns that look n tokens ahead.

  R_t = r_t + γ r_{t+1} + ... + γ^{n-1} r_{t+n-1} + γ^n V_{t+n},  Â_t = R_t - V_t, over True tokens
  (Mnih et al. 2016, https://arxiv.org/abs/1602.01783). The value after the last token is 0. n = 1
  is `gae` with λ = 0; n of a row's length or more is Monte Carlo.

  Args:
    rewards: f32[B, T]; not read where `mask` is False.
    values: f32[B, T] V(s_t) before token t.
    mask: bool[B, T] True on completion tokens; others are skipped.
    discount: per-token γ in [0, 1].
    num_steps: n, 1 or more.

  Returns:
    advantages, returns: f32[B, T] each, gradients stopped, 0 where masked.

  Raises:
    ValueError: `num_steps` is below 1.
  """
  if num_steps < 1:
    raise ValueError(f"num_steps: got {num_steps}, allowed: 1 or more")
  chex.assert_rank([rewards, values, mask], 2)
  chex.assert_equal_shape([rewards, values, mask])
  values = masks.zero_masked(values, mask)
  to_go = returns_to_go(rewards, mask, discount=discount)
  # The difference to Monte Carlo: γ^n (V - R) of the n-th following token.
  tokens_first = jnp.argsort(~mask, axis=1, stable=True)
  excess = jnp.take_along_axis(values - to_go, tokens_first, axis=1)
  target = jnp.cumsum(mask, axis=1) - 1 + num_steps
  last = mask.shape[1] - 1
  ahead = jnp.take_along_axis(excess, jnp.clip(target, 0, last), axis=1)
  exists = mask & (target < jnp.sum(mask, axis=1, keepdims=True))
  returns = to_go + discount**num_steps * masks.zero_masked(ahead, exists)
  return jax.lax.stop_gradient((masks.zero_masked(returns - values, mask), returns))


def terminal_rewards(scores: jax.Array, mask: jax.Array) -> jax.Array:
  """Puts each row's score on its last True token.

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


def rewards_of_actions(rewards: jax.Array, mask: jax.Array) -> jax.Array:
  """Moves rewards that are not on a True token to the last True one before them.

  The reward of a tool's output is due to the call before it. Rewards before the first True token of
  a row are due to no action, and are dropped. `[1, 2, 4, 8]` with a mask `[F, T, F, T]` -> `[0, 6,
  0, 8]`.

  Args:
    rewards: f32[B, T].
    mask: bool[B, T] tokens that the policy chose.

  Returns:
    f32[B, T], 0 where masked.
  """
  chex.assert_equal_shape([rewards, mask])
  columns = jnp.arange(mask.shape[1])[None]
  owner = jax.lax.cummax(jnp.where(mask, columns, -1), axis=1)
  add = jax.vmap(lambda owner, rewards: jnp.zeros_like(rewards).at[owner].add(rewards))
  return add(jnp.maximum(owner, 0), masks.zero_masked(rewards.astype(jnp.float32), owner >= 0))


def potential_shaping(
    potentials: jax.Array, mask: jax.Array, *, discount: float,
    last_potentials: jax.Array | None = None,
) -> jax.Array:
  """Rewards γ Φ(s_{t+1}) - Φ(s_t), which do not change the optimal policy.

  Ng, Harada and Russell 1999 (ICML), for any potential Φ, such as the score of a prefix by a
  process reward model. With γ = 1 they add up to -Φ(s_0): more steps gain nothing, unlike with Φ
  itself as the reward. A critic minus Φ has the same advantages. For Φ = .2, .5, .9 and γ = 1: .3,
  .4, -.9.

  Args:
    potentials: f32[B, T] Φ of the state before token t; not read where `mask` is False.
    mask: bool[B, T] tokens that the policy chose; others are skipped.
    discount: per-token γ in [0, 1].
    last_potentials: f32[B] Φ after the last token of a truncated row; must be 0, or None, where the
      row ended by itself.

  Returns:
    f32[B, T], gradients stopped, 0 where masked.
  """
  return gae(jnp.zeros_like(potentials), potentials, mask, discount=discount, gae_lambda=0.0,
             last_values=last_potentials)[0]
