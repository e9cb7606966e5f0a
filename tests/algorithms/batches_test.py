"""What methods make of a rollout: advantages and returns, worked by hand."""

import functools

import jax
import numpy as np

from tests.algorithms import tiny
from tests.algorithms.methods_test import (
    GREEDY, GROUP, LENGTHS, MASK, PRESETS, ROWS, SCORED, SCORES, compiled, make_outcome, on_tokens,
    policy, rollout)
from tests.algorithms.policy_gradient_test import assert_close, value


def made_rollout():
  """Rows of `LENGTHS`; the one of 6 tokens was truncated."""
  return rollout().replace(token_mask=MASK, action_mask=MASK, truncated=LENGTHS == tiny.COMPLETION)


@functools.cache
def made_scores():
  random = np.random.default_rng(1)
  draw = lambda scale: np.where(MASK, scale * random.normal(size=MASK.shape), 0).astype(np.float32)
  old = draw(1.0)
  return {"old_log_probs": old, "ref_log_probs": old + draw(0.5), "values": draw(1.0)}


KL = np.float64(made_scores()["old_log_probs"]) - made_scores()["ref_log_probs"]


def advantages_of(config, outcome=None):
  batch, _ = compiled(config).make_batch(
      (made_rollout(), made_scores(), outcome or make_outcome()),
      {"kl": np.float32(config.kl_coef)})
  return np.asarray(batch.advantages)


def to_go(rewards):
  return np.cumsum(np.where(MASK, rewards, 0)[:, ::-1], axis=1)[:, ::-1]


def leave_one_out(scores):
  """r less the mean of the other three of four."""
  groups = np.reshape(scores, (-1, GROUP))
  return (groups - (groups.sum(axis=1, keepdims=True) - groups) / 3).reshape(-1)


def whitened(x, mask):
  return np.where(mask, (x - x[mask].mean()) / np.sqrt(x[mask].var() + 1e-8), 0.0)


def test_every_token_of_a_row_has_the_advantage_of_its_row():
  # [1, 0, 0, 0]: mean 1/4, std 1/2. [0, 1, 1, 0]: mean 1/2, std sqrt(1/3).
  rows = [1.5, -0.5, -0.5, -0.5, -0.866025, 0.866025, 0.866025, -0.866025]
  np.testing.assert_allclose(advantages_of(PRESETS["grpo"]), on_tokens(rows), atol=1e-5)
  rows = np.array([0.75, -0.25, -0.25, -0.25, -0.5, 0.5, 0.5, -0.5])
  np.testing.assert_allclose(advantages_of(PRESETS["dr_grpo"]), on_tokens(rows), atol=1e-6)
  np.testing.assert_allclose(
      advantages_of(PRESETS["reinforce_plus_plus_baseline"]), whitened(on_tokens(rows), MASK),
      atol=1e-5)
  # Lengths 1, 6, 2, 4 and 3, 1, 5, 2 weigh the scores: baselines 1/13 and 6/11.
  rows = SCORES - np.repeat([1 / 13, 6 / 11], GROUP)
  np.testing.assert_allclose(advantages_of(PRESETS["opo"]), on_tokens(rows), atol=1e-6)


def test_the_kl_of_rloo_is_in_the_score():
  rows = leave_one_out(SCORES - 0.05 * KL.sum(axis=1))
  np.testing.assert_allclose(advantages_of(PRESETS["rloo"]), on_tokens(rows), atol=1e-5)


def test_t1_whitens_the_kl_of_its_completions():
  of_rows = whitened(KL.sum(axis=1), SCORED)
  np.testing.assert_allclose(
      advantages_of(PRESETS["t1"]), on_tokens(leave_one_out(SCORES - 0.05 * of_rows)), atol=1e-5)
  # Rows that could not be scored are not among those it is whitened over.
  is_scored = np.arange(ROWS) < GROUP
  rows = leave_one_out(SCORES[:GROUP] - 0.05 * whitened(KL[:GROUP].sum(axis=1), SCORED[:GROUP]))
  np.testing.assert_allclose(
      advantages_of(PRESETS["t1"], make_outcome(is_scored=is_scored)),
      on_tokens(np.pad(rows, (0, GROUP))), atol=1e-5)


def test_reinforce_plus_plus_whitens_over_tokens():
  rewards = on_tokens(SCORES) * (np.arange(tiny.COMPLETION) == LENGTHS[:, None] - 1) - 0.01 * KL
  np.testing.assert_allclose(
      advantages_of(PRESETS["reinforce_plus_plus"]), whitened(to_go(rewards), MASK), atol=1e-5)


def test_the_baseline_of_remax_is_the_greedy_score():
  expected = on_tokens(SCORES - GREEDY) - 0.05 * to_go(KL)
  np.testing.assert_allclose(advantages_of(PRESETS["remax"]), expected, atol=1e-5)


def test_two_lambdas():
  """VAPO: the critic learns Monte Carlo returns, the policy's λ is 1 - 1 / (α l), 0 at least."""
  config = tiny.replace(PRESETS["vapo"], length_adaptive_alpha=0.5, whiten_advantages=False)
  batch, _ = compiled(config).make_batch(
      (made_rollout(), made_scores(), make_outcome()), {"kl": np.float32(0.0)})
  np.testing.assert_allclose(batch.returns, on_tokens(SCORES), atol=1e-5)
  values, expected = made_scores()["values"], np.zeros(MASK.shape)
  for row, length in enumerate(LENGTHS):
    advantage, following = 0.0, 0.0
    for t in reversed(range(length)):
      delta = SCORES[row] * (t == length - 1) + following - values[row, t]
      advantage = delta + max(0.0, 1 - 2 / length) * advantage
      expected[row, t], following = advantage, values[row, t]
  np.testing.assert_allclose(batch.advantages, expected, atol=1e-5)
  # α = .05: 20 tokens or fewer have a λ of 0, which is one step.
  short = advantages_of(tiny.replace(PRESETS["vapo"], whiten_advantages=False))
  np.testing.assert_allclose(short[1, :-1], values[1, 1:] - values[1, :-1], atol=1e-6)


def test_rows_cut_off_are_not_trained_on_but_count_in_their_group():
  batch, metrics = compiled(PRESETS["dapo"]).make_batch(
      (made_rollout(), made_scores(), make_outcome(np.float32([0, 1, 0, 0] * 2))),
      {"kl": np.float32(0.0)})
  np.testing.assert_array_equal(batch.loss_mask, MASK & (LENGTHS != tiny.COMPLETION)[:, None])
  assert batch.counted_mask is None
  np.testing.assert_allclose(batch.advantages[:, 0], [-0.5, 1.5, -0.5, -0.5] * 2, atol=1e-5)
  assert value(metrics, "rollout/trained_fraction") == 7 / 8


# Truncated completions, and their values.


@functools.cache
def values_with_last(critic):
  config = tiny.replace(
      tiny.BASE, critic=critic, bootstrap_truncated=True, whiten_advantages=False, discount=0.9,
      gae_lambda=1.0)
  algorithm = compiled(config)
  models_of = {"params": algorithm.init(policy()).params, "reference": None}
  scores = algorithm.score(models_of, rollout(), None)
  return algorithm, models_of, jax.device_get(scores)


def test_the_value_after_the_last_token_is_that_before_the_next():
  algorithm, models_of, scores = values_with_last("shared")
  longer = rollout().replace(
      completion_tokens=np.pad(rollout().completion_tokens, ((0, 0), (0, 1)), constant_values=3),
      token_mask=np.pad(rollout().token_mask, ((0, 0), (0, 1)), constant_values=True))
  values = np.asarray(algorithm.score(models_of, longer, None)["values"])
  np.testing.assert_allclose(scores["values"], values[:, :-1], atol=1e-5)
  np.testing.assert_allclose(scores["values"][rollout().token_mask],
                             rollout().values[rollout().token_mask], atol=1e-5)
  np.testing.assert_allclose(
      scores["last_values"], np.where(rollout().truncated, values[:, -1], 0.0), atol=1e-5)
  assert np.abs(scores["last_values"]).max() > 0.1


def test_critics_of_equal_parameters_say_the_same():
  assert_close(values_with_last("shared")[2], values_with_last("separate")[2])


def test_a_row_cut_off_is_worth_its_last_value_besides():
  algorithm, _, scores = values_with_last("shared")
  batch, _ = algorithm.make_batch((rollout(), scores, make_outcome()), {"kl": np.float32(0.0)})
  plain, _ = compiled(tiny.replace(algorithm.config, bootstrap_truncated=False)).make_batch(
      (rollout(), {name: x for name, x in scores.items() if name != "last_values"},
       make_outcome()), {"kl": np.float32(0.0)})
  mask = rollout().token_mask
  # λ = 1: the returns are discounted sums, with V after the last token.
  ahead = mask.sum(axis=1, keepdims=True) - np.arange(mask.shape[1])
  more = np.where(mask, 0.9**ahead * scores["last_values"][:, None], 0.0)
  np.testing.assert_allclose(batch.returns, plain.returns + more, atol=1e-5)
  np.testing.assert_allclose(batch.advantages, plain.advantages + more, atol=1e-5)
