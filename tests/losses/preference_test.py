"""Preference losses on hand-worked numbers, their optima, and what each does at the extremes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses

# Δ = (-10 + 11) - (-12 + 11.5) = 1.5 and (-20 + 18) - (-20 + 20) = -2.
PAIRS = tuple(jnp.array(x) for x in (
    [-10.0, -20.0], [-12.0, -20.0], [-11.0, -18.0], [-11.5, -20.0]))
MARGINS = np.array([1.5, -2.0])
# Means over tokens: p_w = 1/2, p_l = 1/4; and the other way round.
MEANS = jnp.log(jnp.array([0.5, 0.25])), jnp.log(jnp.array([0.25, 0.5]))
KTO = dict(
    log_probs=jnp.array([-10.0, -10.0]), ref_log_probs=jnp.array([-12.0, -12.0]),
    is_desirable=jnp.array([True, False]), kl=jnp.array([0.5, 0.5]))


def sigmoid(x):
  return 1.0 / (1.0 + np.exp(-x))


def test_dpo_is_the_bradley_terry_loss_of_implicit_rewards():
  np.testing.assert_allclose(
      losses.dpo(*PAIRS, beta=0.1), -np.log(sigmoid(0.1 * MARGINS)), rtol=1e-6)
  # -log σ(0.15) = 0.62095 and -log σ(-0.2) = 0.79814.
  np.testing.assert_allclose(losses.dpo(*PAIRS, beta=0.1), [0.62096, 0.79814], atol=1e-5)


def test_dpo_at_zero_margin():
  zero = jnp.zeros(1)
  loss = lambda chosen, rejected, **options: jnp.sum(
      losses.dpo(chosen, rejected, zero, zero, beta=0.3, **options))
  assert float(loss(zero, zero)) == pytest.approx(math.log(2))
  gradients = jax.grad(loss, argnums=(0, 1))(zero, zero)
  np.testing.assert_allclose(gradients, [[-0.15], [0.15]], rtol=1e-6)  # -β/2, β/2
  gradients = jax.grad(loss, argnums=(0, 1))(zero, zero, label_smoothing=0.1)
  np.testing.assert_allclose(gradients, [[-0.12], [0.12]], rtol=1e-6)  # times 1 - 2ε


def test_label_smoothing_mixes_the_loss_with_that_of_the_swapped_pair():
  chosen, rejected, ref_chosen, ref_rejected = PAIRS
  swapped = losses.dpo(rejected, chosen, ref_rejected, ref_chosen, beta=0.1)
  np.testing.assert_allclose(
      losses.dpo(*PAIRS, beta=0.1, label_smoothing=0.2),
      0.8 * losses.dpo(*PAIRS, beta=0.1) + 0.2 * swapped, rtol=1e-6)
  # Its optimum is finite: σ(βΔ) = 1 - ε, so Δ = log 4 / 0.1.
  gradient = jax.grad(lambda x: losses.dpo(
      x, jnp.zeros(()), jnp.zeros(()), jnp.zeros(()), beta=0.1, label_smoothing=0.2))
  assert float(gradient(jnp.float32(math.log(4) / 0.1))) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("loss", [losses.dpo, losses.ipo])
def test_only_ratios_to_the_reference_count(loss):
  shifted = [x + 7.0 for x in PAIRS]
  np.testing.assert_allclose(loss(*PAIRS, beta=0.1), loss(*shifted, beta=0.1), rtol=1e-5)


def test_ipo_hand_worked_and_its_optimum():
  np.testing.assert_allclose(losses.ipo(*PAIRS, beta=0.25), [0.25, 16.0], rtol=1e-6)  # (Δ - 2)²
  gradient = jax.grad(lambda x: losses.ipo(
      x, jnp.float32(-3.0), jnp.float32(-1.0), jnp.float32(-1.0), beta=0.25))
  assert float(gradient(jnp.float32(-1.0))) == 0.0  # Δ = 2 = 1 / 2β
  assert float(gradient(jnp.float32(-3.0))) == pytest.approx(-4.0)  # at Δ = 0: -1 / β
  assert float(gradient(jnp.float32(0.0))) == pytest.approx(2.0)  # a margin too far is pulled back


def test_kto_hand_worked():
  # r = 2, z = 0.5: σ(-0.15) = 0.46257 where desirable, σ(0.15) = 0.53743 where not.
  np.testing.assert_allclose(losses.kto(**KTO, beta=0.1), [0.46257, 0.53743], atol=1e-5)
  np.testing.assert_allclose(
      losses.kto(**KTO, beta=0.1, desirable_weight=2.0, undesirable_weight=0.5),
      [2 * sigmoid(-0.15), 0.5 * sigmoid(0.15)], rtol=1e-5)


def test_kto_gradients():
  loss = lambda log_probs, kl: jnp.sum(
      losses.kto(**KTO | {"log_probs": log_probs, "kl": kl}, beta=0.1))
  at_reference = KTO["ref_log_probs"]
  for_log_probs, for_kl = jax.grad(loss, argnums=(0, 1))(at_reference, jnp.zeros(2))
  np.testing.assert_allclose(for_log_probs, [-0.025, 0.025], rtol=1e-6)  # β/4 at r = z
  np.testing.assert_array_equal(for_kl, 0.0)


def test_kto_baseline_is_a_clamped_mean_of_the_rows_there_are():
  ratios, mask = jnp.array([1.0, 2.0, jnp.nan]), jnp.array([True, True, False])
  assert float(losses.kto_baseline(ratios, mask)) == 1.5
  assert float(losses.kto_baseline(-ratios, mask)) == 0.0
  assert float(losses.kto_baseline(ratios, jnp.zeros(3, bool))) == 0.0
  np.testing.assert_array_equal(jax.grad(losses.kto_baseline)(ratios, mask), 0.0)


def test_orpo_hand_worked():
  # Odds of 1/2 and 1/4 are 1 and 1/3; σ(log 3) = 3/4 and σ(-log 3) = 1/4.
  np.testing.assert_allclose(
      losses.orpo(*MEANS, beta=0.1),
      [math.log(2) + 0.1 * math.log(4 / 3), math.log(4) + 0.1 * math.log(4)], rtol=1e-5)
  np.testing.assert_allclose(losses.orpo(*MEANS, beta=0.0), -MEANS[0], rtol=1e-6)


def test_simpo_hand_worked():
  # 2 log 2 - 0.5 = 0.88629 and -2 log 2 - 0.5 = -1.88629.
  np.testing.assert_allclose(
      losses.simpo(*MEANS, beta=2.0, gamma=0.5),
      -np.log(sigmoid(np.array([0.886294, -1.886294]))), rtol=1e-5)


def test_simpo_without_margin_is_dpo_with_an_even_reference():
  np.testing.assert_allclose(
      losses.simpo(*MEANS, beta=2.0, gamma=0.0),
      losses.dpo(*MEANS, jnp.zeros(2), jnp.zeros(2), beta=2.0), rtol=1e-6)


LOSSES = {
    "dpo": lambda w, l: losses.dpo(w, l, -jnp.ones_like(w), -jnp.ones_like(l), beta=0.1),
    "ipo": lambda w, l: losses.ipo(w, l, -jnp.ones_like(w), -jnp.ones_like(l), beta=0.1),
    "orpo": lambda w, l: losses.orpo(w, l, beta=0.1),
    "simpo": lambda w, l: losses.simpo(w, l, beta=2.0, gamma=0.5),
    "kto": lambda w, l: losses.kto(
        w, l, jnp.ones_like(w, bool), jnp.zeros_like(w), beta=0.1)}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_extremes_are_finite(loss):
  ends = jnp.array([0.0, -1e-9, -1e-3, -1.0, -1e4])
  chosen, rejected = (x.ravel() for x in jnp.meshgrid(ends, ends))
  value, gradients = jax.value_and_grad(
      lambda w, l: jnp.sum(loss(w, l)), argnums=(0, 1))(chosen, rejected)
  assert np.isfinite(value) and np.all(np.isfinite(gradients))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_pairs_do_not_see_each_other_and_the_chosen_is_pushed_up(loss):
  chosen, rejected = jnp.array([-0.5, -2.0, -0.7]), jnp.array([-0.6, -0.9, -3.0])
  together = loss(chosen, rejected)
  for i in range(3):
    np.testing.assert_allclose(loss(chosen[i:i + 1], rejected[i:i + 1])[0], together[i], rtol=1e-6)
  assert loss(jnp.zeros(0), jnp.zeros(0)).shape == (0,)
  gradient = jax.grad(lambda w: jnp.sum(loss(w, rejected)))(chosen)
  assert np.all(np.asarray(gradient) < 0)


def test_log1mexp():
  x = -np.array([1e-5, 0.1, 0.6931, 0.6932, 1.0, 20.0, 90.0])
  got = losses.log1mexp(jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(got[:-1], np.log(-np.expm1(x[:-1])), rtol=1e-4)
  assert float(got[-1]) <= 0.0
  ends = jnp.array([0.0, 1e-3, -jnp.inf])
  np.testing.assert_allclose(losses.log1mexp(ends), [math.log(1e-6), math.log(1e-6), 0.0],
                             rtol=1e-3)
  np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(losses.log1mexp(x)))(ends), 0.0)
