"""Filters on hand-worked rows; draws against the exact distribution and at its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlreason.sampling import SamplingOptions
from rlreason.sampling import logits as logits_lib

INF = np.inf
# Probabilities 0.5, 0.25, 0.125, 0.125.
HALVES = np.log([[0.5, 0.25, 0.125, 0.125]]).astype(np.float32)


def _kept(logits):
  return np.isfinite(np.asarray(logits)).astype(int).tolist()


@pytest.mark.parametrize("k, kept", [
    (1, [[0, 1, 0, 0, 0]]), (2, [[0, 1, 0, 1, 0]]), (4, [[1, 1, 0, 1, 1]]), (5, [[1] * 5]),
    (9, [[1] * 5])])
def test_top_k_hand_worked(k, kept):
  # -1.0 twice: with k = 3 both would stay.
  logits = jnp.array([[-1.0, 7.0, -3.0, 0.5, -1.0]])
  assert _kept(logits_lib.keep_top_k(logits, k)) == kept


def test_top_k_keeps_ties_of_the_last_one():
  assert _kept(logits_lib.keep_top_k(jnp.array([[-1.0, 7.0, -3.0, 0.5, -1.0]]), 3)) == [
      [1, 1, 0, 1, 1]]
  assert _kept(logits_lib.keep_top_k(jnp.array([[0.0, -0.0, -1.0]]), 1)) == [[1, 1, 0]]


def test_top_k_of_rows_with_filtered_tokens():
  logits = jnp.array([[-INF, 2.0, -INF, 1.0], [-INF, -INF, -INF, -5.0]])
  assert _kept(logits_lib.keep_top_k(logits, 2)) == [[0, 1, 0, 1], [0, 0, 0, 1]]


@pytest.mark.parametrize("k", [1, 5, 64, 299])
def test_top_k_is_the_head_of_a_sort(k):
  logits = np.random.default_rng(0).normal(size=(7, 300)).astype(np.float32) * 30
  got = np.asarray(logits_lib.keep_top_k(jnp.asarray(logits), k))
  threshold = np.sort(logits, axis=1)[:, -k, None]
  np.testing.assert_array_equal(got, np.where(logits >= threshold, logits, -INF))


@pytest.mark.parametrize("p, kept", [
    (0.01, [[1, 0, 0, 0]]), (0.49, [[1, 0, 0, 0]]), (0.51, [[1, 1, 0, 0]]),
    (0.74, [[1, 1, 0, 0]]), (0.76, [[1, 1, 1, 1]])])
def test_top_p_hand_worked(p, kept):
  assert _kept(logits_lib.keep_top_p(jnp.asarray(HALVES), p)) == kept


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9, 0.99])
def test_top_p_is_the_shortest_head_of_a_sort(p):
  logits = np.random.default_rng(1).normal(size=(5, 300)).astype(np.float32) * 3
  got = np.asarray(logits_lib.keep_top_p(jnp.asarray(logits), p))
  for row, kept in zip(logits.astype(np.float64), np.isfinite(got), strict=True):
    order = np.argsort(-row)
    mass = np.cumsum(np.exp(row[order]) / np.exp(row).sum())
    assert set(np.flatnonzero(kept)) == set(order[:np.searchsorted(mass, p) + 1])


@pytest.mark.parametrize("p, kept", [
    (0.2, [[1, 1, 1, 1]]), (0.3, [[1, 1, 0, 0]]), (0.6, [[1, 0, 0, 0]]), (1.0, [[1, 0, 0, 0]])])
def test_min_p_hand_worked(p, kept):
  assert _kept(logits_lib.keep_min_p(jnp.asarray(HALVES), p)) == kept


def test_filters_come_after_the_temperature_and_in_order():
  # At temperature 0.5: 16, 4, 1, 1 of 22. top-p 0.9 keeps two, 20 / 22; at 1 it would keep all.
  options = SamplingOptions(max_new_tokens=1, temperature=0.5, top_p=0.9)
  got = logits_lib.filter_logits(jnp.asarray(HALVES), options)
  assert _kept(got) == [[1, 1, 0, 0]]
  np.testing.assert_allclose(got[:, :2], 2 * HALVES[:, :2], rtol=1e-6)
  # Of the two that top-k leaves, the first has 2 / 3 of the mass: enough for top-p 0.6.
  options = SamplingOptions(max_new_tokens=1, top_k=2, top_p=0.6)
  assert _kept(logits_lib.filter_logits(jnp.asarray(HALVES), options)) == [[1, 0, 0, 0]]


def test_no_filter_changes_nothing():
  got = logits_lib.filter_logits(jnp.asarray(HALVES), SamplingOptions(max_new_tokens=1))
  np.testing.assert_array_equal(got, HALVES)


def test_blocked_bigrams():
  bigrams = (((1, 2), (0, 3)), ((3,), (3,)))
  got = logits_lib.block_bigrams(jnp.zeros((4, 4)), jnp.array([0, 1, 2, 3]), bigrams)
  assert _kept(got) == [[1, 1, 1, 1], [0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 0]]


def test_greedy_is_the_first_most_likely_and_its_log_prob():
  logits = jnp.array([[0.0, 2.0, 2.0], [-INF, -INF, -7.0], [1.0, -INF, 0.0]])
  token, log_prob = logits_lib.choose_greedily(logits)
  assert token.tolist() == [1, 2, 0]
  np.testing.assert_allclose(
      log_prob, jax.nn.log_softmax(logits)[jnp.arange(3), token], atol=1e-6)


@pytest.mark.parametrize("vocab", [3, 128, 300])  # less than a block, one, and an odd number
def test_draws_follow_the_distribution(vocab):
  draws, random = 20_000, np.random.default_rng(vocab)
  row = random.normal(size=vocab) * 1.5
  row[random.random(vocab) < 0.3] = -INF
  row[1:3] = 0.0
  logits = jnp.broadcast_to(jnp.asarray(row, jnp.float32)[None], (draws, vocab))
  token, log_prob = jax.jit(logits_lib.choose)(
      logits, jax.random.uniform(jax.random.key(vocab), (draws, 2)))
  exact = np.exp(row - row.max())
  exact /= exact.sum()
  np.testing.assert_allclose(log_prob, np.log(exact[np.asarray(token)]), atol=1e-5)
  counts = np.bincount(token, minlength=vocab)
  assert not counts[exact == 0].any()
  # Rare tokens together, so that every cell expects five draws or more.
  common = exact * draws >= 5
  cells = lambda x: np.append(x[common], x[~common].sum())
  expected, seen = cells(exact * draws), cells(counts)
  chi_square = np.sum((seen - expected)[expected > 0]**2 / expected[expected > 0])
  assert chi_square < stats.chi2.ppf(1 - 1e-4, df=np.sum(expected > 0) - 1)


def test_no_token_of_probability_zero_at_the_edges_of_the_uniform_numbers():
  random = np.random.default_rng(0)
  rows = random.normal(size=(2000, 260)).astype(np.float32) * 5
  rows[:, 200:] = -INF  # the last block, and the end of the one before
  rows[:, :40] = -INF
  rows[random.random(rows.shape) < 0.5] = -INF
  rows[:, 40:200][~np.isfinite(rows).any(1), 0] = 0.0
  edges = np.array([0.0, np.nextafter(np.float32(1), np.float32(0))], np.float32)
  for u in np.stack(np.meshgrid(edges, edges), -1).reshape(-1, 1, 2):
    token, log_prob = jax.jit(logits_lib.choose)(
        jnp.asarray(rows), jnp.broadcast_to(jnp.asarray(u), (len(rows), 2)))
    assert np.all(np.isfinite(rows[np.arange(len(rows)), token]))
    assert np.all(np.isfinite(log_prob))


def test_uniform_numbers_choose_by_cumulative_shares():
  # Two blocks of mass 1 and 3; in the second, tokens 128 and 130 of mass 1 and 2.
  logits = jnp.full((5, 131), -INF).at[:, 5].set(0.0).at[:, 128].set(0.0).at[:, 130].set(jnp.log(2))
  uniforms = jnp.array([[0.0, 0.9], [0.24, 0.9], [0.26, 0.0], [0.9, 0.32], [0.9, 0.34]])
  token, log_prob = logits_lib.choose(logits, uniforms)
  assert token.tolist() == [5, 5, 128, 128, 130]
  np.testing.assert_allclose(np.exp(log_prob), [0.25, 0.25, 0.25, 0.25, 0.5], rtol=1e-6)


def test_large_logits_neither_overflow_nor_lose_the_rest():
  logits = jnp.array([[1e4, 1e4 - 1, -1e30, -INF]])
  _, log_prob = logits_lib.choose(logits, jnp.array([[0.0, 0.9]]))
  np.testing.assert_allclose(log_prob, [-1 - np.log1p(np.exp(-1))], rtol=1e-5)
