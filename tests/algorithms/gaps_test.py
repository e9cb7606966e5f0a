"""Completions with given tokens between the policy's own: only actions are trained on."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import losses, masks
from rlreason.algorithms import PolicyGradientConfig
from rlreason.algorithms.policy_gradient import loss as loss_lib, scoring
from rlreason.algorithms.policy_gradient.batch import make_batch
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.slots import Slot
from rlreason.training.stages.rl import Planner
from rlreason.types import Outcome, Rollout, RolloutBatch
from tests.algorithms import tiny

ROWS, COLUMNS, GROUP = 8, 6, 2
LENGTHS = np.array([6, 4, 6, 1, 0, 5, 6, 3])
TOKENS = np.arange(COLUMNS) < LENGTHS[:, None]
# Of the six columns, those that the policy chose.
ACTIONS = {
    "none given": "111111", "at the start": "001111", "in the middle": "110011",
    "at the end": "111100", "two": "011010", "all": "000000"}
CONFIG = PolicyGradientConfig(
    minibatch_size=ROWS, critic="none", aggregation="token-sum", entropy_coef=0.01, kl_coef=0.1,
    kl_placement="loss", kl_estimator="k3", advantage=Slot(losses.group_centered))


def action_mask(name):
  """bool[B, T]; another pattern in every second row, so that those of a group differ."""
  pattern = np.array([digit == "1" for digit in ACTIONS[name]])
  return TOKENS & np.where(np.arange(ROWS)[:, None] % 4 == 3, pattern[::-1], pattern)


def make_rollout(actions):
  random, prompts = np.random.default_rng(3), tiny.make_prompts(ROWS // GROUP)
  tokens = np.where(TOKENS, random.integers(2, tiny.MODEL.vocab_size, TOKENS.shape), 0)
  return Rollout(
      prompt_tokens=np.repeat(prompts.tokens, GROUP, axis=0),
      prompt_mask=np.repeat(prompts.mask, GROUP, axis=0),
      completion_tokens=tokens.astype(np.int32), token_mask=TOKENS, action_mask=actions,
      log_probs=np.where(actions, -1.5, 0).astype(np.float32), values=None,
      truncated=LENGTHS == COLUMNS)


OUTCOME = Outcome(
    np.float32([1, 0, 0.5, 2, 1, 0, 0, 3]), np.array([True] * 6 + [False, True]),
    np.arange(ROWS) % 2 == 0)


# The load of experts counts every token, including given ones.
EXPERTS = tiny.replace(tiny.MODEL, num_experts=4, experts_per_token=2, balance_coef=0.5)


@functools.cache
def compiled(model=tiny.MODEL):
  return tiny.Compiled(CONFIG, 1.0, optax.sgd(0.1), GROUP, model)


def batch_of(algorithm, rollout, plan=None):
  """The state before, the scores and the batch of a rollout."""
  state = algorithm.init(tiny.random_params(algorithm.model))
  models_of = {"params": state.params, "reference": tiny.random_params(algorithm.model, seed=1)}
  scores = algorithm.score(models_of, rollout, plan)
  return state, scores, algorithm.make_batch((rollout, scores, OUTCOME), state.coefs)[0]


def assert_trees_close(a, b, atol=1e-6):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=1e-5), a, b)


def test_lengths_by_hand():
  mask = np.array([[1, 1, 0, 0, 1, 1, 0], [0] * 7, [0, 1, 0, 0, 0, 0, 0], [1] * 7], bool)
  for array in (mask, jnp.asarray(mask)):
    assert masks.lengths(array).tolist() == [6, 0, 2, 7]
    assert masks.before_end(array).sum(axis=1).tolist() == [6, 0, 2, 7]
  assert masks.lengths(np.zeros((2, 0), bool)).tolist() == [0, 0]


@pytest.mark.parametrize("name, model", [
    *((name, tiny.MODEL) for name in ACTIONS), ("in the middle", EXPERTS), ("two", EXPERTS)])
def test_packed_rows_with_gaps_are_as_rows_of_their_own(name, model):
  """Scores, and the gradient of the whole model, which is what gradient descent changes."""
  algorithm, rollout = compiled(model), make_rollout(action_mask(name))
  planner = Planner(CONFIG, GROUP, make_layout(ParallelConfig(data=1)))
  state, scores, batch = batch_of(algorithm, rollout)
  _, packed_scores, packed = batch_of(algorithm, rollout, planner.of_rollout(rollout))
  assert_trees_close(*(jax.tree.map(lambda x: np.where(TOKENS, x, 0), x)
                       for x in (scores, packed_scores)), atol=2e-5)
  key = jax.random.key(0)
  plan = planner.of_update(planner.order(len(TOKENS), key), rollout, OUTCOME.is_scored, packed)
  assert plan is not None
  alone, _ = algorithm.update_step(state, batch, key)
  shared, _ = algorithm.update_step(state, packed.replace(plan=plan), key)
  assert_trees_close(alone.params, shared.params, atol=2e-5)
  if name == "all":
    assert_trees_close(alone.params, state.params, atol=0)


def test_the_value_of_a_truncated_row_is_of_the_state_after_its_last_token():
  """Also where that was given, as the output of a tool is: a mask of actions changes no value."""
  config = tiny.replace(tiny.BASE, bootstrap_truncated=True)
  algorithm = tiny.Compiled(config, 1.0, optax.sgd(0.1), GROUP)
  state = algorithm.init(tiny.random_params())
  scores = [algorithm.score({"params": state.params, "reference": None}, make_rollout(
      action_mask(name)), None) for name in ("none given", "at the end")]
  assert np.any(scores[0]["last_values"])
  assert_trees_close(scores[0]["last_values"], scores[1]["last_values"], atol=0)


def turns_of(rollout, batch):
  """Every run of actions as a row whose prompt is everything before it, as `RolloutBatch`."""
  rows = []
  for i, row in enumerate(batch.loss_mask):
    edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]])))
    prompt = rollout.prompt_tokens[i][rollout.prompt_mask[i]]
    rows += [(np.concatenate([prompt, rollout.completion_tokens[i, :start]]), i, start, end)
             for start, end in zip(edges[::2], edges[1::2], strict=True)]
  width = max(len(prompt) for prompt, *_ in rows)
  tokens, mask = np.zeros((2, len(rows), width), np.int32)
  for j, (prompt, *_) in enumerate(rows):
    tokens[j, width - len(prompt):], mask[j, width - len(prompt):] = prompt, 1

  def of_turns(x):
    made = np.zeros((len(rows), COLUMNS), x.dtype)
    for j, (_, i, start, end) in enumerate(rows):
      made[j, :end - start] = x[i, start:end]
    return made

  names = ("completion_tokens", "loss_mask", "old_log_probs", "advantages", "ref_log_probs")
  return RolloutBatch(
      prompt_tokens=tokens, prompt_mask=mask.astype(bool),
      **{name: of_turns(np.asarray(getattr(batch, name))) for name in names})


@pytest.mark.parametrize("name", [name for name in ACTIONS if name != "all"])
def test_a_row_is_as_its_turns_one_at_a_time(name):
  algorithm, rollout = compiled(), make_rollout(action_mask(name))
  state, _, batch = batch_of(algorithm, rollout)
  turns = turns_of(rollout, jax.device_get(batch))
  of_turns = tiny.Compiled(
      tiny.replace(CONFIG, minibatch_size=len(turns.loss_mask)), 1.0, optax.sgd(0.1))
  whole, metrics = algorithm.update_step(state, batch, jax.random.key(0))
  one_by_one, others = of_turns.update_step(state, turns, jax.random.key(0))
  assert_trees_close(whole.params, one_by_one.params, atol=2e-5)
  assert_trees_close(metrics["loss/total"][0], others["loss/total"][0], atol=1e-5)
  assert_trees_close(metrics["policy/entropy"], others["policy/entropy"], atol=2e-5)


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("method", ["reinforce", "critic"])
def test_the_gradient_of_a_given_token_is_exactly_0(name, method):
  """Log-probs, entropies and values as parameters: policy, KL, entropy and value loss of each."""
  config = CONFIG if method == "reinforce" else tiny.replace(
      tiny.FULL, minibatch_size=ROWS, entropy_coef=0.01)
  spec = scoring.Spec(config, tiny.MODEL, tiny.MODEL, 1.0, GROUP)
  actions, random = action_mask(name), np.random.default_rng(0)
  made = lambda: random.normal(size=TOKENS.shape).astype(np.float32)
  rollout = make_rollout(actions)
  scores = {"old_log_probs": made(), "ref_log_probs": made(), "values": made()}
  batch, _ = make_batch(spec, (rollout, scores, OUTCOME), {"kl": jnp.float32(0.1)})
  weights = masks.token_weights(batch.loss_mask, config.aggregation)

  def loss(params):
    passed = scoring.Pass(params["log_probs"], params["entropy"], jnp.zeros(()), jnp.float32(0))
    with mock.patch.object(scoring, "policy_pass", lambda *args: passed), mock.patch.object(
        scoring, "values_of_rows", lambda *args: params["values"]):
      coefs = {"kl": 0.1, "entropy": 0.1, "policy": jnp.float32(1)}
      micro_batch = (batch, weights, None, None)
      return loss_lib.micro_batch_loss(spec, {"policy": None}, micro_batch, coefs)[0]

  params = {"log_probs": made(), "entropy": -made(), "values": made()}
  is_learned = actions & OUTCOME.is_scored[:, None]
  for part, gradient in jax.grad(loss)(params).items():
    np.testing.assert_array_equal(np.where(is_learned, 0, gradient), 0, part)
    if part != "values" or config.has_critic:
      assert is_learned.any() == bool(np.any(gradient)), part


def test_advantages_over_a_gap_by_hand():
  """A reward of 1 at the end of a row `1 1 0 0 1 1`, γ 0.5: as if the gap were not there."""
  mask = np.array([[1, 1, 0, 0, 1, 1]], bool)
  rewards = losses.terminal_rewards(jnp.float32([1]), mask)
  np.testing.assert_array_equal(rewards, [[0, 0, 0, 0, 0, 1]])
  returns = losses.returns_to_go(rewards, mask, discount=0.5)
  np.testing.assert_allclose(returns, [[0.125, 0.25, 0, 0, 0.5, 1]])
  # V = .2 .4 (9 9) .6 .8: δ = 0, -.1, -.2, .2; λ = .5: Â_t = δ_t + Â_{t+1} / 4.
  values = np.float32([[0.2, 0.4, 9, 9, 0.6, 0.8]])
  advantages, _ = losses.gae(rewards, values, mask, discount=0.5, gae_lambda=0.5)
  np.testing.assert_allclose(
      advantages, [[-0.034375, -0.1375, 0, 0, -0.15, 0.2]], atol=1e-6)
