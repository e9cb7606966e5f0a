"""Weights for the gap between sampler and trainer, on hand-worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses

# Ratios trainer / sampler of 4, 0.25, 1.5 | 0.5, 0.4 and a masked token.
SAMPLER = jnp.full((2, 3), -2.0)
RATIOS = jnp.array([[4.0, 0.25, 1.5], [0.5, 0.4, 7.0]])
OLD = SAMPLER + jnp.log(RATIOS)
MASK = jnp.array([[True, True, True], [True, True, False]])


@pytest.mark.parametrize("function, options, expected", [
    (losses.truncated_importance, {}, [[2, 0.25, 1.5], [0.5, 0.4, 0]]),
    (losses.truncated_importance, dict(cap=1.0), [[1, 0.25, 1], [0.5, 0.4, 0]]),
    # Products of rows: 4 * 0.25 * 1.5 and 0.5 * 0.4.
    (losses.truncated_importance, dict(level="sequence"), [[1.5] * 3, [0.2, 0.2, 0]]),
    (losses.truncated_importance, dict(level="sequence", cap=1.2), [[1.2] * 3, [0.2, 0.2, 0]]),
    (losses.masked_importance, dict(low=0.3, high=2.0), [[0, 0, 1.5], [0.5, 0.4, 0]]),
    (losses.masked_importance, {}, [[4, 0, 1.5], [0.5, 0, 0]]),  # within 0.5 and 5
    (losses.masked_importance, dict(level="sequence"), [[1.5] * 3, [0] * 3]),
])
def test_weights_hand_worked(function, options, expected):
  np.testing.assert_allclose(
      function(OLD, SAMPLER, MASK, **options), np.array(expected, np.float32), rtol=1e-5)


@pytest.mark.parametrize("function", [losses.truncated_importance, losses.masked_importance])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_weights_are_one_without_a_gap(function, level):
  np.testing.assert_array_equal(function(OLD, OLD, MASK, level=level), MASK)


def test_bounds_out_of_reach_are_importance_weighting():
  for level in ("token", "sequence"):
    truncated = losses.truncated_importance(OLD, SAMPLER, MASK, cap=1e9, level=level)
    kept = losses.masked_importance(OLD, SAMPLER, MASK, low=0.0, high=1e9, level=level)
    np.testing.assert_array_equal(truncated, kept)


def test_levels_agree_on_rows_of_one_token():
  column = MASK[:, :1]
  for function in (losses.truncated_importance, losses.masked_importance):
    np.testing.assert_allclose(
        function(OLD[:, :1], SAMPLER[:, :1], column, level="sequence"),
        function(OLD[:, :1], SAMPLER[:, :1], column, level="token"))


@pytest.mark.parametrize("function", [losses.truncated_importance, losses.masked_importance])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_masked_positions_and_gradients(function, level):
  plant = lambda x: jnp.where(MASK, x, jnp.nan)
  weights = function(plant(OLD), plant(SAMPLER), MASK, level=level)
  np.testing.assert_array_equal(weights, function(OLD, SAMPLER, MASK, level=level))
  gradient = jax.grad(
      lambda x: jnp.sum(function(x, plant(SAMPLER), MASK, level=level)))(plant(OLD))
  np.testing.assert_array_equal(gradient, 0.0)
  nothing = function(plant(OLD), plant(SAMPLER), jnp.zeros_like(MASK), level=level)
  np.testing.assert_array_equal(nothing, 0.0)
  pad = lambda x: jnp.pad(x, ((1, 0), (2, 3)))
  np.testing.assert_allclose(
      function(pad(OLD), pad(SAMPLER), pad(MASK), level=level), pad(weights), rtol=1e-6)


@pytest.mark.parametrize("function", [losses.truncated_importance, losses.masked_importance])
def test_long_rows_stay_finite(function):
  gap = jnp.full((1, 5000), 1.0)
  mask = jnp.ones((1, 5000), bool)
  for sign in (-1, 1):
    assert np.isfinite(function(sign * gap, 0 * gap, mask, level="sequence")).all()


def test_bad_options_are_named():
  with pytest.raises(ValueError, match="level: got 'row', allowed: token, sequence"):
    losses.truncated_importance(OLD, SAMPLER, MASK, level="row")
  with pytest.raises(ValueError, match="low: got 3.0, allowed: at most high=2.0"):
    losses.masked_importance(OLD, SAMPLER, MASK, low=3.0, high=2.0)


MISMATCH = {10: (1.02020, 1.22140), 100: (1.02020, 7.38906)}  # of .02 nats in each token


@pytest.mark.parametrize("length", MISMATCH)
def test_a_product_grows_with_the_length_and_a_geometric_mean_does_not(length):
  shape = (1, length + 1)  # the last column is masked
  mask, sampler = jnp.arange(length + 1)[None] < length, jnp.zeros(shape)
  for mean, ratio in zip(("geometric", "product"), MISMATCH[length], strict=True):
    keep = lambda low, high, mean=mean: losses.sequence_mask(
        jnp.full(shape, 0.02), sampler, mask, mean=mean, low=low, high=high)
    np.testing.assert_array_equal(keep(0.0, ratio + 1e-4), mask)
    np.testing.assert_array_equal(keep(ratio - 1e-4, 9.0), mask)
    assert not keep(0.0, ratio - 1e-4).any() and not keep(ratio + 1e-4, 9.0).any()


def test_a_mask_of_sequences_is_of_their_tokens_in_any_order_and_may_weigh_them():
  log_ratios = jnp.log(jnp.array([[2.0, 0.5, 1.0], [2.0, 2.0, 7.0]]))
  mask = jnp.array([[True, True, True], [True, True, False]])
  call = lambda x, **options: losses.sequence_mask(
      x, jnp.zeros(x.shape), mask, low=0.5, high=3.0, **options)
  for mean, kept in (("geometric", [1, 1]), ("product", [1, 0])):
    expected = np.array(kept)[:, None] * mask
    np.testing.assert_array_equal(call(log_ratios, mean=mean), expected)
    turned = log_ratios.at[0].set(log_ratios[0, ::-1])
    np.testing.assert_array_equal(call(turned, mean=mean), expected)
  np.testing.assert_allclose(
      call(log_ratios, importance="token"), [[2, 0.5, 1], [2, 2, 0]], rtol=1e-6)
  np.testing.assert_allclose(
      call(log_ratios, importance="sequence", cap=3.0), [[1, 1, 1], [3, 3, 0]], rtol=1e-6)
  assert not jax.grad(lambda x: jnp.sum(call(x, importance="token")))(log_ratios).any()


def test_bad_choices_of_a_mask_of_sequences():
  for options, message in (
      (dict(low=2.0, high=1.0), "low: got 2.0"), (dict(mean="harmonic"), "allowed: geometric"),
      (dict(importance="row"), "allowed: none, token, sequence"),
      (dict(cap=2.0), "cap: got 2.0 with importance='none'")):
    with pytest.raises(ValueError, match=message):
      losses.sequence_mask(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.ones((1, 1), bool), **options)


def test_bad_rows_that_the_policy_has_left_behind_are_masked():
  """Drifts of .6, .6 and -.6 nats a token, and one of .6 in the one token that is there."""
  sampler = jnp.full((4, 2), -1.0)
  log_probs = sampler - jnp.array([[0.2, 1.0], [0.2, 1.0], [-0.2, -1.0], [0.6, jnp.nan]])
  advantages = jnp.broadcast_to(jnp.array([[-1.0], [1.0], [-1.0], [-1.0]]), (4, 2))
  mask = jnp.array([[True, True]] * 3 + [[True, False]])
  call = lambda x, **options: losses.off_policy_mask(x, sampler, advantages, mask, **options)
  np.testing.assert_array_equal(call(log_probs), [[0, 0], [1, 1], [1, 1], [0, 0]])
  np.testing.assert_array_equal(
      call(log_probs, threshold=0.7), [[1, 1], [1, 1], [1, 1], [1, 0]])
