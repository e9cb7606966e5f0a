"""The clipped surrogate: where its gradient is zero and where it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses


def surrogate(log_ratio, advantage, **clip):
  return losses.clipped_surrogate(
      jnp.asarray(log_ratio)[None, None], jnp.zeros((1, 1)), jnp.full((1, 1), advantage),
      **clip)[0, 0]


def gradient(ratio, advantage, clip_low=0.2, clip_high=0.2):
  return float(jax.grad(surrogate)(
      jnp.log(ratio), advantage, clip_low=clip_low, clip_high=clip_high))


@pytest.mark.parametrize("ratio, advantage, clip_high, expected", [
    (1.25, 1.0, 0.28, -1.25),  # inside the wider upper bound
    (1.25, 1.0, 0.2, 0.0),  # above the narrow one
    (0.75, -1.0, 0.2, 0.0),  # already less likely than the lower bound allows
    (0.75, -1.0, 0.28, 0.0),  # whatever the upper bound
    (0.75, 1.0, 0.2, -0.75),  # a good token that became unlikely is always pulled back
    (1.25, -1.0, 0.2, 1.25),  # and a bad one that became likely pushed down
    (1.0, 2.0, 0.2, -2.0),  # at the start: the plain policy gradient
    (1.0, -2.0, 0.2, 2.0),
    (1.1, 0.0, 0.2, 0.0),
])
def test_gradient_hand_worked(ratio, advantage, clip_high, expected):
  assert gradient(ratio, advantage, clip_high=clip_high) == pytest.approx(expected, rel=1e-5)


def test_value_hand_worked():
  values = {  # (ratio, advantage) -> loss with bounds 0.8 and 1.28
      (1.5, 1.0): -1.28, (1.5, -1.0): 1.5, (0.5, 1.0): -0.5, (0.5, -1.0): 0.8, (1.1, 2.0): -2.2}
  for (ratio, advantage), expected in values.items():
    loss = surrogate(jnp.log(ratio), advantage, clip_low=0.2, clip_high=0.28)
    assert float(loss) == pytest.approx(expected, rel=1e-5), (ratio, advantage)


def test_clip_to_infinity_is_importance_weighting():
  key_ratio, key_advantage = jax.random.split(jax.random.key(0))
  log_ratio = jax.random.normal(key_ratio, (3, 5))
  advantages = jax.random.normal(key_advantage, (3, 5))
  old = jnp.full((3, 5), -1.0)
  loss = losses.clipped_surrogate(old + log_ratio, old, advantages, clip_low=1.0, clip_high=1e9)
  np.testing.assert_allclose(loss, -advantages * jnp.exp(log_ratio), rtol=1e-5)


def test_flags_mark_the_tokens_without_gradient():
  key_ratio, key_advantage = jax.random.split(jax.random.key(1))
  ratio = jax.random.uniform(key_ratio, (4, 50), minval=0.5, maxval=1.5)
  advantages = jax.random.normal(key_advantage, (4, 50))
  clip = dict(clip_low=0.1, clip_high=0.3)
  zero = jnp.zeros((4, 50))
  gradients = jax.grad(lambda x: jnp.sum(
      losses.clipped_surrogate(x, zero, advantages, **clip)))(jnp.log(ratio))
  low, high = losses.clip_flags(jnp.log(ratio), zero, advantages, **clip)
  np.testing.assert_array_equal(np.asarray(gradients) == 0, low | high)
  assert low.any() and high.any() and not (low & high).any()
