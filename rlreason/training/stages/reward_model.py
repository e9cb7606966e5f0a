"""A reward model: the policy's backbone and a scalar head, trained on pairs or on verdicts."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from rlreason import losses, processes, weights
from rlreason.algorithms import (
    init_reward_params, reward_model, rows as rows_lib, score_completions)
from rlreason.data import pipeline
from rlreason.models import lora
from rlreason.parallel import on_writer
from rlreason.training.keys import init_key
from rlreason.training.optimizer import optimizer_of
from rlreason.training.settings.reward_model import RewardModelStage
from rlreason.training.stages import base, checks, pairs, policies
from rlreason.training.stages.base import Setup
from rlreason.types import Params
from rlreason.workers import WorkerPool


def check(setup: Setup, stage: RewardModelStage):
  """Raises FileNotFoundError or ValueError if the stage could not be made."""
  config = stage.reward_model
  checks.check_split(stage, setup.layout.num_shards)
  checks.check_source("examples", stage.examples, pairs.columns(config.form))
  if stage.standardize and config.form == "verdicts":
    raise ValueError("standardize: got True with verdicts in place of pairs, allowed: False")
  pairs.check_rows(setup, stage, config.form)


def make(
    setup: Setup, stage: RewardModelStage, policy: Params, seed: int, pool: WorkerPool,
    folder: pathlib.Path,
) -> base.Stage:
  """The stage; `folder` is the run's, for data of earlier stages."""
  del pool  # there are no rewards
  layout, config = setup.layout, stage.reward_model
  optimizer, schedule = optimizer_of(stage.optimizer, stage.steps)
  # A copy: the policy is not trained here, and later stages start from it.
  trunk, _ = policies.own_policy(
      setup, jax.tree.map(jnp.copy, policy), seed, has_reference=False)
  algorithm = reward_model(config, setup.model, optimizer)
  state = layout.put_state(algorithm.init(
      init_reward_params(setup.model, trunk, jax.random.fold_in(init_key(seed), 3))))
  update = layout.compile_update(algorithm.update_step, state)
  score = layout.compile_rows(
      lambda params, batch, key: score_completions(setup.model, params, batch))
  rows, dropped = pairs.fitting_rows(setup, stage, folder, config.form)
  most = max(len(row["completions"]) for row in rows)
  pad = lambda rows: pairs.pad_batch(
      rows, max(setup.recipe.prompt_buckets), stage.completion_length, setup.tokenizer.pad_id,
      config.form, most).replace(weights=np.array([row["weight"] for row in rows], np.float32))

  def learn(state, number, drawn, key):
    batch = pad(drawn)
    state, metrics = update(state, layout.put_rows(batch), key)
    host_metrics = {"optim/lr": float(schedule(number)), "rollout/dropped_examples": dropped}
    tokens = int(batch.completion_mask.sum() + 2 * batch.prompt_mask.sum())
    return base.StepOutput(state, metrics, host_metrics, tokens)

  def scores_of_examples(params) -> np.ndarray:
    """f32[N * C], of the C completions of each of the N rows."""
    placed, found = layout.put_state(params), []
    for start in range(0, len(rows), stage.batch_size):
      some = rows[start:start + stage.batch_size]
      missing = stage.batch_size - len(some)  # every batch has one shape
      flat = rows_lib.flatten_completions(pad(some + some[:1] * missing))
      scores = layout.get_rows(score(placed, layout.put_rows(flat), None))
      is_there = np.any(flat.completion_mask, axis=-1).reshape(stage.batch_size, -1)[:len(some)]
      found.append(np.reshape(scores, (stage.batch_size, -1))[:len(some)][is_there])
    return np.concatenate(found)

  def finish(params: Params, destination: pathlib.Path):
    """Writes the folder of the reward model."""
    if stage.standardize:
      scores = scores_of_examples(params)
      params = params | {"value_head": losses.standardized(
          params["value_head"], jnp.asarray(scores), jnp.ones(scores.shape, bool))}
    params = on_writer(params)
    if not processes.is_writer():
      return
    merged = params | {"trunk": lora.merged_view(setup.model, params["trunk"])
                       if setup.model.lora is not None else params["trunk"]}
    weights.save_scalar_model(
        destination, dataclasses.replace(setup.model, lora=None), merged, setup.tokenizer)

  return base.Stage(
      stage.name, stage.steps, state, pipeline.prompt_batches(rows, stage.batch_size, seed), learn,
      trains=False, finish=finish)
