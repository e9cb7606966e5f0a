"""Aggregates of step scores, and the KL of choosing the best of n, by hand."""

import jax
import jax.numpy as jnp
import pytest

from rlreason.searching import scores


@pytest.mark.parametrize("how, expected", [
    ("last", 0.8), ("min", 0.2), ("product", 0.144), ("mean", 1.9 / 3)])
def test_aggregates(how, expected):
  assert scores.aggregate([0.9, 0.2, 0.8], how) == pytest.approx(expected)
  assert scores.aggregate([0.3], how) == pytest.approx(0.3)
  assert scores.aggregate([], how) == -1  # below every probability, which 0 is not


@pytest.mark.parametrize("n, expected", [(1, 0.0), (4, 0.6363), (16, 1.8351), (64, 3.1745)])
def test_kl_of_the_best_of_n(n, expected):
  assert scores.best_of_n_kl(n) == pytest.approx(expected, abs=1e-4)


def test_kl_of_the_best_of_n_by_simulation():
  """BANDIT with 256 arms of equal probability: ties are rare, and the KL is a little less."""
  arms, n = 256, 4
  draws = jax.random.randint(jax.random.key(0), (400_000, n), 0, arms)
  counts = jnp.bincount(jnp.max(draws, axis=1), length=arms) / draws.shape[0]
  kl = float(jnp.sum(jnp.where(counts > 0, counts * jnp.log(counts * arms), 0.0)))
  assert kl == pytest.approx(scores.best_of_n_kl(n), abs=0.01)


def test_the_best_of_none_is_refused():
  with pytest.raises(ValueError, match="n: got 0, allowed: 1 or more"):
    scores.best_of_n_kl(0)
