"""Group advantages, on hand-worked numbers, invariants, and gradients by enumeration."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses

F, T = False, True

# Every function under one signature; the lengths differ and the greedy scores are not those of
# the group.
ALL = {
    "group_normalized": losses.group_normalized,
    "group_normalized_raw": functools.partial(losses.group_normalized, group_of_one="raw", ddof=0),
    "group_centered": losses.group_centered,
    "batch_normalized": losses.batch_normalized,
    "leave_one_out": losses.leave_one_out,
    "leave_one_out_normalized": losses.leave_one_out_normalized,
    "no_baseline": losses.no_baseline,
    "remax": lambda scores, is_kept: losses.remax(
        scores, is_kept, 0.5 + jnp.arange(scores.shape[0], dtype=jnp.float32)),
    "opo": lambda scores, is_kept: losses.opo(
        scores, is_kept, jnp.where(is_kept, 3.0 + jnp.abs(scores), jnp.nan)),
    "pass_at_k": functools.partial(losses.pass_at_k, k=2),
}
every = pytest.mark.parametrize("function", ALL.values(), ids=ALL.keys())
WITHIN_GROUP = {name: function for name, function in ALL.items()
                if name not in ("no_baseline", "remax", "group_normalized_raw")}
within_group = pytest.mark.parametrize(
    "function", WITHIN_GROUP.values(), ids=WITHIN_GROUP.keys())


def apply(function, scores, is_kept=None, **options):
  scores = jnp.asarray(scores, jnp.float32)
  is_kept = jnp.ones(scores.shape, bool) if is_kept is None else jnp.asarray(is_kept)
  return np.asarray(compiled(function, tuple(options.items()))(scores, is_kept))


@functools.lru_cache(maxsize=None)
def compiled(function, options):
  return jax.jit(functools.partial(function, **dict(options)))


def random_groups(seed=0, prompts=3, size=6):
  random = np.random.default_rng(seed)
  return random.normal(size=(prompts, size)), random.random((prompts, size)) < 0.7


def test_group_normalized_hand_worked():
  # Mean 1/4; squared distances add up to 3/4: std sqrt(1/4) of a sample, sqrt(3/16) of all.
  scores = [[1, 0, 0, 0]]
  np.testing.assert_allclose(
      apply(losses.group_normalized, scores, epsilon=0.0), [[1.5, -0.5, -0.5, -0.5]], rtol=1e-6)
  np.testing.assert_allclose(
      apply(losses.group_normalized, scores, ddof=0, epsilon=0.0),
      [[1.7320508, -0.5773503, -0.5773503, -0.5773503]], rtol=1e-6)
  # A large epsilon, to see where it is added: .75 / (.5 + .5).
  np.testing.assert_allclose(
      apply(losses.group_normalized, scores, epsilon=0.5), [[0.75, -0.25, -0.25, -0.25]])


def test_group_centered_hand_worked():
  np.testing.assert_allclose(
      apply(losses.group_centered, [[1, 0, 0, 0], [2, 0, 9, 1]], [[T] * 4, [T, T, F, T]]),
      [[0.75, -0.25, -0.25, -0.25], [1, -1, 0, 0]], atol=1e-6)


def test_batch_normalized_hand_worked():
  # Group means .5 and 2.5; all of 1, 0, 4, 1 have mean 1.5 and squared distances 9 in all.
  scores = [[1, 0], [4, 1]]
  np.testing.assert_allclose(
      apply(losses.batch_normalized, scores, epsilon=0.0),
      np.array([[0.5, -0.5], [1.5, -1.5]]) / np.sqrt(3), rtol=1e-6)
  np.testing.assert_allclose(
      apply(losses.batch_normalized, scores, ddof=0, epsilon=0.5),
      np.array([[0.5, -0.5], [1.5, -1.5]]) / 2, rtol=1e-6)


def test_leave_one_out_hand_worked():
  np.testing.assert_allclose(
      apply(losses.leave_one_out, [[1, 0, 0, 1]]), [[2 / 3, -2 / 3, -2 / 3, 2 / 3]], rtol=1e-6)


def test_leave_one_out_normalized_hand_worked():
  # The others of the first: no spread. Of a wrong one: 1, 0, 0 with mean 1/3, std sqrt(1/3).
  # Second row, of 3, 1, 0: others (1, 0), (3, 0), (3, 1) with stds sqrt of .5, 4.5, 2.
  scores, is_kept = [[1, 0, 0, 0], [3, 1, 7, 0]], [[T] * 4, [T, T, F, T]]
  np.testing.assert_allclose(
      apply(losses.leave_one_out_normalized, scores, is_kept, epsilon=0.0),
      [[1.0, -0.5773503, -0.5773503, -0.5773503],
       [2.5 / np.sqrt(0.5), -0.5 / np.sqrt(4.5), 0, -2 / np.sqrt(2)]], rtol=1e-5)
  # Biased, the std of two numbers is half their distance: .5, 1.5, 1; plus .5.
  np.testing.assert_allclose(
      apply(losses.leave_one_out_normalized, scores, is_kept, ddof=0, epsilon=0.5)[1],
      [2.5, -0.25, 0, -2 / 1.5], rtol=1e-5)


@pytest.mark.parametrize("score", [0.1, 0.35, 0.7, 1e4])
def test_leave_one_out_normalized_has_no_residue_of_rounding(score):
  """Seven equal scores have a std of 0, not of the last bit, which would be divided by."""
  advantages = apply(losses.leave_one_out_normalized, [[score] * 7 + [0]], epsilon=0.0)
  np.testing.assert_allclose(advantages[0, -1], -score, rtol=1e-6)


def test_no_baseline_and_remax_hand_worked():
  scores, is_kept = [[1, 0.25, 5], [1, 0, 1]], [[T, T, F], [T, T, T]]
  np.testing.assert_allclose(
      apply(losses.no_baseline, scores, is_kept), [[1, 0.25, 0], [1, 0, 1]])
  remax = lambda scores, is_kept: losses.remax(scores, is_kept, jnp.array([0.5, jnp.nan]))
  np.testing.assert_allclose(apply(remax, scores, is_kept), [[0.5, -0.25, 0], [0, 0, 0]])


def test_opo_hand_worked():
  # Baselines (1 * 10 + 0 * 30) / 40 = .25, and without the second column (2 * 1 + 6 * 3) / 4 = 5.
  lengths = jnp.array([[10.0, 30.0, 0.0], [1.0, jnp.nan, 3.0], [0.0, 0.0, 0.0]])
  opo = lambda scores, is_kept: losses.opo(scores, is_kept, lengths)
  np.testing.assert_allclose(
      apply(opo, [[1, 0, 1], [2, 9, 6], [1, 0, 0]], [[T] * 3, [T, F, T], [T] * 3]),
      [[0.75, -0.25, 0.75], [-3, 0, 1], [0, 0, 0]], atol=1e-6)


def test_opo_has_the_least_weighted_square_of_all_baselines():
  scores, _ = random_groups()
  lengths = np.random.default_rng(1).integers(1, 50, scores.shape)
  opo = lambda scores, is_kept: losses.opo(scores, is_kept, jnp.asarray(lengths))
  least = np.sum(lengths * apply(opo, scores) ** 2, axis=1)
  for baseline in np.linspace(-3, 3, 61):
    assert np.all(least <= np.sum(lengths * (scores - baseline) ** 2, axis=1) + 1e-4)


def test_opo_of_equal_lengths_is_group_centered():
  scores, is_kept = random_groups()
  opo = lambda scores, is_kept: losses.opo(scores, is_kept, jnp.full(scores.shape, 7))
  np.testing.assert_allclose(
      apply(opo, scores, is_kept), apply(losses.group_centered, scores, is_kept), atol=1e-6)


def test_pass_at_k_hand_worked():
  # One right of 4, k = 2: 3 of the 6 pairs fail, 2 of the 3 pairs with a given wrong one.
  # f = 1/2, std 1/2: right 1, wrong (1/2 - 2/3) / (1/2) = -1/3.
  np.testing.assert_allclose(
      apply(losses.pass_at_k, [[0, 1, 0, 0]], k=2, epsilon=0.0), [[-1 / 3, 1, -1 / 3, -1 / 3]],
      rtol=1e-6)


def pass_at_k_by_enumeration(scores, k):
  """The mean over all draws of k that a completion is in of (reward - mean) / std."""
  advantages = np.zeros(len(scores))
  draws = [list(draw) for draw in itertools.combinations(range(len(scores)), k)]
  rewards = [max(scores[draw]) for draw in draws]
  if not draws or np.std(rewards) == 0:
    return advantages
  for i in range(len(scores)):
    of_i = [reward for draw, reward in zip(draws, rewards) if i in draw]
    advantages[i] = (np.mean(of_i) - np.mean(rewards)) / np.std(rewards)
  return advantages


@pytest.mark.parametrize("k", range(1, 8))
def test_pass_at_k_is_the_mean_over_all_draws(k):
  # All patterns of right, wrong and not kept: also fewer kept than k, all right, all wrong, none.
  patterns = np.array(list(itertools.product([0.0, 1.0, np.nan], repeat=5)))
  is_kept = ~np.isnan(patterns)
  got = apply(losses.pass_at_k, patterns, is_kept, k=k, epsilon=0.0)
  for row, kept, advantages in zip(patterns, is_kept, got):
    np.testing.assert_allclose(
        advantages[kept], pass_at_k_by_enumeration(row[kept], k), atol=1e-5)
    assert not np.any(advantages[~kept])


def test_pass_at_k_of_many_completions_does_not_overflow():
  # C(256, 64) is 2e61: 8 right of 256 fail a draw of 64 with a share of about (3/4)^8 = .1.
  scores = (np.arange(256) < 8).astype(float)[None]
  advantages = apply(losses.pass_at_k, scores, k=64)
  share = np.prod([(248 - j) / (256 - j) for j in range(64)])
  np.testing.assert_allclose(advantages[0, 0], np.sqrt(share / (1 - share)), rtol=1e-4)
  np.testing.assert_allclose(np.sum(advantages), 0.0, atol=1e-4)


def test_pass_at_1_is_group_normalized():
  scores, is_kept = random_groups()
  scores = (scores > 0).astype(float)
  np.testing.assert_allclose(
      apply(losses.pass_at_k, scores, is_kept, k=1),
      apply(losses.group_normalized, scores, is_kept, ddof=0), rtol=1e-5, atol=1e-6)


def test_pass_at_k_threshold():
  signs = apply(losses.pass_at_k, [[1, -1, -1, 1]], k=2)
  np.testing.assert_array_equal(signs, apply(losses.pass_at_k, [[1, 0, 0, 1]], k=2))
  np.testing.assert_array_equal(
      signs, apply(losses.pass_at_k, [[0.9, 0.1, 0.8, 0.85]], k=2, threshold=0.8))


def test_bad_options_name_what_is_allowed():
  scores, is_kept = jnp.ones((1, 2)), jnp.ones((1, 2), bool)
  with pytest.raises(ValueError, match="k: got 0, allowed: 1 or more"):
    losses.pass_at_k(scores, is_kept, k=0)
  with pytest.raises(ValueError, match="group_of_one: got 'one', allowed: zero, raw"):
    losses.leave_one_out(scores, is_kept, group_of_one="one")


@within_group
@pytest.mark.parametrize("score", [0.0, 0.1, 0.35, -0.1, -1.0, 1e-3, 1e6])
def test_group_without_spread_gets_exactly_zero(function, score):
  # Beside a group with spread, so that the batch has some. The mean of equal numbers may differ
  # from them in the last bit, which an epsilon of 1e-9 would make 1.
  scores = np.tile(np.float32(score), (2, 7))
  scores[1, 0] += 1.0
  is_kept = np.ones((2, 7), bool)
  is_kept[:, 3] = False
  advantages = apply(function, scores, is_kept)
  np.testing.assert_array_equal(advantages[0], 0.0)
  assert np.all(np.isfinite(advantages)) and (score < -0.4 or score > 0.6 or np.any(advantages[1]))


@within_group
def test_group_of_one_gets_zero(function):
  np.testing.assert_array_equal(apply(function, [[3.0]]), 0.0)
  np.testing.assert_array_equal(apply(function, [[9.0, 3.0]], [[F, T]]), 0.0)


def test_group_of_one_may_keep_its_score():
  raw = apply(losses.group_normalized, [[9, 3], [1, 0]], [[F, T], [T, T]], group_of_one="raw")
  np.testing.assert_allclose(raw[0], [0, 3])
  np.testing.assert_array_equal(raw[1], apply(losses.group_normalized, [[1, 0]])[0])
  opo = lambda scores, is_kept, **options: losses.opo(
      scores, is_kept, jnp.full(scores.shape, 2.0), **options)
  for function, expected in ((losses.leave_one_out, [1, -1]), (opo, [0.5, -0.5])):
    raw = apply(function, [[9, 3], [1, 0]], [[F, T], [T, T]], group_of_one="raw")
    np.testing.assert_allclose(raw, [[0, 3], expected])


@every
@pytest.mark.parametrize("shape", [(1, 1), (2, 3)])
def test_nothing_kept_is_zero(function, shape):
  np.testing.assert_array_equal(
      apply(function, np.full(shape, np.nan), np.zeros(shape, bool)), 0.0)


@every
def test_masked_nans_stay_out_of_values_and_gradients(function):
  scores, is_kept = random_groups()
  is_kept[0] = False
  with_nan = apply(function, np.where(is_kept, scores, np.nan), is_kept)
  np.testing.assert_array_equal(with_nan, apply(function, np.where(is_kept, scores, 5.0), is_kept))
  assert with_nan.dtype == np.float32 and not np.any(with_nan[~is_kept])
  planted = jnp.asarray(np.where(is_kept, scores, np.nan), jnp.float32)
  total = lambda x: jnp.sum(jnp.sin(function(x, jnp.asarray(is_kept))))
  gradient = jax.jit(jax.grad(total))(planted)
  np.testing.assert_array_equal(gradient, 0.0)


@every
def test_wider_groups_and_their_order_change_nothing(function):
  scores, is_kept = random_groups()
  narrow = apply(function, scores, is_kept)
  order = np.random.default_rng(1).permutation(6)
  np.testing.assert_allclose(
      apply(function, scores[:, order], is_kept[:, order]), narrow[:, order], atol=1e-5)
  wide = apply(function, np.pad(scores, ((0, 0), (2, 3)), constant_values=np.nan),
               np.pad(is_kept, ((0, 0), (2, 3))))
  np.testing.assert_allclose(wide[:, 2:8], narrow, atol=1e-5)


@pytest.mark.parametrize(
    "name", [name for name in ALL if name not in ("batch_normalized", "remax")])
def test_groups_do_not_see_each_other(name):
  scores, is_kept = random_groups()
  together = apply(ALL[name], scores, is_kept)
  for row in range(3):
    alone = apply(ALL[name], scores[row:row + 1], is_kept[row:row + 1])
    np.testing.assert_allclose(alone[0], together[row], atol=1e-6)


@pytest.mark.parametrize("name", [
    "group_normalized", "group_centered", "batch_normalized", "leave_one_out", "pass_at_k"])
def test_sum_over_a_group_is_zero(name):
  np.testing.assert_allclose(
      np.sum(apply(ALL[name], *random_groups()), axis=1), 0.0, atol=1e-5)


@pytest.mark.parametrize("name", [
    "group_normalized", "group_centered", "batch_normalized", "leave_one_out",
    "leave_one_out_normalized"])
def test_a_shift_of_all_scores_changes_nothing(name):
  scores, is_kept = random_groups()
  np.testing.assert_allclose(
      apply(ALL[name], scores + 10.0, is_kept), apply(ALL[name], scores, is_kept), atol=1e-4)


@pytest.mark.parametrize("name, power", [
    ("group_normalized", 0), ("batch_normalized", 0), ("group_centered", 1), ("leave_one_out", 1),
    ("no_baseline", 1)])
def test_a_scale_of_all_scores(name, power):
  scores, is_kept = random_groups()
  np.testing.assert_allclose(
      apply(ALL[name], 50.0 * scores, is_kept), 50.0**power * apply(ALL[name], scores, is_kept),
      rtol=1e-3, atol=1e-5)


def test_leave_one_out_is_group_centered_scaled_by_the_number_kept():
  scores, is_kept = random_groups()
  count = np.sum(is_kept, axis=1, keepdims=True)
  np.testing.assert_allclose(
      apply(losses.leave_one_out, scores, is_kept),
      count / (count - 1) * apply(losses.group_centered, scores, is_kept), atol=1e-5)


def test_normalisers_agree_on_a_batch_of_one_group():
  scores, is_kept = random_groups(prompts=1)
  np.testing.assert_allclose(
      apply(losses.batch_normalized, scores, is_kept, epsilon=1e-6),
      apply(losses.group_normalized, scores, is_kept), rtol=1e-5)


@pytest.mark.parametrize("size", [2, 4, 16])
def test_least_advantage_of_right_and_wrong(size):
  """Over all numbers of right ones: 1 / sqrt(G) normalised, 1 / G centred."""
  scores = np.arange(size)[None] < np.arange(size + 1)[:, None]
  least = lambda advantages: np.min(np.abs(advantages[advantages != 0]))
  np.testing.assert_allclose(
      least(apply(losses.group_normalized, scores, epsilon=0.0)), size**-0.5, rtol=1e-5)
  np.testing.assert_allclose(least(apply(losses.group_centered, scores)), 1 / size, rtol=1e-5)


# BANDIT: one prompt, one token out of three, so that a group of K has 3^K outcomes.
PROBABILITIES = np.array([0.5, 0.3, 0.2])
REWARDS = np.array([0.2, 1.0, -0.4])
# The gradient of log π(a) by the logits.
SCORE_FUNCTIONS = np.eye(3) - PROBABILITIES
TRUE_GRADIENT = PROBABILITIES * (REWARDS - PROBABILITIES @ REWARDS)


def gradient_moments(function, size):
  """Mean and summed variance of the gradient 1/K sum_i A_i grad log π(a_i), over all groups."""
  groups = np.array(list(itertools.product(range(3), repeat=size)))
  chances = np.prod(PROBABILITIES[groups], axis=1)
  advantages = apply(function, REWARDS[groups]).astype(np.float64)
  gradients = np.einsum("gk,gkv->gv", advantages, SCORE_FUNCTIONS[groups]) / size
  mean = chances @ gradients
  return mean, chances @ np.sum((gradients - mean) ** 2, axis=1)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("function, bias", [
    (losses.no_baseline, lambda size: 1.0),
    (lambda scores, is_kept: losses.remax(
        scores, is_kept, jnp.full(scores.shape[0], REWARDS[0])), lambda size: 1.0),
    (losses.leave_one_out, lambda size: float(size > 1)),
    (losses.group_centered, lambda size: (size - 1) / size),
], ids=["no_baseline", "remax", "leave_one_out", "group_centered"])
def test_expected_gradient_on_a_bandit(function, bias, size):
  """Exact but for a factor: a mean with the completion in it shrinks the gradient."""
  mean, _ = gradient_moments(function, size)
  np.testing.assert_allclose(mean, bias(size) * TRUE_GRADIENT, atol=1e-6)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_variance_of_leave_one_out_falls_with_the_size_of_the_group(size):
  """The gradient is the mean of h(a, b) = (r_a - r_b)(s_a - s_b) / 2 over pairs of completions.

  So its variance is 4 (K - 2) / (K (K - 1)) Var E[h | a] + 2 / (K (K - 1)) Var h (Hoeffding 1948):
  about 4 Var E[h | a] / K.
  """
  pairs = 0.5 * (REWARDS[:, None] - REWARDS)[..., None] * (
      SCORE_FUNCTIONS[:, None] - SCORE_FUNCTIONS)
  of_one = np.einsum("b,abv->av", PROBABILITIES, pairs)
  variance_of_one = PROBABILITIES @ np.sum((of_one - TRUE_GRADIENT) ** 2, axis=1)
  variance_of_pair = np.einsum(
      "a,b,abv->", PROBABILITIES, PROBABILITIES, (pairs - TRUE_GRADIENT) ** 2)
  expected = (4 * (size - 2) * variance_of_one + 2 * variance_of_pair) / (size * (size - 1))
  _, variance = gradient_moments(losses.leave_one_out, size)
  np.testing.assert_allclose(variance, expected, rtol=1e-4)
  _, variance_of_two = gradient_moments(losses.leave_one_out, 2)
  assert variance <= variance_of_two * 2 / size * (1 + 1e-6)


def test_max_rl_hand_worked():
  scores = jnp.array([[1.0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
  kept = jnp.ones(scores.shape, bool)
  expected = [[3, -1, -1, -1], [1 / 3, 1 / 3, 1 / 3, -1], [0] * 4, [0] * 4]
  np.testing.assert_allclose(losses.max_rl(scores, kept), expected, rtol=1e-6)
  expected[2] = [-1] * 4
  np.testing.assert_allclose(losses.max_rl(scores, kept, order="G"), expected, rtol=1e-6)
  # SkyRL: a mean of 1/4 + 1e-6, and the raw reward of a lone completion.
  found = losses.max_rl(scores[:1], kept[:1], epsilon=1e-6)
  np.testing.assert_allclose(found[0], [0.75 / 0.250001] + [-0.25 / 0.250001] * 3, rtol=1e-6)
  one = jnp.array([[2.0], [0.0]]), jnp.ones((2, 1), bool)
  assert losses.max_rl(*one).tolist() == [[0], [0]]
  assert losses.max_rl(*one, group_of_one="raw").tolist() == [[2], [0]]


def test_max_rl_leaves_out_what_has_no_score():
  scores, kept = jnp.array([[1.0, jnp.nan, 0.0]]), jnp.array([[True, False, True]])
  assert losses.max_rl(scores, kept).tolist() == [[1, 0, -1]]
  assert losses.max_rl(0 * scores, kept, order="G").tolist() == [[-1, 0, -1]]
  with pytest.raises(ValueError, match="order: got 'g', allowed: G-1, G"):
    losses.max_rl(scores, kept, order="g")


@pytest.mark.parametrize("function, expected", [
    (losses.no_baseline, 0.18750),
    (losses.leave_one_out, 0.18750),
    (losses.group_centered, 0.14062),  # 3/4 of it
    (lambda scores, kept: losses.group_normalized(scores, kept, ddof=0), 0.30844),
    (losses.max_rl, 0.43359),
    (lambda scores, kept: losses.max_rl(scores, kept, order="G"), 0.51270)])
def test_expected_gradients_of_a_bandit(function, expected):
  """Of the success logit, right with 1/4, over all 16 outcomes of a group of 4."""
  outcomes = np.float32([[i >> k & 1 for k in range(4)] for i in range(16)])
  chances = np.prod(np.where(outcomes, 0.25, 0.75), axis=1)
  advantages = function(jnp.asarray(outcomes), jnp.ones((16, 4), bool))
  found = np.sum(chances * np.mean(advantages * (outcomes - 0.25), axis=1))
  assert found == pytest.approx(expected, abs=2e-5)
  # (1 - p) - (1 - p)^n, n = 3 and 4.
  assert [0.75 - 0.75**4, 0.75 * (1 - 0.75**4)] == pytest.approx([0.43359, 0.51270], abs=1e-5)


ONE_EACH = jnp.ones(2)


def test_gdpo_hand_worked():
  """Two groups of two: rewards (0, 0) against (1, 0), and (0, 0) against (1, 1)."""
  parts = jnp.array([[[0.0, 0], [1, 0]], [[0, 0], [1, 1]]])
  kept = jnp.ones((2, 2), bool)
  plain = dict(epsilon=0.0, whiten="none")
  np.testing.assert_allclose(
      losses.gdpo(parts, ONE_EACH, kept, **plain),
      [[-0.70711, 0.70711], [-1.41421, 1.41421]], rtol=1e-5)
  both = losses.group_normalized(parts.sum(axis=-1), kept, epsilon=0.0)
  np.testing.assert_allclose(both, [[-0.70711, 0.70711]] * 2, rtol=1e-5)
  # Weights act after the scaling.
  np.testing.assert_allclose(
      losses.gdpo(parts, jnp.array([1.0, 0.1]), kept, **plain)[1], [-0.77782, 0.77782], rtol=1e-5)


def test_gdpo_of_a_dense_and_a_sparse_reward():
  parts = jnp.stack([jnp.array([[1.0, 0, 0, 0]]), jnp.array([[0.1, 0.2, 0.3, 0.4]])], axis=-1)
  kept = jnp.ones((1, 4), bool)
  of_sum = losses.group_normalized(parts.sum(axis=-1), kept, epsilon=0.0)
  np.testing.assert_allclose(of_sum[0], [1.46969, -0.73485, -0.48990, -0.24495], rtol=2e-5)
  found = losses.gdpo(parts, ONE_EACH, kept, epsilon=0.0, whiten="none")
  np.testing.assert_allclose(found[0], [0.33810, -0.88730, -0.11270, 0.66190], rtol=2e-5)
  found = losses.gdpo(parts, ONE_EACH, kept, epsilon=0.0)
  np.testing.assert_allclose(found[0], [0.50357, -1.32152, -0.16786, 0.98581], atol=1e-5)
  with pytest.raises(ValueError, match="whiten: got 'tokens', allowed: rows, none"):
    losses.gdpo(parts, ONE_EACH, kept, whiten="tokens")


def test_gdpo_leaves_out_what_has_no_score():
  parts = jnp.array([[[1.0, 0.5], [0, 0.5], [9, 9]]])
  kept = jnp.array([[True, True, False]])
  found = losses.gdpo(parts, ONE_EACH, kept, epsilon=0.0, whiten="none")
  np.testing.assert_allclose(found[0], [0.70711, -0.70711, 0], rtol=1e-5)  # .5 twice adds nothing


def test_which_of_them_are_always_zero():
  assert losses.is_always_zero(losses.max_rl, {}, 1) and losses.is_always_zero(losses.gdpo, {}, 1)
  assert not losses.is_always_zero(losses.max_rl, {"order": "G"}, 1)
  assert not losses.is_always_zero(losses.max_rl, {"group_of_one": "raw"}, 1)
  assert not losses.is_always_zero(losses.max_rl, {}, 2)
