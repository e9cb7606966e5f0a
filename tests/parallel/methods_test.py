"""Preferences, reward models and distillation on eight devices, by mesh and pmap, against one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import losses, models
from rlreason.algorithms import (
    DistillConfig, PreferenceConfig, ProcessRewardConfig, RewardModelConfig, distill,
    init_distill_params, init_process_params, init_reward_params, preference, process_reward,
    reward_model, unpaired_batch)
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.slots import Slot
from rlreason.types import PairBatch, Rollout, StepBatch
from tests.algorithms import tiny
from tests.parallel.layout_test import LAYOUTS, MODEL, OPTIMIZER, assert_close

TEACHER = dataclasses.replace(MODEL, width=24, tie_embeddings=False)
ROWS, LENGTH = 16, 5
PREFERENCES = {
    "dpo": PreferenceConfig(
        Slot(losses.dpo, {"beta": 0.5}), False, nll_coef=0.1, micro_batch_size=8),
    "kto": PreferenceConfig(Slot(losses.kto, {"beta": 0.5}), False, micro_batch_size=8),
    "orpo": PreferenceConfig(Slot(losses.orpo, {"beta": 0.5}), True, micro_batch_size=8)}
DISTILLATIONS = {
    "whole": DistillConfig(Slot(losses.reverse_kl), micro_batch_size=8),
    "top_k": DistillConfig(
        Slot(losses.generalized_jsd, {"beta": 0.5}), top_k=3, micro_batch_size=8)}
layouts = pytest.mark.parametrize(
    "layout", ["data2_fsdp2_tensor2", "sequence2", "data2_sequence2_tensor2", "pmap8"])


def make_texts(seed, columns):
  """Prompts with `columns` completions each, the last row all padding."""
  random = np.random.default_rng(seed)
  draw = lambda *shape: random.integers(2, 12, shape).astype(np.int32)
  prompt_mask = np.arange(3) >= random.integers(0, 3, (ROWS, 1))
  mask = np.arange(LENGTH) < random.integers(1, LENGTH + 1, (ROWS, columns, 1))
  mask[-1] = False
  return draw(ROWS, 3), prompt_mask, draw(ROWS, columns, LENGTH), mask


def put_params(layout, model, seed):
  return layout.put_params(tiny.random_params(model, seed), models.abstract_boxed_params(model))


def run(layout, algorithm, params, models_of, rows, extra):
  """Two steps on the same rows; the state, metrics, and scores of the second."""
  state = layout.put_state(algorithm.init(params))
  update = layout.compile_update(algorithm.update_step, state)
  placed, extra = layout.put_rows(rows), tuple(map(layout.put_rows, extra))
  scores = {}
  for number in range(2):
    batch = placed
    if algorithm.score is not None:
      scores = layout.compile_rows(algorithm.score)(models_of(state.params), placed, None)
      batch, _ = layout.compile_whole(algorithm.make_batch)(
          (placed, scores, *extra), layout.get_state(state.coefs))
    state, metrics = update(state, batch, jax.random.key(number))
  scores = layout.get_rows(scores)
  return jax.device_get(layout.get_state(state)), jax.device_get(metrics), scores


@functools.cache
def run_preference(name, parallel):
  layout, config = make_layout(parallel), PREFERENCES[name]
  prompts, prompt_mask, completions, mask = make_texts(0, 2)
  if config.has_pairs:
    rows = PairBatch(prompts, prompt_mask, completions, mask)
  else:
    rows = unpaired_batch(
        prompts, prompt_mask, completions[:, 0], mask[:, 0], np.arange(ROWS) % 3 == 0)
  reference = layout.put_state(put_params(layout, MODEL, 1))
  return run(layout, preference(config, MODEL, OPTIMIZER),
             {"policy": put_params(layout, MODEL, 0)},
             lambda params: {"params": params, "reference": reference}, rows, ())


@functools.cache
def run_reward_model(parallel):
  layout = make_layout(parallel)
  trunk = put_params(layout, MODEL, 0)
  return run(layout, reward_model(RewardModelConfig(micro_batch_size=8), MODEL, OPTIMIZER),
             init_reward_params(MODEL, trunk, jax.random.key(3)), None,
             PairBatch(*make_texts(0, 2)), ())


@functools.cache
def run_process_reward(parallel):
  """Of three classes, with steps of 0 to 3 labels."""
  layout = make_layout(parallel)
  config = ProcessRewardConfig(Slot(losses.three_way_cross_entropy), micro_batch_size=8)
  prompts, prompt_mask, completions, mask = make_texts(0, 1)
  columns = np.tile(np.arange(0, LENGTH, 2, dtype=np.int32), (ROWS, 1))
  is_there = np.take_along_axis(mask[:, 0], columns, axis=1)
  label_mask = is_there & (columns != np.arange(ROWS)[:, None])
  batch = StepBatch(
      prompts, prompt_mask, completions[:, 0], mask[:, 0], columns,
      np.random.default_rng(1).integers(-1, 2, columns.shape).astype(np.float32), label_mask)
  trunk = put_params(layout, MODEL, 0)
  return run(layout, process_reward(config, MODEL, OPTIMIZER),
             init_process_params(config, MODEL, trunk, jax.random.key(3)), None, batch, ())


@functools.cache
def run_distill(name, parallel):
  layout, config = make_layout(parallel), DISTILLATIONS[name]
  prompts, prompt_mask, completions, mask = make_texts(0, 1)
  rows = Rollout(
      prompts, prompt_mask, completions[:, 0], mask[:, 0], mask[:, 0],
      log_probs=np.zeros((ROWS, LENGTH)), values=None, truncated=np.zeros(ROWS, bool))
  teacher = put_params(layout, TEACHER, 1)
  params = init_distill_params(config, TEACHER, put_params(layout, MODEL, 0), teacher)
  teacher = layout.put_state(teacher)
  return run(layout, distill(config, MODEL, TEACHER, OPTIMIZER), params,
             lambda params: {"params": params, "teacher": teacher}, rows, (np.arange(ROWS) != 3,))


def assert_same(got, expected):
  assert_close(got[0], expected[0])
  assert_close(got[2], expected[2])
  assert int(expected[0].step) == 2
  for metric, (numerator, denominator) in expected[1].items():
    value = np.sum(numerator) / max(np.sum(denominator), 1e-6)
    other = np.sum(got[1][metric][0]) / max(np.sum(got[1][metric][1]), 1e-6)
    assert other == pytest.approx(value, abs=2e-5), metric


@layouts
@pytest.mark.parametrize("name", PREFERENCES)
def test_preference_updates_are_those_of_one_device(name, layout):
  assert_same(run_preference(name, LAYOUTS[layout]), run_preference(name, ParallelConfig(data=1)))


@layouts
def test_reward_model_updates_are_those_of_one_device(layout):
  assert_same(run_reward_model(LAYOUTS[layout]), run_reward_model(ParallelConfig(data=1)))


@layouts
def test_process_reward_updates_are_those_of_one_device(layout):
  assert_same(
      run_process_reward(LAYOUTS[layout]), run_process_reward(ParallelConfig(data=1)))


@layouts
@pytest.mark.parametrize("name", DISTILLATIONS)
def test_distillation_updates_are_those_of_one_device(name, layout):
  assert_same(run_distill(name, LAYOUTS[layout]), run_distill(name, ParallelConfig(data=1)))


def test_one_device_learned_something():
  policy = tiny.random_params(MODEL)
  for state, *_ in (run_preference("kto", ParallelConfig(data=1)),
                    run_distill("top_k", ParallelConfig(data=1))):
    moved = jax.tree.map(lambda x, y: jnp.abs(x - y).max(), state.params["policy"], policy)
    assert min(jax.tree.leaves(moved)) > 1e-3
