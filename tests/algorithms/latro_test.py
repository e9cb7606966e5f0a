"""LaTRO: scores worked by hand, and its gradient beside the exact one of a small problem."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import models
from rlreason.algorithms import init_rl_params, policy_gradient, presets
from rlreason.parallel import ALONE
from rlreason.types import Outcome, Rollout
from tests.algorithms import tiny
from tests.algorithms.policy_gradient_test import value

WORDS, DRAWS, GROUP, BETA = 6, 8192, 16, 0.25
PROMPT, ANSWER = 2, (3, 5)
MODEL = tiny.replace(tiny.MODEL, vocab_size=WORDS)
F, T = False, True


def test_scores_hand_worked():
  """Scores are log π(y | x, z) - β Σ KL over z, twice their mean where z was truncated.

  Of two groups of two: rows of 1, 2, 1 and 3 tokens of reasoning, then two of the answer; the last
  row was truncated, and has none.
  """
  lengths, is_answer = np.array([3, 4, 3, 3]), np.array([
      [F, T, T, F], [F, F, T, T], [F, T, T, F], [F, F, F, F]])
  mask = np.arange(4) < lengths[:, None]
  old = np.float32([[-1, -0.5, -0.25, 9], [-1, -1, -2, -1], [-2, -0.1, -0.1, 9], [-1, -2, -3, 9]])
  gap = np.float32([[0.4, 7, 7, 9], [0.2, -0.6, 7, 7], [0, 7, 7, 9], [1.0, 1.0, 0.4, 9]])
  rollout = Rollout(
      prompt_tokens=np.ones((4, 1), np.int32), prompt_mask=np.ones((4, 1), bool),
      completion_tokens=np.ones((4, 4), np.int32), token_mask=mask,
      action_mask=mask & ~is_answer, log_probs=old, values=None,
      truncated=np.array([F, F, F, T]))
  algorithm = policy_gradient(
      presets.latro(minibatch_size=4, kl_coef=BETA), MODEL, optax.sgd(1.0), temperature=1.0,
      group_size=2, has_answers=True)
  batch, metrics = algorithm.make_batch(
      (rollout, {"old_log_probs": old, "ref_log_probs": old - gap},
       Outcome(np.zeros(4, np.float32), np.ones(4, bool))), {"kl": jnp.float32(BETA)})
  # -.75 - β .4 = -.85, -3 + β .4 = -2.9, -.2, and -β 2.4 = -.6 with a mean of -1.1375: -2.275.
  advantages = np.array([2.05, -2.05, 2.075, -2.075])
  reasoning = mask & ~is_answer
  np.testing.assert_allclose(
      batch.advantages, np.where(reasoning, advantages[:, None], 0.0), atol=1e-5)
  np.testing.assert_array_equal(batch.loss_mask, reasoning)
  np.testing.assert_array_equal(batch.nll_mask, is_answer)
  assert value(metrics, "reward/answer_log_prob") == pytest.approx((-0.75 - 3 - 0.2) / 3)


def test_the_mean_probability_of_the_answer_is_the_score():
  """Answers of (.9, .5, .7) and (.9, .01, .7) after one token, no answer, and a reward too."""
  chances = np.array(
      [[0.3, 0.9, 0.5, 0.7], [0.3, 0.9, 0.01, 0.7], [0.3] * 4, [0.3, 0.2, 0.2, 0.2]])
  is_answer = np.array([[F, T, T, T], [F, T, T, T], [F] * 4, [F, T, T, T]])
  old = np.float32(np.log(chances))
  rollout = Rollout(
      prompt_tokens=np.ones((4, 1), np.int32), prompt_mask=np.ones((4, 1), bool),
      completion_tokens=np.ones((4, 4), np.int32), token_mask=np.ones((4, 4), bool),
      action_mask=~is_answer, log_probs=old, values=None, truncated=np.array([F, F, T, F]))
  config = tiny.replace(presets.rlpr(minibatch_size=4), advantage=presets.dr_grpo(
      max_length=1).advantage)
  algorithm = policy_gradient(
      config, MODEL, optax.sgd(1.0), temperature=1.0, group_size=2, has_answers=True)
  batch, metrics = algorithm.make_batch(
      (rollout, {"old_log_probs": old}, Outcome(np.float32([0, 0, 0, 0.1]), np.ones(4, bool))),
      {"kl": jnp.float32(0)})
  half = (0.7 - 0.53667) / 2
  np.testing.assert_allclose(batch.advantages[:, 0], [half, -half, -0.15, 0.15], atol=1e-5)
  np.testing.assert_array_equal(batch.loss_mask, ~is_answer)
  assert batch.nll_mask is None
  assert value(metrics, "reward/answer_prob") == pytest.approx((0.7 + 1.61 / 3 + 0 + 0.2) / 4)


@jax.jit
def sequence_log_probs(policy):
  """log π(z) f32[V] and log π(y | z) f32[V] of every reasoning of one word."""
  rows = np.array([[PROMPT, z, *ANSWER] for z in range(WORDS)], np.int32)
  hidden = models.forward(MODEL, policy, rows, np.ones(rows.shape, bool))
  log_probs = jax.nn.log_softmax(models.logits(MODEL, policy, hidden))
  of_token = jnp.take_along_axis(log_probs[:, :-1], rows[:, 1:, None], axis=-1)[..., 0]
  return of_token[:, 0], jnp.sum(of_token[:, 1:], axis=1)


def objective(policy, reference):
  """E_z [log π(y | x, z)] - β KL(π(z | x) || π_0(z | x)), eq. (4), by enumeration."""
  of_reasoning, of_answer = sequence_log_probs(policy)
  of_reference, _ = sequence_log_probs(reference)
  return jnp.sum(jnp.exp(of_reasoning) * (of_answer - BETA * (of_reasoning - of_reference)))


def draw(policy, seed):
  """`DRAWS` reasonings of one word, each with the answer after it."""
  of_reasoning = np.asarray(sequence_log_probs(policy)[0], np.float64)
  shares = np.exp(of_reasoning) / np.exp(of_reasoning).sum()
  words = np.random.default_rng(seed).choice(WORDS, DRAWS, p=shares)
  tokens = np.concatenate([words[:, None], np.tile(ANSWER, (DRAWS, 1))], axis=1).astype(np.int32)
  return Rollout(
      prompt_tokens=np.full((DRAWS, 1), PROMPT, np.int32), prompt_mask=np.ones((DRAWS, 1), bool),
      completion_tokens=tokens, token_mask=np.ones((DRAWS, 3), bool),
      action_mask=np.tile(np.array([T, F, F]), (DRAWS, 1)),
      log_probs=np.float32(np.where(np.arange(3) == 0, of_reasoning[words][:, None], 0.0)),
      values=None, truncated=np.zeros(DRAWS, bool))


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_gradient_is_that_of_the_objective():
  policy, reference = tiny.random_params(MODEL), tiny.random_params(MODEL, seed=1)
  config = presets.latro(minibatch_size=DRAWS, kl_coef=BETA, share_prompts=False)
  algorithm = policy_gradient(
      config, MODEL, optax.sgd(1.0), temperature=1.0, group_size=GROUP, has_answers=True)
  state = algorithm.init(init_rl_params(config, MODEL, policy))
  rollout = draw(policy, seed=0)
  scores = jax.jit(algorithm.score)({"params": state.params, "reference": reference}, rollout, None)
  batch, metrics = jax.jit(algorithm.make_batch)(
      (rollout, scores, Outcome(np.zeros(DRAWS, np.float32), np.ones(DRAWS, bool))),
      {"kl": jnp.float32(BETA)})
  of_groups = np.asarray(batch.advantages)[:, 0].reshape(-1, GROUP)
  np.testing.assert_allclose(of_groups.sum(axis=1), 0.0, atol=1e-4)
  after, _ = jax.jit(functools.partial(algorithm.update_step, replicas=ALONE))(
      state, batch, jax.random.key(0))
  found = flat(jax.tree.map(lambda x, y: np.asarray(x) - y, after.params["policy"], policy))
  exact = flat(jax.jit(jax.grad(objective))(policy, reference))
  cosine = found @ exact / np.linalg.norm(found) / np.linalg.norm(exact)
  assert cosine > 0.99
  assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(exact), rel=0.1)
  # Jensen: what is raised is at most the likelihood of the answer, summed over all reasoning.
  of_reasoning, of_answer = sequence_log_probs(policy)
  bound = float(jax.nn.logsumexp(of_reasoning + of_answer))
  mean = value(metrics, "reward/answer_log_prob")
  assert mean == pytest.approx(float(jnp.sum(jnp.exp(of_reasoning) * of_answer)), abs=0.05)
  assert mean < bound
