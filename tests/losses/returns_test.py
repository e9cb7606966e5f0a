"""Advantages and returns, on hand-worked numbers and against plain loops."""

import hypothesis
from hypothesis import strategies
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses

F, T = False, True


@jax.jit
def compiled_gae(rewards, values, mask, discount, gae_lambda):
  return losses.gae(rewards, values, mask, discount=discount, gae_lambda=gae_lambda)


def gae(rewards, values, mask, discount=1.0, gae_lambda=0.95):
  return compiled_gae(
      jnp.asarray(rewards, jnp.float32), jnp.asarray(values, jnp.float32), jnp.asarray(mask),
      discount, gae_lambda)


def gae_of_row(rewards, values, discount, gae_lambda):
  """One row without padding, by the sum of the definition: sum_l (γλ)^l δ_{t+l}."""
  following = np.append(values[1:], 0.0)
  deltas = rewards + discount * following - values
  return np.array([
      sum((discount * gae_lambda) ** l * delta for l, delta in enumerate(deltas[t:]))
      for t in range(len(rewards))])


def test_gae_hand_worked():
  advantages, returns = gae([[0.0, 0.0, 1.0]], [[0.2, 0.4, 0.6]], [[T, T, T]])
  np.testing.assert_allclose(advantages, [[0.751, 0.58, 0.4]], rtol=1e-5)
  np.testing.assert_allclose(returns, [[0.951, 0.98, 1.0]], rtol=1e-5)


@pytest.mark.parametrize("mask", [
    [T, T, T, F, F], [F, F, T, T, T], [T, F, T, F, T], [F, T, F, T, T]])
def test_masked_tokens_are_skipped_wherever_they_are(mask):
  mask = np.array(mask)
  rewards, values = np.full(5, np.nan), np.full(5, np.nan)
  rewards[mask], values[mask] = [0.0, 0.0, 1.0], [0.2, 0.4, 0.6]
  advantages, returns = gae([rewards], [values], [mask])
  expected = np.zeros(5)
  expected[mask] = [0.751, 0.58, 0.4]
  np.testing.assert_allclose(advantages[0], expected, rtol=1e-5)
  expected[mask] = [0.951, 0.98, 1.0]
  np.testing.assert_allclose(returns[0], expected, rtol=1e-5)


def test_gae_of_one_token_and_of_none():
  advantages, returns = gae([[1.0], [1.0]], [[0.25], [0.25]], [[T], [F]])
  np.testing.assert_allclose(advantages, [[0.75], [0.0]])
  np.testing.assert_allclose(returns, [[1.0], [0.0]])


@hypothesis.given(
    seed=strategies.integers(0, 2**16), discount=strategies.sampled_from([1.0, 0.9, 0.0]),
    gae_lambda=strategies.sampled_from([1.0, 0.95, 0.5, 0.0]))
@hypothesis.settings(max_examples=20, deadline=None)
def test_gae_is_the_sum_of_its_definition(seed, discount, gae_lambda):
  random = np.random.default_rng(seed)
  rewards, values = random.normal(size=(2, 3, 7))
  mask = random.random((3, 7)) < 0.6
  advantages, returns = gae(rewards, values, mask, discount, gae_lambda)
  for row in range(3):
    expected = gae_of_row(rewards[row][mask[row]], values[row][mask[row]], discount, gae_lambda)
    np.testing.assert_allclose(advantages[row][mask[row]], expected, atol=1e-4)
    np.testing.assert_allclose(
        returns[row][mask[row]], expected + values[row][mask[row]], atol=1e-4)
  assert not np.any(np.asarray(advantages)[~mask]) and not np.any(np.asarray(returns)[~mask])


def test_lambda_one_is_monte_carlo():
  random = np.random.default_rng(0)
  rewards, values = random.normal(size=(2, 2, 6))
  mask = np.array([[T] * 6, [T, F, T, T, F, F]])
  advantages, returns = gae(rewards, values, mask, discount=0.9, gae_lambda=1.0)
  for row in range(2):
    kept = rewards[row][mask[row]]
    expected = [sum(0.9**l * r for l, r in enumerate(kept[t:])) for t in range(len(kept))]
    np.testing.assert_allclose(returns[row][mask[row]], expected, atol=1e-5)
    np.testing.assert_allclose(
        advantages[row][mask[row]], expected - values[row][mask[row]], atol=1e-5)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
def test_potential_shaping_leaves_advantages_alone(gae_lambda):
  """r + γΦ(s') - Φ(s) with V - Φ gives every TD error, so every advantage, back."""
  random = np.random.default_rng(3)
  rewards, values, potential = random.normal(size=(3, 1, 5))
  mask = np.ones((1, 5), bool)
  following = np.append(potential[:, 1:], [[0.0]], axis=1)
  plain, _ = gae(rewards, values, mask, gae_lambda=gae_lambda)
  shaped, _ = gae(
      rewards + following - potential, values - potential, mask, gae_lambda=gae_lambda)
  np.testing.assert_allclose(plain, shaped, atol=1e-5)


def test_gap_that_ends_the_trace_makes_two_episodes():
  # r = [0, 1] with V = [.2, .4], then r = [0, 2] with V = [.5, .6], λ = .5:
  # δ = [.2, .6] and [.1, 1.4], so Â = [.5, .6] and [.8, 1.4].
  mask = jnp.array([[T, T, F, T, T, F]])
  rewards, values = jnp.full((1, 6), jnp.nan), jnp.full((1, 6), jnp.nan)
  rewards = rewards.at[mask].set(jnp.array([0.0, 1.0, 0.0, 2.0]))
  values = values.at[mask].set(jnp.array([0.2, 0.4, 0.5, 0.6]))
  ended, returns = losses.gae(
      rewards, values, mask, discount=1.0, gae_lambda=0.5, carry_gaps=False)
  np.testing.assert_allclose(ended, [[0.5, 0.6, 0.0, 0.8, 1.4, 0.0]], rtol=1e-5)
  np.testing.assert_allclose(returns, [[0.7, 1.0, 0.0, 1.3, 2.0, 0.0]], rtol=1e-5)
  # Carried, the second token sees V = .5 and .5 of .8: δ = 1.1, Â = 1.5; the first .2 + .75.
  carried, _ = losses.gae(rewards, values, mask, discount=1.0, gae_lambda=0.5)
  np.testing.assert_allclose(carried, [[0.95, 1.5, 0.0, 0.8, 1.4, 0.0]], rtol=1e-5)


@pytest.mark.parametrize("carry_gaps", [True, False])
def test_value_after_the_last_token_of_a_row_that_was_cut_off(carry_gaps):
  # δ = .3 + .5 * 2 - .1 = 1.2 at the last token, .5 * .1 - .4 = -.35 before it: -.35 + .25 * 1.2.
  mask = jnp.array([[F, T, T, F], [F, T, T, F], [F, F, F, F]])
  rewards = jnp.tile(jnp.array([[jnp.nan, 0.0, 0.3, jnp.nan]]), (3, 1))
  values = jnp.tile(jnp.array([[jnp.nan, 0.4, 0.1, jnp.nan]]), (3, 1))
  advantages, returns = losses.gae(
      rewards, values, mask, discount=0.5, gae_lambda=0.5, carry_gaps=carry_gaps,
      last_values=jnp.array([2.0, 0.0, 9.0]))
  # The row that came to its end: .2 at the last token, -.35 + .25 * .2 before it.
  np.testing.assert_allclose(
      advantages, [[0, -0.05, 1.2, 0], [0, -0.3, 0.2, 0], [0, 0, 0, 0]], atol=1e-6)
  np.testing.assert_allclose(
      returns, [[0, 0.35, 1.3, 0], [0, 0.1, 0.3, 0], [0, 0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("carry_gaps", [True, False])
def test_cut_rows_join_to_the_whole(carry_gaps):
  """A row cut in two, with the value of the second part after the first: λ = 0 sees no cut."""
  random = np.random.default_rng(5)
  rewards, values = jnp.asarray(random.normal(size=(2, 2, 8)), jnp.float32)
  options = dict(discount=0.9, gae_lambda=0.0, carry_gaps=carry_gaps)
  mask = jnp.array([[T] * 8, [T, F, T, T, T, F, F, F]])
  whole, _ = losses.gae(rewards, values, mask, **options)
  first, _ = losses.gae(
      rewards[:, :3], values[:, :3], mask[:, :3], last_values=values[:, 3], **options)
  second, _ = losses.gae(rewards[:, 3:], values[:, 3:], mask[:, 3:], **options)
  np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, atol=1e-6)


def test_lambda_of_each_row():
  random = np.random.default_rng(1)
  rewards, values = random.normal(size=(2, 3, 6))
  mask = random.random((3, 6)) < 0.7
  together, _ = gae(rewards, values, mask, 0.9, jnp.array([0.0, 0.5, 1.0]))
  for row, gae_lambda in enumerate([0.0, 0.5, 1.0]):
    alone = gae_of_row(rewards[row][mask[row]], values[row][mask[row]], 0.9, gae_lambda)
    np.testing.assert_allclose(together[row][mask[row]], alone, atol=1e-5)


def test_length_adaptive_lambda():
  # alpha .05: 1 - 1 / 50 for 1000 tokens, .5 for 40, and 0 for 20, for fewer, and for none.
  np.testing.assert_allclose(
      losses.length_adaptive_lambda(jnp.array([1000, 40, 20, 3, 0]), alpha=0.05),
      [0.98, 0.5, 0.0, 0.0, 0.0], atol=1e-6)
  # The weights λ^l of the TD errors of an endless row add up to α times the length.
  gae_lambda = losses.length_adaptive_lambda(jnp.array([400.0]), alpha=0.05)
  np.testing.assert_allclose(jnp.sum(gae_lambda ** jnp.arange(2000)), 20.0, rtol=1e-3)


def test_two_lambdas_are_two_calls():
  """VAPO: the policy's λ sets the advantages, the critic's λ = 1 makes Monte Carlo returns."""
  mask = jnp.arange(50)[None] < jnp.array([[50], [30], [0]])
  rewards = losses.terminal_rewards(jnp.array([1.0, -1.0, 1.0]), mask)
  values = jnp.full((3, 50), 0.25)
  policy_lambda = losses.length_adaptive_lambda(jnp.sum(mask, axis=1), alpha=0.05)
  advantages, _ = losses.gae(rewards, values, mask, discount=1.0, gae_lambda=policy_lambda)
  _, returns = losses.gae(rewards, values, mask, discount=1.0, gae_lambda=1.0)
  np.testing.assert_allclose(returns, jnp.where(mask, jnp.array([[1.0], [-1.0], [0.0]]), 0.0))
  # λ = .6 and 1/3; the only TD error is that of the last token, .75 and -1.25.
  np.testing.assert_allclose(advantages[:2, 29], [0.75 * 0.6**20, -1.25], rtol=1e-4)
  np.testing.assert_allclose(advantages[:2, 28], [0.75 * 0.6**21, -1.25 / 3], rtol=1e-4)


def test_returns_to_go_hand_worked():
  rewards = jnp.array([[1.0, jnp.nan, 2.0, 4.0], [jnp.nan] * 4])
  mask = jnp.array([[T, F, T, T], [F] * 4])
  np.testing.assert_allclose(
      losses.returns_to_go(rewards, mask, discount=0.5), [[3, 0, 4, 4], [0, 0, 0, 0]])


def n_step(rewards, values, mask, discount, num_steps):
  return losses.n_step_returns(
      jnp.asarray(rewards, jnp.float32), jnp.asarray(values, jnp.float32), jnp.asarray(mask),
      discount=discount, num_steps=num_steps)


def test_n_step_returns_hand_worked():
  # n = 2, discount .5: 1 + .5 * 2 + .25 * 40 = 12; 2 + .5 * 4 = 4; 4.
  advantages, returns = n_step(
      [[1, np.nan, 2, 4]], [[10, np.nan, 30, 40]], [[T, F, T, T]], 0.5, 2)
  np.testing.assert_allclose(returns, [[12, 0, 4, 4]])
  np.testing.assert_allclose(advantages, [[2, 0, -26, -36]])


@pytest.mark.parametrize("num_steps, gae_lambda", [(1, 0.0), (6, 1.0), (7, 1.0), (100, 1.0)])
def test_n_step_returns_end_in_those_of_gae(num_steps, gae_lambda):
  random = np.random.default_rng(2)
  rewards, values = random.normal(size=(2, 3, 6))
  mask = np.array([[T] * 6, [F, T, F, T, T, F], [F] * 6])
  expected = gae(rewards, values, mask, 0.9, gae_lambda)
  for got, wanted in zip(n_step(rewards, values, mask, 0.9, num_steps), expected):
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_gae_is_the_mix_of_n_step_advantages():
  """Â = (1 - λ) sum_n λ^(n-1) Â_n, with the weight of all n past the end on Monte Carlo."""
  random = np.random.default_rng(4)
  rewards, values = random.normal(size=(2, 2, 5))
  mask = np.array([[T] * 5, [T, F, T, T, F]])
  mix = sum(
      (0.3 * 0.7 ** (n - 1) if n < 5 else 0.7**4) * n_step(rewards, values, mask, 0.9, n)[0]
      for n in range(1, 6))
  np.testing.assert_allclose(mix, gae(rewards, values, mask, 0.9, 0.7)[0], atol=1e-5)


def test_n_step_returns_name_what_is_allowed():
  with pytest.raises(ValueError, match="num_steps: got 0, allowed: 1 or more"):
    n_step([[1.0]], [[1.0]], [[T]], 1.0, 0)


def test_masked_nans_stay_out_of_values_and_gradients():
  mask = jnp.array([[T, F, T], [F, F, F]])
  x = jnp.where(mask, 1.0, jnp.nan)
  for function in (
      lambda x: losses.gae(
          x, x, mask, discount=0.9, gae_lambda=0.5, carry_gaps=False, last_values=jnp.ones(2)),
      lambda x: losses.returns_to_go(x, mask, discount=0.9),
      lambda x: losses.n_step_returns(x, x, mask, discount=0.9, num_steps=1)):
    for result in jax.tree.leaves(function(x)):
      assert np.all(np.isfinite(result)) and not np.any(np.asarray(result)[~mask])
    total = lambda x: sum(jnp.sum(y) for y in jax.tree.leaves(function(x)))
    np.testing.assert_array_equal(jax.grad(total)(x), 0.0)


def test_no_gradient_flows_into_targets():
  targets = lambda values: sum(
      jnp.sum(x) for x in losses.gae(
          jnp.ones((1, 3)), values, jnp.ones((1, 3), bool), discount=1.0, gae_lambda=0.9))
  np.testing.assert_array_equal(jax.grad(targets)(jnp.ones((1, 3))), 0.0)


def test_terminal_rewards_sit_on_the_last_true_token():
  mask = jnp.array([[T, T, F, F], [T, F, T, F], [F, F, F, F], [T, T, T, T]])
  scores = jnp.array([1.0, 2.0, jnp.nan, 4.0])
  np.testing.assert_array_equal(
      losses.terminal_rewards(scores, mask),
      [[0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 4]])
