"""Losses of steps on hand-worked numbers, and the optimum each one has."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses

LOG_3 = math.log(3.0)


def test_hard_labels_cost_the_log_probability_of_the_label():
  """σ(log 3) = 3/4."""
  scores = jnp.array([[LOG_3, LOG_3, 0.0], [-LOG_3, -LOG_3, 0.0]])
  labels = jnp.array([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
  np.testing.assert_allclose(
      losses.step_cross_entropy(scores, labels),
      [[-math.log(0.75), -math.log(0.25), math.log(2)],
       [-math.log(0.25), -math.log(0.75), math.log(2)]], rtol=1e-6)


def test_a_share_is_matched_and_costs_its_entropy_there():
  share = jnp.array([[0.75]])
  of = lambda score: jnp.sum(losses.step_cross_entropy(score, share))
  entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
  assert float(of(jnp.array([[LOG_3]]))) == pytest.approx(entropy, rel=1e-6)
  assert float(jax.grad(of)(jnp.array([[LOG_3]]))[0, 0]) == pytest.approx(0, abs=1e-6)
  # The gradient is σ(s) - y.
  assert float(jax.grad(of)(jnp.zeros((1, 1)))[0, 0]) == pytest.approx(-0.25)


def test_a_hard_label_is_the_verdict_on_a_completion_of_one_step():
  scores = jnp.array([-2.0, 0.5, 90.0, -90.0])
  for label in (0.0, 1.0):
    np.testing.assert_allclose(
        losses.step_cross_entropy(scores[None], jnp.full((1, 4), label))[0],
        losses.outcome_cross_entropy(scores, jnp.full(4, bool(label))), rtol=1e-6)


def test_three_ratings_hand_worked():
  """Softmax of (0, log 2, log 5) is (1, 2, 5) / 8."""
  logits = jnp.log(jnp.array([1.0, 2.0, 5.0]))
  logits = jnp.broadcast_to(logits, (1, 3, 3))
  np.testing.assert_allclose(
      losses.three_way_cross_entropy(logits, jnp.array([[-1.0, 0.0, 1.0]])),
      [[math.log(8), math.log(4), math.log(1.6)]], rtol=1e-6)
  # Whatever stands for a rating that is not there, nothing is out of range or NaN.
  assert np.all(np.isfinite(losses.three_way_cross_entropy(
      logits, jnp.array([[jnp.nan, 7.0, -9.0]]))))


def test_a_neutral_step_counts_as_right():
  logits = jnp.log(jnp.array([[1.0, 2.0, 5.0], [4.0, 2.0, 2.0]]))
  np.testing.assert_allclose(
      losses.step_log_odds(logits, 3), [math.log(7), 0.0], atol=1e-6)
  np.testing.assert_array_equal(losses.step_log_odds(jnp.array([0.5, -1.0]), 1), [0.5, -1.0])
  with pytest.raises(ValueError, match="num_classes: got 2, allowed: 1, 3"):
    losses.step_log_odds(logits, 2)


def test_of_three_classes_two_are_the_binary_loss():
  """Without the neutral class, the log-odds of right against wrong."""
  scores = jnp.array([[-1.5, 0.0, 2.0]])
  logits = jnp.stack([jnp.zeros_like(scores), jnp.full_like(scores, -1e9), scores], axis=-1)
  for label in (0.0, 1.0):
    np.testing.assert_allclose(
        losses.three_way_cross_entropy(logits, jnp.full((1, 3), 2 * label - 1)),
        losses.step_cross_entropy(scores, jnp.full((1, 3), label)), rtol=1e-6)
