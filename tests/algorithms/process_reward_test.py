"""Process reward models: where steps are read, what must not change an update, that they learn."""

import functools
import math

import jax
import numpy as np
import optax
import pytest

from rlreason import losses
from rlreason.algorithms import (
    ProcessRewardConfig, init_process_params, process_reward, score_completions, score_steps,
    score_tokens)
from rlreason.slots import Slot
from rlreason.types import StepBatch
from tests.algorithms import preference_test, tiny

BINARY = ProcessRewardConfig()
RATINGS = ProcessRewardConfig(loss=Slot(losses.three_way_cross_entropy))
kinds = pytest.mark.parametrize("config", [BINARY, RATINGS], ids=["binary", "ratings"])
assert_close = functools.partial(
    jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5))
score = jax.jit(score_steps, static_argnums=0)
WRONG, RIGHT = 2, 3  # the tokens that end steps


def make_params(config):
  return init_process_params(config, tiny.MODEL, tiny.random_params(), jax.random.key(3))


def make_batch(config, seed=0):
  """Completions of several lengths, with steps of two tokens; some have no label."""
  prompts, (tokens, mask) = tiny.make_prompts(), preference_test.make_completions(1)
  columns = np.tile(np.arange(1, tokens.shape[1], 2, dtype=np.int32), (len(tokens), 1))
  random = np.random.default_rng(seed)
  low = -1 if config is RATINGS else 0
  labels = random.integers(low, 2, columns.shape).astype(np.float32)
  is_there = np.take_along_axis(mask, columns, axis=1)
  labels[~is_there] = np.nan
  return StepBatch(
      prompt_tokens=prompts.tokens, prompt_mask=prompts.mask, completion_tokens=tokens,
      token_mask=mask, columns=columns, labels=labels,
      label_mask=is_there & (random.random(columns.shape) < 0.7))


@functools.cache
def compiled(config, learning_rate=0.1):
  algorithm = process_reward(config, tiny.MODEL, optax.sgd(learning_rate))
  return algorithm.init, jax.jit(algorithm.update_step)


def step(config, batch):
  init, update = compiled(config)
  return update(init(make_params(config)), batch, jax.random.key(0))


def mean(metrics, name):
  return float(metrics[name][0] / metrics[name][1])


def test_a_step_is_read_at_its_last_token():
  params, batch = make_params(BINARY), make_batch(BINARY)
  scores = score(tiny.MODEL, params, batch, batch.columns)
  by_token = jax.jit(score_tokens, static_argnums=0)(tiny.MODEL, params, batch)
  np.testing.assert_allclose(
      scores, np.take_along_axis(np.asarray(by_token), batch.columns, axis=1), atol=1e-6)


def test_the_score_of_a_step_does_not_depend_on_those_after_it():
  """It is the score of a completion that ends there, by the same model."""
  params, batch = make_params(BINARY), make_batch(BINARY)
  scores = score(tiny.MODEL, params, batch, batch.columns)
  for k in range(batch.columns.shape[1]):
    mask = np.arange(batch.token_mask.shape[1])[None] <= batch.columns[:, k:k + 1]
    alone = jax.jit(score_completions, static_argnums=0)(
        tiny.MODEL, params, batch.replace(token_mask=mask))
    np.testing.assert_allclose(scores[:, k], alone, atol=1e-5)


def test_columns_without_a_step_are_read_within_the_row():
  params, batch = make_params(RATINGS), make_batch(RATINGS)
  wild = np.full_like(batch.columns, -7)
  wild[:, -1] = 999
  assert np.all(np.isfinite(score(tiny.MODEL, params, batch, wild)))


@kinds
def test_the_loss_is_the_mean_of_the_formula_over_labelled_steps(config):
  batch, params = make_batch(config), make_params(config)
  _, metrics = step(config, batch)
  scores, mask = np.asarray(score(tiny.MODEL, params, batch, batch.columns)), batch.label_mask
  is_right = batch.labels >= (0.5 if config is BINARY else 0)
  assert mean(metrics, "process_reward/accuracy") == pytest.approx(
      np.mean(((scores > 0) == is_right)[mask]))
  assert mean(metrics, "process_reward/score_right") == pytest.approx(
      np.mean(scores[mask & is_right]), abs=1e-5)
  assert mean(metrics, "process_reward/margin") == pytest.approx(
      np.mean(np.where(is_right, scores, -scores)[mask]), abs=1e-5)
  if config is BINARY:
    expected = np.log1p(np.exp(np.where(is_right, -scores, scores)))[mask]
    assert mean(metrics, "loss/process_reward") == pytest.approx(np.mean(expected), abs=1e-5)


@kinds
def test_micro_batches_padding_and_empty_rows_change_nothing(config):
  batch = make_batch(config)
  expected = step(config, batch)[0].params
  micro = ProcessRewardConfig(loss=config.loss, micro_batch_size=2)
  assert_close(step(micro, batch)[0].params, expected)
  pad = lambda x, n: np.pad(np.asarray(x), ((0, 0), (0, n)))
  wider = batch.replace(
      completion_tokens=pad(batch.completion_tokens, 3), token_mask=pad(batch.token_mask, 3),
      columns=pad(batch.columns, 2), labels=pad(batch.labels, 2),
      label_mask=pad(batch.label_mask, 2))
  assert_close(step(config, wider)[0].params, expected)
  longer = jax.tree.map(lambda x: np.concatenate([x, np.zeros_like(x)]), batch)
  assert_close(step(config, longer)[0].params, expected)


@kinds
def test_a_batch_without_labels_changes_nothing(config):
  batch = make_batch(config)
  state, metrics = step(config, batch.replace(label_mask=np.zeros_like(batch.label_mask)))
  assert_close(state.params, make_params(config))
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(metrics))


def test_a_model_of_ratings_counts_neutral_steps_as_right():
  params, batch = make_params(RATINGS), make_batch(RATINGS)
  scores = np.asarray(score(tiny.MODEL, params, batch, batch.columns))
  binary = {"kernel": params["value_head"]["kernel"], "bias": params["value_head"]["bias"]}
  outputs = [np.asarray(score(tiny.MODEL, params | {"value_head": {
      "kernel": binary["kernel"][:, i], "bias": binary["bias"][i]}}, batch, batch.columns))
             for i in range(3)]
  expected = np.log((np.exp(outputs[1]) + np.exp(outputs[2])) / np.exp(outputs[0]))
  np.testing.assert_allclose(scores, expected, atol=1e-5)


def draw_steps(count, shares, random):
  """Steps of one token each, of the two kinds, with labels of these shares of being right."""
  kind = random.integers(0, 2, (count, 3))
  labels = (random.random(kind.shape) < np.asarray(shares)[kind]).astype(np.float32)
  tokens = np.where(kind == 1, RIGHT, WRONG).astype(np.int32)
  return StepBatch(
      prompt_tokens=np.full((count, 1), 5, np.int32), prompt_mask=np.ones((count, 1), bool),
      completion_tokens=tokens, token_mask=np.ones(tokens.shape, bool),
      columns=np.tile(np.arange(3, dtype=np.int32), (count, 1)), labels=labels,
      label_mask=np.ones(tokens.shape, bool)), kind


def test_probabilities_approach_the_shares_of_right_steps():
  """A kind of step that is right in 90 % of its appearances, and one that is in 25 %."""
  random = np.random.default_rng(0)
  init, update = compiled(BINARY, 0.3)
  state = init(make_params(BINARY))
  for _ in range(150):
    state, _ = update(state, draw_steps(64, (0.25, 0.9), random)[0], jax.random.key(0))
  batch, kind = draw_steps(64, (0.25, 0.9), random)
  shares = np.asarray(jax.nn.sigmoid(score(tiny.MODEL, state.params, batch, batch.columns)))
  assert np.mean(shares[kind == 0]) == pytest.approx(0.25, abs=0.06)
  assert np.mean(shares[kind == 1]) == pytest.approx(0.9, abs=0.06)


def test_it_learns_ratings():
  init, update = compiled(RATINGS, 0.3)
  state, batch = init(make_params(RATINGS)), make_batch(RATINGS)
  for _ in range(100):
    state, metrics = update(state, batch, jax.random.key(0))
  assert mean(metrics, "process_reward/accuracy") == 1.0
  assert mean(metrics, "loss/process_reward") < math.log(3) / 2


@pytest.mark.parametrize(("fields", "message"), [
    (dict(micro_batch_size=-1), "micro_batch_size: got -1, allowed: 0 or more"),
    (dict(loss=Slot(losses.bradley_terry)), "loss: got a function of .*, allowed: of"),
])
def test_bad_settings_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    ProcessRewardConfig(**fields)
