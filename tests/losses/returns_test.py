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
