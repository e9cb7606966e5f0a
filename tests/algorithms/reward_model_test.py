"""Reward models: where a score is read, what must not change an update, and that they learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import losses, models
from rlreason.algorithms import (
    RewardModelConfig, init_reward_params, reward_model, score_completions, score_tokens)
from rlreason.slots import Slot
from rlreason.types import PairBatch, Rollout
from tests.algorithms import preference_test, tiny

PAIRS = RewardModelConfig()
VERDICTS = RewardModelConfig(loss=Slot(losses.outcome_cross_entropy))
kinds = pytest.mark.parametrize("config", [PAIRS, VERDICTS], ids=["pairs", "verdicts"])
assert_close = functools.partial(
    jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5))


def make_params():
  return init_reward_params(tiny.MODEL, tiny.random_params(), jax.random.key(3))


def make_batch(config):
  return preference_test.make_pairs() if config.has_pairs else preference_test.make_unpaired()


@functools.cache
def compiled(config, learning_rate=0.1):
  algorithm = reward_model(config, tiny.MODEL, optax.sgd(learning_rate))
  return algorithm.init, jax.jit(algorithm.update_step)


def step(config, batch, params=None):
  init, update = compiled(config)
  return update(init(params or make_params()), batch, jax.random.key(0))


def mean(metrics, name):
  return float(metrics[name][0] / metrics[name][1])


def first_completions(batch):
  return batch.replace(completion_tokens=batch.completion_tokens[:, 0],
                       completion_mask=batch.completion_mask[:, 0])


def test_a_score_is_the_head_at_the_last_token_of_the_unpadded_text():
  params, batch = make_params(), first_completions(preference_test.make_pairs())
  scores = jax.jit(score_completions, static_argnums=0)(tiny.MODEL, params, batch)
  forward = jax.jit(models.forward, static_argnums=0)
  for row, score in enumerate(scores):
    ids = np.concatenate([batch.prompt_tokens[row][batch.prompt_mask[row]],
                          batch.completion_tokens[row][batch.completion_mask[row]]])[None]
    hidden = forward(tiny.MODEL, params["trunk"], ids, np.ones(ids.shape, bool))
    expected = hidden[0, -1] @ params["value_head"]["kernel"]
    assert float(score) == pytest.approx(float(expected), abs=1e-5)


def test_the_score_of_a_token_is_that_of_the_completion_up_to_it():
  params, batch = make_params(), first_completions(preference_test.make_pairs())
  by_token = jax.jit(score_tokens, static_argnums=0)(tiny.MODEL, params, batch)
  for length in range(1, batch.completion_tokens.shape[1] + 1):
    mask = np.arange(batch.completion_tokens.shape[1])[None] < length
    scores = jax.jit(score_completions, static_argnums=0)(
        tiny.MODEL, params, batch.replace(completion_mask=np.broadcast_to(
            mask, batch.completion_mask.shape)))
    np.testing.assert_allclose(by_token[:, length - 1], scores, atol=1e-5)


def test_the_head_begins_as_small_normal_numbers():
  head = models.init_reward_head(4000, jax.random.key(0))
  assert float(jnp.std(head["kernel"])) == pytest.approx(4001 ** -0.5, rel=0.05)
  assert float(head["bias"]) == 0.0


def test_the_loss_is_the_mean_over_pairs_of_the_formula():
  batch, params = preference_test.make_pairs(), make_params()
  scores = [jax.jit(score_completions, static_argnums=0)(tiny.MODEL, params, batch.replace(
      completion_tokens=batch.completion_tokens[:, place],
      completion_mask=batch.completion_mask[:, place])) for place in (0, 1)]
  _, metrics = step(PAIRS, batch)
  gaps = np.asarray(scores[0] - scores[1])
  assert mean(metrics, "loss/reward_model") == pytest.approx(
      float(np.mean(np.log1p(np.exp(-gaps)))), abs=1e-5)
  assert mean(metrics, "reward_model/accuracy") == pytest.approx(np.mean(gaps > 0))
  assert mean(metrics, "reward_model/margin") == pytest.approx(np.mean(gaps), abs=1e-5)


@kinds
def test_micro_batches_padding_and_empty_rows_change_nothing(config):
  batch = make_batch(config)
  expected = step(config, batch)[0].params
  micro = RewardModelConfig(loss=config.loss, micro_batch_size=2)
  assert_close(step(micro, batch)[0].params, expected)
  pad = lambda x, n: np.pad(np.asarray(x), [*[(0, 0)] * (x.ndim - 1), (0, n)])
  wider = batch.replace(completion_tokens=pad(batch.completion_tokens, 3),
                        completion_mask=pad(batch.completion_mask, 3))
  assert_close(step(config, wider)[0].params, expected)
  longer = jax.tree.map(lambda x: np.concatenate([x, np.zeros_like(x)]), batch)
  longer = longer.replace(prompt_mask=np.concatenate([batch.prompt_mask] * 2))
  assert_close(step(config, longer)[0].params, expected)


@kinds
def test_a_batch_of_padding_alone_changes_nothing(config):
  batch = jax.tree.map(np.zeros_like, make_batch(config))
  state, metrics = step(config, batch)
  assert_close(state.params, make_params())
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(metrics))


@kinds
def test_it_learns_its_batch(config):
  init, update = compiled(config, 0.3)
  state, batch = init(make_params()), make_batch(config)
  for _ in range(60):
    state, metrics = update(state, batch, jax.random.key(0))
  assert mean(metrics, "reward_model/accuracy") == 1.0
  assert mean(metrics, "loss/reward_model") < 0.2


def test_accuracy_on_pairs_of_a_bradley_terry_judge_nears_the_best_possible():
  """One token decides, and the judge errs: σ(1.5) = 82% of the pairs are for the better one."""
  random = np.random.default_rng(0)

  def draw(count):
    good = random.random(count) < 1 / (1 + np.exp(-1.5))
    tokens = np.where(good[:, None], [[2, 3]], [[3, 2]])[..., None].astype(np.int32)
    prompts = np.full((count, 1), 5, np.int32)
    return PairBatch(prompt_tokens=prompts, prompt_mask=np.ones((count, 1), bool),
                     completion_tokens=tokens, completion_mask=np.ones(tokens.shape, bool))

  init, update = compiled(PAIRS, 0.3)
  state = init(make_params())
  for _ in range(100):
    state, _ = update(state, draw(64), jax.random.key(0))
  _, metrics = update(state, draw(2048), jax.random.key(0))
  assert mean(metrics, "reward_model/accuracy") == pytest.approx(0.818, abs=0.03)
  assert mean(metrics, "reward_model/margin") == pytest.approx(1.5 * 0.635, abs=0.3)


@pytest.mark.parametrize(("fields", "message"), [
    (dict(micro_batch_size=-1), "micro_batch_size: got -1, allowed: 0 or more"),
    (dict(loss=Slot(losses.dpo, {"beta": 0.1})), "loss: got a function of .*, allowed: of"),
])
def test_bad_settings_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    RewardModelConfig(**fields)


def test_a_rollout_is_scored_at_its_last_token_whoever_wrote_it():
  batch = first_completions(preference_test.make_pairs())
  rollout = Rollout(
      prompt_tokens=batch.prompt_tokens, prompt_mask=batch.prompt_mask,
      completion_tokens=batch.completion_tokens, token_mask=batch.completion_mask,
      action_mask=np.zeros_like(batch.completion_mask), log_probs=None, values=None,
      truncated=None)
  score = jax.jit(score_completions, static_argnums=0)
  params = make_params()
  np.testing.assert_array_equal(
      score(tiny.MODEL, params, rollout), score(tiny.MODEL, params, batch))


RANKINGS = RewardModelConfig(loss=Slot(losses.ranking))
EVERY = RewardModelConfig(loss=Slot(losses.outcome_cross_entropy), trained_tokens="every")


def test_a_ranking_of_two_is_a_pair_and_what_it_lacks_changes_nothing():
  batch = make_batch(PAIRS)
  expected, metrics = step(PAIRS, batch)
  state, ranked = step(RANKINGS, batch)
  assert_close(state.params, expected.params)
  for name in ("accuracy", "margin", "score_rejected"):
    assert mean(ranked, f"reward_model/{name}") == pytest.approx(
        mean(metrics, f"reward_model/{name}"), abs=1e-5)
  pad = lambda x: np.concatenate([x, np.zeros_like(x[:, :1])], axis=1)
  longer = batch.replace(completion_tokens=pad(batch.completion_tokens),
                         completion_mask=pad(batch.completion_mask))
  state, ranked = step(RANKINGS, longer)
  assert_close(state.params, expected.params)
  assert mean(ranked, "reward_model/margin") == pytest.approx(
      mean(metrics, "reward_model/margin"), abs=1e-5)


def test_a_ranking_of_three_is_learned():
  batch = make_batch(PAIRS)
  third = np.roll(batch.completion_tokens[:, :1], 1, axis=0)
  batch = batch.replace(
      completion_tokens=np.concatenate([batch.completion_tokens, third], axis=1),
      completion_mask=np.concatenate(
          [batch.completion_mask, np.roll(batch.completion_mask[:, :1], 1, axis=0)], axis=1))
  init, update = compiled(RANKINGS, 0.1)
  state, before = init(make_params()), None
  for _ in range(60):
    state, metrics = update(state, batch, jax.random.key(0))
    before = before or mean(metrics, "loss/reward_model")
  assert mean(metrics, "loss/reward_model") < 0.7 * before


def test_weights_of_pairs_weigh_their_losses():
  batch = make_batch(PAIRS)
  weights = np.where(np.arange(len(batch.prompt_tokens)) < 3, 2.0, 0.0).astype(np.float32)
  first = jax.tree.map(lambda x: x[:3], batch)
  assert_close(step(PAIRS, batch.replace(weights=weights))[0].params, step(PAIRS, first)[0].params)
  same = np.full_like(weights, 0.5)
  assert_close(step(PAIRS, batch.replace(weights=same))[0].params, step(PAIRS, batch)[0].params)


def test_at_every_token_the_verdict_is_that_on_the_whole():
  batch, params = make_batch(EVERY), make_params()
  _, metrics = step(EVERY, batch)
  alone = batch.replace(
      completion_tokens=batch.completion_tokens[:, 0], completion_mask=batch.completion_mask[:, 0])
  scores = np.asarray(jax.jit(score_tokens, static_argnums=0)(tiny.MODEL, params, alone))
  costs = np.log1p(np.exp(np.where(batch.is_desirable[:, None], -scores, scores)))
  by_row = [np.mean(row[mask]) for row, mask in zip(costs, alone.completion_mask)]
  assert mean(metrics, "loss/reward_model") == pytest.approx(np.mean(by_row), abs=1e-5)
  _, at_last = step(VERDICTS, batch)
  assert mean(metrics, "reward_model/margin") == pytest.approx(
      mean(at_last, "reward_model/margin"), abs=1e-5)
  with pytest.raises(ValueError, match="trained_tokens: got 'every' with pairs, allowed"):
    RewardModelConfig(trained_tokens="every")
