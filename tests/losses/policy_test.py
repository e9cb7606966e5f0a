"""Policy losses: where their gradients are zero, what they are, and where methods are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses, masks

# One prompt, one token, six actions: probabilities, ratios to the old policy, advantages. Every
# gradient is coef * (one-hot - probabilities).
P = jnp.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.1])
RATIOS = jnp.array([1.5, 1.5, 0.5, 0.5, 1.1, 4.0])
A = jnp.array([[1.0], [-1.0], [1.0], [-1.0], [2.0], [-1.0]])
OLD = jnp.log(P / RATIOS)[:, None]
SAMPLER = OLD - jnp.log(jnp.array([2.0, 0.5, 2.0, 0.5, 1.0, 3.0]))[:, None]  # π_old / π_sampler
ONE = jnp.ones((6, 1), bool)
SELECTED = jnp.array([[True], [True], [True], [False], [False], [False]])
CLIP = dict(clip_low=0.2, clip_high=0.2)

BANDIT = {
    "reinforce": (lambda x: losses.reinforce(x, A), [-1, 1, -1, 1, -2, 1]),
    "clipped": (lambda x: losses.clipped_surrogate(x, OLD, A), [0, 1.5, -0.5, 0, -2.2, 4]),
    "dual clip": (
        lambda x: losses.clipped_surrogate(x, OLD, A, dual_clip=3.0), [0, 1.5, -0.5, 0, -2.2, 0]),
    "gspo": (lambda x: losses.gspo(x, OLD, A, ONE, **CLIP), [0, 1.5, -0.5, 0, -2.2, 4]),
    "gspo token": (
        lambda x: losses.gspo_token(x, OLD, A, ONE, **CLIP), [0, 1.5, -0.5, 0, -2.2, 4]),
    "cispo": (lambda x: losses.cispo(x, OLD, A, **CLIP), [-1.2, 1.2, -0.8, 0.8, -2.2, 1.2]),
    "cispo, no lower bound": (
        lambda x: losses.cispo(x, OLD, A, clip_high=0.2), [-1.2, 1.2, -0.5, 0.5, -2.2, 1.2]),
    "decoupled": (
        lambda x: losses.decoupled_surrogate(x, OLD, SAMPLER, A), [0, 0.75, -1, 0, -2.2, 12]),
    "decoupled, capped": (
        lambda x: losses.decoupled_surrogate(x, OLD, SAMPLER, A, cap=2.0),
        [0, 0.75, -1, 0, -2.2, 8]),
    "clip-cov": (
        lambda x: losses.clip_cov(x, OLD, A, SELECTED, **CLIP), [0, 0, 0, 0, -2.2, 4]),
    "kl-cov": (  # -A ρ + 0.5 sign(log ρ) where selected
        lambda x: losses.kl_cov(x, OLD, A, SELECTED, kl_coef=0.5), [-1, 2, -1, 0.5, -2.2, 4]),
}


@pytest.mark.parametrize("name", BANDIT)
def test_gradient_on_a_bandit(name):
  function, coefs = BANDIT[name]
  jacobian = jax.jacobian(lambda x: function(jax.nn.log_softmax(x)[:, None])[:, 0])(jnp.log(P))
  np.testing.assert_allclose(
      jacobian, jnp.array(coefs)[:, None] * (jnp.eye(6) - P[None]), rtol=1e-5, atol=1e-6)


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


def test_only_tokens_beyond_a_bound_and_moving_away_lose_their_gradient():
  key_ratio, key_advantage = jax.random.split(jax.random.key(1))
  ratio = jax.random.uniform(key_ratio, (4, 50), minval=0.5, maxval=1.5)
  advantages = jax.random.normal(key_advantage, (4, 50))
  clip = dict(clip_low=0.1, clip_high=0.3)
  zero = jnp.zeros((4, 50))
  gradients = jax.grad(lambda x: jnp.sum(
      losses.clipped_surrogate(x, zero, advantages, **clip)))(jnp.log(ratio))
  low, high = (ratio < 0.9) & (advantages < 0), (ratio > 1.3) & (advantages > 0)
  np.testing.assert_array_equal(np.asarray(gradients) == 0, low | high)
  assert low.any() and high.any() and not (low & high).any()


def make_batch(seed, shape=(4, 6), spread=0.2, one_advantage=True):
  """Log-probs, old log-probs, advantages and a mask with rows of 0 to all tokens."""
  keys = jax.random.split(jax.random.key(seed), 3)
  old = -jax.random.exponential(keys[0], shape)
  log_probs = old + spread * jax.random.normal(keys[1], shape)
  advantages = jax.random.normal(keys[2], (shape[0], 1 if one_advantage else shape[1]))
  mask = jnp.arange(shape[1])[None] < (jnp.arange(shape[0])[:, None] * 2)
  return log_probs, old, jnp.broadcast_to(advantages, shape), mask


def test_dual_clip_hand_worked():
  values = {  # (ratio, advantage) -> loss with c = 3
      (4.0, -1.0): 3.0, (2.0, -1.0): 2.0, (4.0, -2.0): 6.0, (0.5, -1.0): 0.8, (4.0, 1.0): -1.2}
  for (ratio, advantage), expected in values.items():
    loss = surrogate(jnp.log(ratio), advantage, dual_clip=3.0)
    assert float(loss) == pytest.approx(expected, rel=1e-5), (ratio, advantage)


def test_dual_clip_far_away_is_none():
  log_probs, old, advantages, _ = make_batch(2)
  np.testing.assert_array_equal(
      losses.clipped_surrogate(log_probs, old, advantages, dual_clip=1e6),
      losses.clipped_surrogate(log_probs, old, advantages))


@pytest.mark.parametrize("dual_clip", [1.0, 0.5])
def test_dual_clip_names_what_is_allowed(dual_clip):
  with pytest.raises(ValueError, match=f"dual_clip: got {dual_clip}, allowed: above 1, or None"):
    surrogate(0.0, 1.0, dual_clip=dual_clip)


def test_log_ratios_are_held_at_their_bound():
  held = lambda log_prob: surrogate(log_prob, -1.0, max_log_ratio=2.0)
  assert float(held(5.0)) == pytest.approx(np.exp(2.0), rel=1e-6)
  assert float(held(1.0)) == pytest.approx(np.e, rel=1e-6)
  assert float(jax.grad(held)(5.0)) == 0.0
  with pytest.raises(ValueError, match="max_log_ratio: got 90.0, allowed: above 0, at most 80"):
    surrogate(0.0, 1.0, max_log_ratio=90.0)


def test_gspo_hand_worked():
  # Log-ratios 0.3 and 0.1 have the mean 0.2, s = 1.2214, above 1 + 0.1.
  log_probs, mask = jnp.array([[0.3, 0.1, 9.0]]), jnp.array([[True, True, False]])
  values = {2.0: -2.2, -2.0: 2.0 * float(np.exp(0.2))}
  for advantage, expected in values.items():
    arguments = (log_probs, jnp.zeros((1, 3)), jnp.full((1, 3), advantage), mask)
    for function in (losses.gspo, losses.gspo_token):
      np.testing.assert_allclose(
          function(*arguments, clip_low=0.1, clip_high=0.1), [[expected, expected, 0.0]],
          rtol=1e-6)


def sequence_loss(function, log_probs, *arrays, **options):
  weights = masks.token_weights(arrays[-1], "sequence-mean")
  return jnp.sum(weights * function(log_probs, *arrays, **options))


def without_mask(function):
  return lambda log_probs, old, advantages, mask, **options: function(
      log_probs, old, advantages, **options)


def test_gspo_does_not_see_the_order_of_ratios():
  log_probs, old, advantages, mask = make_batch(3, (2, 5))
  mask = jnp.ones_like(mask)
  order = jnp.array([3, 0, 4, 1, 2])
  loss = losses.gspo(log_probs, old, advantages, mask)
  permuted = losses.gspo(log_probs[:, order], old[:, order], advantages, mask)
  np.testing.assert_allclose(permuted, loss, rtol=1e-6)
  np.testing.assert_allclose(loss, jnp.broadcast_to(loss[:, :1], (2, 5)))


def test_gspo_gradient_off_policy_in_closed_form():
  # -A s / (tokens of the row * rows) at every token, with bounds out of reach.
  log_probs, old, advantages, mask = make_batch(4)
  lengths = jnp.sum(mask, axis=1, keepdims=True)
  ratios = jnp.exp(masks.masked_mean(log_probs - old, mask, axis=1)[:, None])
  expected = masks.zero_masked(-advantages * ratios / (jnp.maximum(lengths, 1) * 3), mask)
  for function in (losses.gspo, losses.gspo_token):
    gradient = jax.grad(sequence_loss, 1)(
        function, log_probs, old, advantages, mask, clip_low=1.0, clip_high=1e9)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_gspo_token_is_gspo_with_one_advantage_per_row():
  log_probs, old, advantages, mask = make_batch(5)
  clip = dict(clip_low=0.05, clip_high=0.05)
  both = [jax.value_and_grad(sequence_loss, 1)(
      function, log_probs, old, advantages, mask, **clip)
          for function in (losses.gspo, losses.gspo_token)]
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), *both)
  gradient = np.asarray(both[0][1])
  assert np.any(gradient == 0, axis=1).any() and np.any(gradient != 0)


def test_gspo_token_gives_each_token_its_advantage():
  log_probs, old, advantages, mask = make_batch(6, one_advantage=False)
  ratios = jnp.exp(masks.masked_mean(log_probs - old, mask, axis=1)[:, None])
  gradient = jax.grad(lambda x: jnp.sum(losses.gspo_token(
      x, old, advantages, mask, clip_low=1.0, clip_high=1e9)))(log_probs)
  np.testing.assert_allclose(gradient, masks.zero_masked(-advantages * ratios, mask), rtol=1e-5)


def test_on_policy_all_are_the_plain_policy_gradient():
  old, _, advantages, mask = make_batch(7)
  expected = jax.grad(sequence_loss, 1)(
      lambda x, advantages, _: losses.reinforce(x, advantages), old, advantages, mask)
  selected = mask & (jnp.arange(6) % 2 == 0)[None]
  clip = dict(clip_low=0.2, clip_high=0.2)
  functions = {
      "clipped": without_mask(losses.clipped_surrogate),
      "gspo": losses.gspo, "gspo_token": losses.gspo_token,
      "cispo": lambda *x: without_mask(losses.cispo)(*x, clip_high=float("inf")),
      "decoupled": lambda x, old, a, _: losses.decoupled_surrogate(x, old, old, a),
      "clip_cov": lambda x, old, a, _: losses.clip_cov(x, old, a, jnp.zeros_like(mask), **clip),
      "kl_cov": lambda x, old, a, _: losses.kl_cov(x, old, a, selected),  # |x| is flat at 0
  }
  for name, function in functions.items():
    gradient = jax.grad(sequence_loss, 1)(function, old, old, advantages, mask)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7, err_msg=name)


def test_rounding_is_no_distance_to_kl_cov():
  """Two programs differ by so much on a token whose policy has not moved."""
  old, selected = jnp.zeros((1, 4)), jnp.ones((1, 4), bool)
  loss = lambda x: jnp.sum(losses.kl_cov(x, old, old, selected, kl_coef=0.5))
  moved = jnp.array([[1e-6, -1e-6, 1e-4, -1e-4]])
  np.testing.assert_allclose(jax.grad(loss)(moved), [[0, 0, 0.5, -0.5]])
  np.testing.assert_allclose(loss(moved), 1e-4, rtol=1e-6)


def test_gspo_of_rows_of_one_token_is_the_clipped_surrogate():
  log_probs, old, advantages, _ = make_batch(8, (20, 1))
  mask = jnp.ones((20, 1), bool)
  expected = losses.clipped_surrogate(log_probs, old, advantages)
  for function in (losses.gspo, losses.gspo_token):
    np.testing.assert_allclose(
        function(log_probs, old, advantages, mask, clip_low=0.2, clip_high=0.2), expected,
        rtol=1e-6)


def test_cispo_keeps_the_gradient_of_every_token():
  log_probs, old, advantages, _ = make_batch(9, (4, 50), spread=2.0)
  gradients = [jax.grad(lambda x, f=f: jnp.sum(f(x, old, advantages, **CLIP)))(log_probs)
               for f in (losses.cispo, losses.clipped_surrogate)]
  assert np.all(gradients[0] != 0) and np.any(gradients[1] == 0)


def test_cispo_without_bounds_is_importance_weighting():
  log_probs, old, advantages, _ = make_batch(10)
  wide = dict(clip_low=1.0, clip_high=float("inf"))
  gradients = [jax.grad(lambda x, f=f: jnp.sum(f(x, old, advantages, **wide)))(log_probs)
               for f in (losses.cispo, losses.clipped_surrogate)]
  np.testing.assert_allclose(*gradients, rtol=1e-5)


def test_decoupled_surrogate_of_the_sampler_itself_is_the_clipped_surrogate():
  log_probs, old, advantages, _ = make_batch(11)
  np.testing.assert_array_equal(
      losses.decoupled_surrogate(log_probs, old, old, advantages, cap=1.0),
      losses.clipped_surrogate(log_probs, old, advantages))


def test_decoupled_surrogate_is_a_corrected_clipped_surrogate():
  log_probs, old, advantages, _ = make_batch(12)
  sampler = old + 0.5 * jnp.cos(7 * old)
  everything = jnp.ones(old.shape, bool)
  surrogate_loss = losses.clipped_surrogate(log_probs, old, advantages)
  corrected = losses.truncated_importance(old, sampler, everything, cap=1.2) * surrogate_loss
  np.testing.assert_allclose(
      losses.decoupled_surrogate(log_probs, old, sampler, advantages, cap=1.2), corrected,
      rtol=1e-6)


@pytest.mark.parametrize("function", [losses.gspo, losses.gspo_token])
def test_nan_at_masked_positions_does_not_leak(function):
  *arrays, mask = make_batch(13)
  assert not mask[0].any()  # a row without tokens
  planted = [jnp.where(mask, x, jnp.nan) for x in arrays]
  results = [jax.value_and_grad(sequence_loss, 1)(function, *x, mask) for x in (arrays, planted)]
  jax.tree.map(np.testing.assert_array_equal, *results)
  assert np.all(np.asarray(results[1][1])[~np.asarray(mask)] == 0)
  nothing = jnp.zeros_like(mask)
  np.testing.assert_array_equal(function(*planted, nothing), 0.0)
  gradient = jax.grad(lambda x: jnp.sum(function(x, *planted[1:], nothing)))(planted[0])
  np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("function", [losses.gspo, losses.gspo_token])
def test_padding_wider_changes_nothing(function):
  *arrays, mask = make_batch(14)
  pad = lambda x: jnp.pad(x, ((1, 2), (3, 1)))
  loss = function(*arrays, mask)
  np.testing.assert_allclose(
      function(*map(pad, arrays), pad(mask)), pad(loss), rtol=1e-6)


@pytest.mark.parametrize("log_ratio", [-1000.0, 1000.0])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_extreme_ratios_stay_finite(log_ratio, advantage):
  zero, mask = jnp.zeros((1, 1)), jnp.ones((1, 1), bool)
  advantages = jnp.full((1, 1), advantage)
  for name, function in {
      "clipped": lambda x: losses.clipped_surrogate(x, zero, advantages),
      "dual": lambda x: losses.clipped_surrogate(x, zero, advantages, dual_clip=3.0),
      "gspo": lambda x: losses.gspo(x, zero, advantages, mask),
      "gspo_token": lambda x: losses.gspo_token(x, zero, advantages, mask),
      "cispo": lambda x: losses.cispo(x, zero, advantages, clip_high=4.0),
      "decoupled": lambda x: losses.decoupled_surrogate(
          x, zero, zero - 1000.0, advantages, cap=2.0),
      "kl_cov": lambda x: losses.kl_cov(x, zero, advantages, mask),
  }.items():
    value, slope = jax.value_and_grad(lambda x, f=function: jnp.sum(f(x)))(zero + log_ratio)
    assert np.isfinite(value) and np.isfinite(slope).all(), name
