"""Which tokens Clip-Cov and KL-Cov select; their losses are in policy_test.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses

KEY = jax.random.key(0)
# Means -3 and 0: the covariances are 2, -1, 0, -1 | 1, 1, 0, and 18 of a masked token.
OLD = jnp.array([[-1.0, -2.0, -3.0, -4.0], [-4.0, -4.0, -3.0, 6.0]])
ADVANTAGES = jnp.array([[1.0, -1.0, 3.0, 1.0], [-1.0, -1.0, -2.0, 2.0]])
MASK = jnp.array([[True] * 4, [True, True, True, False]])


@pytest.mark.parametrize("fraction, expected", [
    (0.0, [[1, 0, 0, 0], [0, 0, 0, 0]]),  # at least one
    (1 / 7, [[1, 0, 0, 0], [0, 0, 0, 0]]),
    (3 / 7, [[1, 0, 0, 0], [1, 1, 0, 0]]),
    (1.0, [[1, 1, 1, 1], [1, 1, 1, 0]]),
])
def test_kl_cov_takes_the_largest(fraction, expected):
  selected = losses.select_kl_cov(OLD, ADVANTAGES, MASK, fraction=fraction)
  np.testing.assert_array_equal(selected, np.array(expected, bool))


@pytest.mark.parametrize("options, expected", [
    (dict(fraction=1.0), [[1, 0, 0, 0], [1, 1, 0, 0]]),  # 1 to 5, both included
    (dict(fraction=1.0, low=1.5), [[1, 0, 0, 0], [0, 0, 0, 0]]),
    (dict(fraction=1.0, low=0.5, high=1.5), [[0, 0, 0, 0], [1, 1, 0, 0]]),
    (dict(fraction=1.0, low=3.0), [[0] * 4] * 2),  # no such token
])
def test_clip_cov_takes_from_the_band(options, expected):
  selected = losses.select_clip_cov(OLD, ADVANTAGES, MASK, KEY, **options)
  np.testing.assert_array_equal(selected, np.array(expected, bool))


def make_large(seed, shape=(8, 250)):
  keys = jax.random.split(jax.random.key(seed), 3)
  return (-3 * jax.random.exponential(keys[0], shape), jax.random.normal(keys[1], shape),
          jax.random.bernoulli(keys[2], 0.8, shape))


def test_clip_cov_draws_its_share_evenly():
  old, advantages, mask = make_large(1)
  band = np.asarray(losses.select_clip_cov(old, advantages, mask, KEY, fraction=1.0))
  expected = round(0.01 * int(mask.sum()))
  assert 5 * expected < band.sum() < mask.sum()
  draw = jax.jit(jax.vmap(lambda key: losses.select_clip_cov(
      old, advantages, mask, key, fraction=0.01)))
  draws = np.asarray(draw(jax.random.split(KEY, 400)))
  assert np.all(draws.sum((1, 2)) == expected) and not np.any(draws & ~band)
  # Each token of the band is drawn with the same probability: first and second half alike.
  counts = draws.sum(0)[band]
  halves = counts[:len(counts) // 2].mean(), counts[len(counts) // 2:].mean()
  assert halves[0] == pytest.approx(halves[1], rel=0.1)


def test_clip_cov_depends_on_the_key_alone():
  old, advantages, mask = make_large(2)
  first, again, other = (
      np.asarray(losses.select_clip_cov(old, advantages, mask, key, fraction=0.01))
      for key in (KEY, KEY, jax.random.key(1)))
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)


def select_both(old, advantages, mask):
  return (losses.select_clip_cov(old, advantages, mask, KEY, fraction=0.05),
          losses.select_kl_cov(old, advantages, mask, fraction=0.05))


def test_padding_and_masked_nan_change_nothing():
  old, advantages, mask = make_large(3, (4, 20))
  expected = select_both(old, advantages, mask)
  assert all(x.any() for x in expected)
  planted = select_both(
      jnp.where(mask, old, jnp.nan), jnp.where(mask, advantages, jnp.nan), mask)
  pad = lambda x: jnp.pad(x, ((2, 1), (3, 4)))
  wider = select_both(pad(old), pad(advantages), pad(mask))
  for want, got, got_wider in zip(expected, planted, wider):
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(got_wider, pad(want))


def test_shifts_change_nothing_and_rows_may_change_places():
  old, advantages, mask = make_large(4, (4, 20))
  expected = losses.select_kl_cov(old, advantages, mask, fraction=0.1)
  np.testing.assert_array_equal(
      losses.select_kl_cov(old + 2.0, advantages - 1.0, mask, fraction=0.1), expected)
  order = jnp.array([2, 0, 3, 1])
  np.testing.assert_array_equal(
      losses.select_kl_cov(old[order], advantages[order], mask[order], fraction=0.1),
      expected[order])


def test_odd_sizes():
  for shape in ((1, 1), (3, 2)):
    nothing = select_both(*(jnp.full(shape, jnp.nan),) * 2, jnp.zeros(shape, bool))
    assert not any(x.any() for x in nothing)
  one = select_both(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones((1, 1), bool))
  assert [bool(x.any()) for x in one] == [False, True]  # a covariance of 0 is below the band
