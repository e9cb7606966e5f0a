"""Losses of reward models on hand-worked numbers, and the optimum each one has."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses


def test_equal_scores_cost_log_two_and_pull_apart_by_one_half():
  loss = lambda gap: jnp.sum(losses.bradley_terry(gap, jnp.zeros(1)))
  assert float(loss(jnp.zeros(1))) == pytest.approx(math.log(2))
  assert float(jax.grad(loss)(jnp.zeros(1))[0]) == pytest.approx(-0.5)


def test_bradley_terry_hand_worked():
  # -log σ(2) = 0.126928, -log σ(-1) = 1.313262; with a margin of 1, -log σ(1) and -log σ(-2).
  chosen, rejected = jnp.array([3.0, 0.0]), jnp.array([1.0, 1.0])
  np.testing.assert_allclose(
      losses.bradley_terry(chosen, rejected), [0.126928, 1.313262], atol=1e-6)
  np.testing.assert_allclose(
      losses.bradley_terry(chosen, rejected, margin=1.0), [0.313262, 2.126928], atol=1e-6)
  with pytest.raises(ValueError, match="margin: got -1, allowed: 0 or more"):
    losses.bradley_terry(chosen, rejected, margin=-1)


def test_the_cross_entropy_of_a_verdict_is_least_at_its_log_odds():
  scores = jnp.log(jnp.array([3.0, 3.0]))  # right with probability 3/4
  np.testing.assert_allclose(
      losses.outcome_cross_entropy(scores, jnp.array([True, False])),
      [-math.log(0.75), -math.log(0.25)], rtol=1e-6)
  of_share = lambda score: (
      0.75 * losses.outcome_cross_entropy(score, jnp.array(True))
      + 0.25 * losses.outcome_cross_entropy(score, jnp.array(False)))
  assert float(jax.grad(of_share)(jnp.log(3.0))) == pytest.approx(0.0, abs=1e-6)


def test_a_pair_is_two_verdicts_where_the_other_score_is_zero():
  scores = jnp.array([-2.0, 0.5, 3.0])
  zero = jnp.zeros(3)
  np.testing.assert_allclose(
      losses.outcome_cross_entropy(scores, jnp.array([True, True, True])),
      losses.bradley_terry(scores, zero), rtol=1e-6)
  np.testing.assert_allclose(
      losses.outcome_cross_entropy(scores, jnp.array([False, False, False])),
      losses.bradley_terry(zero, scores), rtol=1e-6)


def test_standardized_scores_have_mean_zero_and_variance_one():
  random = np.random.default_rng(0)
  hidden = random.standard_normal((50, 4)).astype(np.float32)
  head = {"kernel": jnp.array([1.0, -2.0, 0.5, 3.0]), "bias": jnp.float32(7.0)}
  of = lambda head: hidden @ head["kernel"] + head["bias"]
  mask = jnp.arange(50) < 40
  scores = jnp.where(mask, of(head), jnp.nan)  # what does not count may be anything
  after = of(losses.standardized(head, scores, mask))[:40]
  np.testing.assert_allclose([np.mean(after), np.var(after)], [0.0, 1.0], atol=1e-5)
  assert np.array_equal(np.argsort(after), np.argsort(of(head)[:40]))
  gradient = jax.grad(lambda scores: losses.standardized(head, scores, mask)["bias"])(scores)
  assert np.all(np.isfinite(gradient)) and not np.any(gradient[40:])


@pytest.mark.parametrize("mask", [[True, True], [False, False]])
def test_scores_without_spread_are_shifted_and_stay_finite(mask):
  head = {"kernel": jnp.ones(2), "bias": jnp.float32(1.0)}
  new = losses.standardized(head, jnp.array([3.0, 3.0]), jnp.array(mask))
  np.testing.assert_array_equal(new["kernel"], head["kernel"])
  assert float(new["bias"]) == (-2.0 if mask[0] else 1.0)


def test_a_ranking_is_the_mean_over_its_pairs():
  """Gaps of 1, 2 and 1: -log σ is 0.313262, 0.126928 and 0.313262."""
  scores = jnp.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0], [2.0, 1.0, jnp.nan], [5.0, 1.0, 2.0]])
  mask = jnp.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]], bool)
  expected = [0.251151, math.log(2), 0.313262, 0.0]
  np.testing.assert_allclose(losses.ranking(scores, mask), expected, atol=1e-6)
  gradient = jax.grad(lambda scores: jnp.sum(losses.ranking(scores, mask)))(scores)
  assert np.all(np.isfinite(gradient)) and not np.any(np.asarray(gradient)[~mask])
  # Each of the best of three equal ones is in two of three pairs, each with a gradient of -1/2.
  np.testing.assert_allclose(gradient[1], [-1 / 3, 0, 1 / 3], atol=1e-6)


def test_a_ranking_of_two_is_a_pair():
  chosen, rejected = jnp.array([3.0, 0.0]), jnp.array([1.0, 1.0])
  np.testing.assert_allclose(
      losses.ranking(jnp.stack([chosen, rejected], axis=1), jnp.ones((2, 2), bool)),
      losses.bradley_terry(chosen, rejected), rtol=1e-6)
