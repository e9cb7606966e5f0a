"""The controller of the entropy bonus, on hand-worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses


@pytest.mark.parametrize("coef, entropy, expected", [
    (0.01, 0.1, 0.015),
    (0.01, 0.3, 0.005),
    (0.01, 0.2, 0.005),  # at the target
    (0.002, 0.3, 0.0),  # never below 0
    (0.0, 0.1, 0.005),
    (0.01, float("nan"), 0.01),
    (0.01, float("inf"), 0.01),
])
def test_adapt_entropy_coef_hand_worked(coef, entropy, expected):
  after = losses.adapt_entropy_coef(
      jnp.float32(coef), jnp.float32(entropy), target=0.2, step_size=0.005)
  assert float(after) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("entropy, expected", [
    (0.1, 0.01), (0.2, 0.01), (0.3, 0.0), (float("nan"), 0.0), (float("inf"), 0.0)])
def test_active_entropy_coef_hand_worked(entropy, expected):
  active = losses.active_entropy_coef(jnp.float32(0.01), jnp.float32(entropy), target=0.2)
  assert float(active) == pytest.approx(expected)


def test_the_controller_brings_the_entropy_to_its_target():
  # A toy model: the entropy falls by 0.01 a step and rises with the weight of the bonus.
  coef, entropy = jnp.float32(0.0), jnp.float32(0.6)
  seen = []
  for _ in range(400):
    active = losses.active_entropy_coef(coef, entropy, target=0.2)
    coef = losses.adapt_entropy_coef(coef, entropy, target=0.2, step_size=0.005)
    entropy = jnp.maximum(entropy - 0.01 + active, 0.0)
    seen.append(float(entropy))
  assert min(seen[-100:]) > 0.15 and max(seen[-100:]) < 0.25


def test_tokens_of_high_entropy_hand_worked():
  """A fraction of .4 of five: the threshold is .58, between .3 and 1."""
  entropies = jnp.array([[2.0, 0.1, 0.05], [1.0, 0.3, jnp.nan]])
  mask = jnp.array([[True, True, True], [True, True, False]])
  found = losses.select_high_entropy(entropies, mask, fraction=0.4)
  assert found.tolist() == [[True, False, False], [True, False, False]]
  assert losses.select_high_entropy(entropies, mask, fraction=1.0).tolist() == mask.tolist()
  assert losses.select_high_entropy(entropies.at[1, 1].set(0.6), mask, fraction=0.4).sum() == 2
  assert not losses.select_high_entropy(entropies, jnp.zeros_like(mask)).any()


def test_only_selected_tokens_have_a_loss():
  """Ratios of 1.2, 1.5 and 1.2 with bounds of DAPO; the last is not selected."""
  x, ones = jnp.log(jnp.array([[1.2, 1.5, 1.2]])), jnp.ones((1, 3))
  chosen = jnp.array([[True, True, False]])
  loss = lambda x: losses.selected_surrogate(x, jnp.zeros((1, 3)), ones, chosen)
  np.testing.assert_allclose(loss(x), [[-1.2, -1.28, 0]], rtol=1e-6)
  np.testing.assert_allclose(
      jax.grad(lambda x: jnp.sum(loss(x)))(x), [[-1.2, 0, 0]], rtol=1e-6)
