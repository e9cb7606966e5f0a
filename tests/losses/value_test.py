"""The value loss and the explained variance, on hand-worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses


def loss(value, old_value, ret, clip=0.2, huber_delta=None):
  return losses.clipped_value_loss(*(jnp.full((1, 1), x) for x in (value, old_value, ret)),
                                   clip=clip, huber_delta=huber_delta)[0, 0]


@pytest.mark.parametrize("value, old_value, ret, clip, expected", [
    (0.5, 0.0, 1.0, None, 0.125),  # 1/2 (0.5)^2
    (0.5, 0.0, 1.0, 0.2, 0.32),  # 1/2 (0.2 - 1)^2 is larger
    (0.1, 0.0, 1.0, 0.2, 0.405),  # inside: no difference
    (-0.5, 0.0, 1.0, 0.2, 1.125),  # moved away: the unclipped is larger
    (0.5, 0.0, 0.5, 0.2, 0.045),  # right, but too far at once
    (0.5, 0.0, 1.0, 0.0, 0.5),  # nothing may move
])
def test_clipped_value_loss_hand_worked(value, old_value, ret, clip, expected):
  assert float(loss(value, old_value, ret, clip)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("value, ret, expected", [
    (0.5, 1.0, 0.0),  # clipped on the way to the target: no gradient
    (0.1, 1.0, -0.9),
    (-0.5, 1.0, -1.5),  # too far the wrong way is pulled back
])
def test_clipped_value_loss_gradient(value, ret, expected):
  assert float(jax.grad(loss)(value, 0.0, ret)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("value, ret, clip, expected, slope", [
    (0.3, 0.0, None, 0.045, 0.3),  # a square while the error is small
    (2.0, 0.0, None, 0.875, 0.5),  # 0.5 (2 - 0.25)
    (-2.0, 0.0, None, 0.875, -0.5),
    (0.5, 0.0, None, 0.125, 0.5),  # where both meet
    (0.5, 1.0, 0.2, 0.275, 0.0),  # 0.5 (0.8 - 0.25) of the clipped branch is larger
    (-0.5, 1.0, 0.2, 0.625, -0.5),  # 0.5 (1.5 - 0.25) of the free one
])
def test_huber_value_loss_hand_worked(value, ret, clip, expected, slope):
  got = jax.value_and_grad(loss)(value, 0.0, ret, clip, 0.5)
  np.testing.assert_allclose(got, (expected, slope), rtol=1e-5, atol=1e-7)


def test_wide_huber_value_loss_is_the_square():
  values, old, returns = jax.random.normal(jax.random.key(0), (3, 4, 5))
  for clip in (None, 0.2):
    square, huber = (losses.clipped_value_loss(values, old, returns, clip=clip, huber_delta=delta)
                     for delta in (None, 100.0))
    np.testing.assert_allclose(huber, square, rtol=1e-6)


def test_huber_delta_names_what_is_allowed():
  with pytest.raises(ValueError, match="huber_delta: got 0.0, allowed: above 0, or None"):
    loss(0.0, 0.0, 0.0, huber_delta=0.0)


def test_explained_variance_hand_worked():
  returns = jnp.array([[1.0, 2.0, 3.0, 99.0]])
  mask = jnp.array([[True, True, True, False]])
  explained = lambda values: float(losses.explained_variance(jnp.array([values]), returns, mask))
  assert explained([1.0, 2.0, 3.0, 0.0]) == pytest.approx(1.0)
  assert explained([2.0, 2.0, 2.0, jnp.nan]) == pytest.approx(0.0, abs=1e-6)
  assert explained([1.5, 2.0, 2.5, 0.0]) == pytest.approx(0.75)  # residuals -.5 0 .5: 1/6 of 2/3
  assert explained([11.0, 12.0, 13.0, 0.0]) == pytest.approx(1.0)  # a shift does not matter
  assert explained([3.0, 2.0, 1.0, 0.0]) == pytest.approx(-3.0)


def test_explained_variance_without_variance_is_zero():
  for returns in (jnp.ones((2, 3)), jnp.full((64, 48), 0.9)):
    for mask in (jnp.ones(returns.shape, bool), jnp.zeros(returns.shape, bool)):
      np.testing.assert_array_equal(losses.explained_variance(0 * returns, returns, mask), 0.0)
