"""Estimates of the KL divergence and the adaptive coefficient, on hand-worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses


def test_estimators_hand_worked():
  x = jnp.array([0.1, -0.1, 0.0])
  zero = jnp.zeros(3)
  np.testing.assert_allclose(losses.kl_estimate(x, zero, "k1"), [0.1, -0.1, 0.0], rtol=1e-6)
  np.testing.assert_allclose(losses.kl_estimate(x, zero, "k2"), [0.005, 0.005, 0.0], rtol=1e-6)
  np.testing.assert_allclose(
      losses.kl_estimate(x, zero, "k3"), [0.004837418, 0.005170918, 0.0], rtol=1e-4, atol=1e-9)


def test_estimators_are_unbiased_for_the_kl_of_two_distributions():
  policy = jax.nn.log_softmax(jnp.array([0.3, -1.0, 0.7, 0.1]))
  reference = jax.nn.log_softmax(jnp.array([-0.2, 0.4, 0.5, 0.0]))
  kl = float(jnp.sum(jnp.exp(policy) * (policy - reference)))
  for estimator in ("k1", "k3"):  # exactly: the mean over all tokens, weighted by the policy
    mean = jnp.sum(jnp.exp(policy) * losses.kl_estimate(policy, reference, estimator))
    assert float(mean) == pytest.approx(kl, rel=1e-5)
  assert np.all(np.asarray(losses.kl_estimate(policy, reference, "k3")) >= 0)


def test_gradients_in_the_loss_differ():
  """Why the estimators must not be mixed silently."""
  logits = jnp.array([0.3, -1.0, 0.7])
  reference = jax.nn.log_softmax(jnp.array([-0.2, 0.4, 0.5]))
  weights = jax.nn.softmax(logits)  # of the samples; no gradient flows through sampling

  def mean_estimate(logits, estimator):
    return jnp.sum(
        weights * losses.kl_estimate(jax.nn.log_softmax(logits), reference, estimator))

  def kl(logits):
    log_probs = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_probs) * (log_probs - reference))

  gradients = {name: jax.grad(mean_estimate)(logits, name) for name in ("k1", "k2", "k3")}
  np.testing.assert_allclose(gradients["k1"], 0.0, atol=1e-6)
  np.testing.assert_allclose(gradients["k2"], jax.grad(kl)(logits), atol=1e-6)
  reverse = weights - jnp.exp(reference)  # k3's is that of KL(reference || policy)
  np.testing.assert_allclose(gradients["k3"], reverse, atol=1e-6)


def test_unknown_estimator_is_named():
  with pytest.raises(ValueError, match="estimator: got 'k4', allowed: k1, k2, k3"):
    losses.kl_estimate(jnp.zeros(1), jnp.zeros(1), "k4")


@pytest.mark.parametrize("estimator, options, x, expected", [
    ("k3", dict(clamp_ratio=20.0, clamp=10.0), [0.1, 30.0, -5.0, 9.0],
     [0.004837418, 10, 10, 8.000123]),
    ("k3", dict(clamp_ratio=2.0), [1.0, 5.0, -5.0], [0.3678794, 1.1353353, 4.3890561]),
    ("k3", dict(clamp=10.0), [10.5, 11.0, 1000.0, -1000.0], [9.5000275, 10, 10, 10]),
    ("k3", dict(clamp=80.0), [1000.0, -1000.0, 80.5], [80, 80, 79.5]),
    ("k2", dict(clamp=10.0), [1.0, -4.0, -5.0], [0.5, 8, 10]),
    ("k1", dict(clamp=10.0), [1.0, -1000.0, 12.0], [1, -10, 10]),
    ("k1", dict(clamp_ratio=0.5), [1.0, -1.0, 0.2], [0.5, -0.5, 0.2]),
])
def test_clamps_hand_worked(estimator, options, x, expected):
  estimate = losses.kl_estimate(jnp.array(x), jnp.zeros(len(x)), estimator, **options)
  np.testing.assert_allclose(estimate, expected, rtol=1e-4)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("options", [
    dict(clamp_ratio=20.0, clamp=10.0), dict(clamp_ratio=20.0), dict(clamp=10.0),
    dict(clamp_ratio=80.0), dict(clamp=80.0)])
def test_clamped_gradients_are_finite(estimator, options):
  x = jnp.array([-1000.0, -90.0, -81.0, 0.0, 81.0, 90.0, 1000.0])
  gradient = jax.grad(
      lambda x: jnp.sum(losses.kl_estimate(x, jnp.zeros(7), estimator, **options)))(x)
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(np.asarray(gradient)[[0, -1]], 0.0)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_clamp_does_nothing_within_its_bounds(estimator):
  x = jnp.linspace(-2.0, 2.0, 41)
  estimate = lambda **options: losses.kl_estimate(x, jnp.zeros(41), estimator, **options)
  expected = estimate()
  for options in (dict(clamp_ratio=20.0, clamp=10.0), dict(clamp=5.0), dict(clamp_ratio=2.0)):
    np.testing.assert_array_equal(estimate(**options), expected)
  # And the clamp of a result is just that, although it bounds the log-ratio first.
  for clamp in (0.01, 0.3, 1.0):
    np.testing.assert_array_equal(estimate(clamp=clamp), jnp.clip(expected, -clamp, clamp))


@pytest.mark.parametrize("options, message", [
    (dict(clamp=0.0), "clamp: got 0.0, allowed: above 0, at most 80, or None"),
    (dict(clamp_ratio=100.0), "clamp_ratio: got 100.0, allowed: above 0, at most 80, or None")])
def test_bad_clamps_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    losses.kl_estimate(jnp.zeros(1), jnp.zeros(1), "k3", **options)


def adapt(kl, **changes):
  settings = dict(target=6.0, horizon=10000.0, num_sequences=512) | changes
  return float(losses.adapt_kl_coef(jnp.float32(0.15), jnp.float32(kl), **settings)) / 0.15


def test_adaptive_coefficient_hand_worked():
  assert adapt(12.0) == pytest.approx(1.01024, abs=2e-6)  # the error of 1 is clipped to 0.2
  assert adapt(0.0) == pytest.approx(1 - 0.01024, abs=2e-6)
  assert adapt(6.0) == pytest.approx(1.0, abs=1e-6)
  assert adapt(float("nan")) == adapt(float("inf")) == pytest.approx(1.0)  # of a skipped step
  assert adapt(6.6) == pytest.approx(1.00512, abs=2e-6)  # 0.1 * 512 / 10000, not clipped


def test_a_target_of_zero_is_refused():
  with pytest.raises(ValueError, match="target: got 0.0, allowed: above 0"):
    adapt(0.0, target=0.0)


def test_unbiased_kl_hand_worked():
  """log π -1, -1.2 before the update and -1.5 by the reference."""
  k3 = lambda x: losses.kl_estimate(x, jnp.float32(-1.5), "k3")
  weighted = lambda x: losses.unbiased_kl(x, jnp.float32(-1.2), k3(x))
  x = jnp.float32(-1.0)
  assert float(k3(x)) == pytest.approx(0.10653, abs=1e-5)
  assert float(weighted(x)) == pytest.approx(0.13012, abs=1e-5)
  assert float(jax.grad(weighted)(x)) == pytest.approx(0.61070, abs=1e-5)
  assert float(jax.grad(k3)(x)) == pytest.approx(0.39347, abs=1e-5)


def test_the_expected_gradient_of_the_unbiased_kl_is_that_of_the_kl():
  """Of three logits, summed over what the policy before the update samples."""
  logits, old, ref = (jnp.array(x) for x in (
      [0.5, 0.1, -0.3], [0.2, -0.1, 0.4], [0.0, 0.3, -0.2]))
  of = jax.nn.log_softmax
  k3 = lambda x: losses.kl_estimate(of(x), of(ref), "k3")
  expected = lambda estimate, sampled: jax.grad(
      lambda x: jnp.sum(jnp.exp(of(sampled)) * estimate(x)))(logits)
  exact = jax.grad(lambda x: jnp.sum(jnp.exp(of(x)) * (of(x) - of(ref))))(logits)
  np.testing.assert_allclose(exact, [0.16444, -0.11114, -0.05330], atol=1e-5)
  weighted = lambda x: losses.unbiased_kl(of(x), of(old), k3(x))
  np.testing.assert_allclose(expected(weighted, old), exact, atol=1e-6)
  np.testing.assert_allclose(expected(k3, logits), [0.15618, -0.10977, -0.04641], atol=1e-5)
  np.testing.assert_allclose(expected(k3, old), [0.14257, -0.06615, -0.07642], atol=1e-5)
