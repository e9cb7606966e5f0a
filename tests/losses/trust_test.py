"""Losses with other trust regions: hand-worked weights, and what all of them are on-policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses


def weights(function, ratios, advantage, **options):
  """Gradient of each token's own loss over -A: what weighs its policy gradient."""
  ratios, zero = jnp.asarray(ratios, jnp.float32)[None], jnp.zeros((1, len(ratios)))
  gradient = jax.grad(lambda x: jnp.sum(function(
      x, zero, jnp.full(zero.shape, advantage), **options)))(jnp.log(ratios))
  return -gradient[0] / advantage


def test_sapo_hand_worked():
  ratios = [0.5, 1.0, 1.5, 2.0]
  loss = losses.sapo(jnp.log(jnp.array([ratios])), jnp.zeros((1, 4)), jnp.ones((1, 4)))
  np.testing.assert_allclose(loss[0], [-1.51016, -2.0, -2.48984, -2.92423], rtol=1e-5)
  np.testing.assert_allclose(
      weights(losses.sapo, ratios, 1.0), [0.47001, 1.0, 1.41002, 1.57290], rtol=2e-5)
  np.testing.assert_allclose(
      weights(losses.sapo, ratios, -1.0), [0.46707, 1.0, 1.40121, 1.53622], rtol=2e-5)


def test_sapo_cuts_nothing_off_and_is_finite_anywhere():
  far = jnp.exp(jnp.array([-1000.0, -5.0, 2.0, 50.0]))
  for advantage in (1.0, -1.0):
    found = weights(losses.sapo, far, advantage)
    assert np.isfinite(found).all() and (found[1:3] > 0).all()
  with pytest.raises(ValueError, match="tau_negative: got 0.0, allowed: above 0"):
    losses.sapo(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.ones((1, 1)), tau_negative=0.0)


@pytest.mark.parametrize("advantage, weight, gradient", [
    (1.0, np.exp(0.1), [0, -1.10517 / 3, -1.10517 / 3]),
    (-1.0, 1.14263, [1.14263 / 3] * 3)])
def test_gmpo_hand_worked(advantage, weight, gradient):
  """x = (.5, -.2, .1), bounds of .4: clipped in the first token where A > 0, nowhere else."""
  x = jnp.array([[0.5, -0.2, 0.1, 9.0]])
  mask = jnp.array([[True, True, True, False]])
  loss = lambda x: losses.gmpo(x, jnp.zeros((1, 4)), jnp.full((1, 4), advantage), mask)
  np.testing.assert_allclose(loss(x)[0], [-advantage * weight] * 3 + [0], rtol=1e-5)
  # A mean over tokens, as of "sequence-mean".
  found = jax.grad(lambda x: jnp.sum(loss(x)) / 3)(x)
  np.testing.assert_allclose(found[0], [*gradient, 0], rtol=1e-5, atol=1e-7)


def between(function, p_old, p, advantage, **options):
  """The weight of a token whose probability was p_old and is p."""
  slope = jax.grad(lambda x: function(
      x, jnp.log(jnp.full((1, 1), p_old)), jnp.full((1, 1), advantage), **options)[0, 0])
  return float(-slope(jnp.log(jnp.full((1, 1), p)))[0, 0] / advantage)


@pytest.mark.parametrize("p_old, p, advantage, by_tv, by_kl", [
    (0.01, 0.05, 1.0, 5.0, 5.0),  # PPO would clip it
    (0.5, 0.65, 1.0, 1.3, 1.3),
    (0.5, 0.75, 1.0, 0.0, 0.0),
    (0.9, 0.65, -1.0, 0.0, 0.0),
    (0.9, 0.65, 1.0, 0.65 / 0.9, 0.65 / 0.9),  # against the way it is pushed
    (0.5, 0.75, -1.0, 1.5, 1.5),
    (0.99, 0.82, -1.0, 0.82 / 0.99, 0.0)])  # TV .17, KL .1577
def test_dppo_hand_worked(p_old, p, advantage, by_tv, by_kl):
  assert between(losses.dppo_tv, p_old, p, advantage) == pytest.approx(by_tv, rel=1e-5)
  assert between(losses.dppo_kl, p_old, p, advantage) == pytest.approx(by_kl, rel=1e-5)


@pytest.mark.parametrize("p_old, p, kl", [
    (0.01, 0.05, 0.02474), (0.5, 0.65, 0.04716), (0.5, 0.75, 0.14384), (0.65, 0.9, 0.22694)])
def test_the_bound_of_dppo_is_the_kl(p_old, p, kl):
  assert between(losses.dppo_kl, p_old, p, 1.0, bound=kl + 1e-4) == pytest.approx(p / p_old)
  assert between(losses.dppo_kl, p_old, p, 1.0, bound=kl - 1e-4) == 0.0
  assert between(losses.dppo_kl, 0.9, 0.65, -1.0, bound=0.1677) > 0.0
  assert between(losses.dppo_kl, 0.9, 0.65, -1.0, bound=0.1675) == 0.0


def test_dppo_has_a_bound_for_each_direction_and_a_cap():
  assert between(losses.dppo_tv, 0.5, 0.75, 1.0, bound_high=0.3) == pytest.approx(1.5)
  assert between(losses.dppo_tv, 0.75, 0.5, -1.0, bound_high=0.3) == 0.0
  assert between(losses.dppo_tv, 0.75, 0.5, -1.0, bound_low=0.3) == pytest.approx(2 / 3)
  for function in (losses.dppo_tv, losses.dppo_kl):
    assert between(function, 0.01, 0.05, 1.0, cap=3.0) == 3.0
    assert between(function, 1.0, 1.0, 1.0) == 1.0
    with pytest.raises(ValueError, match="cap: got 0.0, allowed: above 0, or None"):
      between(function, 0.5, 0.5, 1.0, cap=0.0)


def test_vespo_hand_worked():
  """The product over a row of two tokens is 0.5, 1 or 2; a third is masked."""
  expected = {1.0: [1.12042, 1.0, 0.19915], -1.0: [0.33979, 1.0, 1.08268]}
  mask = jnp.array([[True, True, False]] * 3)
  x = jnp.log(jnp.array([[0.25, 2.0, 7.0], [4.0, 0.25, 7.0], [4.0, 0.5, 7.0]]))
  for advantage, weight in expected.items():
    found = jax.grad(lambda x, advantage=advantage: jnp.sum(losses.vespo(
        x, jnp.zeros((3, 3)), jnp.full((3, 3), advantage), mask)))(x) / -advantage
    np.testing.assert_allclose(found[:, :2], np.repeat(weight, 2).reshape(3, 2), rtol=2e-5)
    assert not found[:, 2].any()
  # The maxima are at k / λ.
  one = jnp.ones((1, 1), bool)
  assert weights(losses.vespo, [2 / 3], 1.0, mask=one)[0] == pytest.approx(1.20813, rel=1e-5)
  assert weights(losses.vespo, [1.5], -1.0, mask=one)[0] == pytest.approx(1.24159, rel=1e-5)
  assert weights(losses.vespo, [1e9], -1.0, mask=one)[0] == 0.0


LENGTHS = np.array([1, 3, 5, 2])
MASK = jnp.arange(5)[None] < LENGTHS[:, None]
ON_POLICY = {  # what weighs -A at each token of a row
    "sapo": (losses.sapo, False, 1.0), "dppo_tv": (losses.dppo_tv, False, 1.0),
    "dppo_kl": (losses.dppo_kl, False, 1.0), "vespo": (losses.vespo, True, 1.0),
    "cispo": (lambda *x: losses.cispo(*x, clip_high=4.0), False, 1.0),
    # One ratio for a row: each token's loss is the row's, and its gradient is shared among them.
    "gmpo": (losses.gmpo, True, 1.0), "gspo": (losses.gspo, True, 1.0)}


@pytest.mark.parametrize("name", ON_POLICY)
def test_on_policy_each_has_the_gradient_of_reinforce(name):
  function, takes_mask, weight = ON_POLICY[name]
  keys = jax.random.split(jax.random.key(0))
  old = -jax.random.exponential(keys[0], MASK.shape)
  advantages = jnp.broadcast_to(jax.random.normal(keys[1], (4, 1)), MASK.shape)
  rest = (MASK,) if takes_mask else ()
  found = jax.grad(lambda x: jnp.sum(jnp.where(
      MASK, function(x, old, advantages, *rest), 0.0)))(old)
  np.testing.assert_allclose(found, jnp.where(MASK, -weight * advantages, 0), rtol=1e-5, atol=1e-6)
