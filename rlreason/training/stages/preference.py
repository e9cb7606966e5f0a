"""Preference tuning on pairs of completions, or on completions judged one by one (KTO)."""

import pathlib

from rlreason.algorithms import preference
from rlreason.data import pipeline
from rlreason.training.optimizer import optimizer_of
from rlreason.training.settings.preference import PreferenceStage
from rlreason.training.stages import base, checks, pairs, policies
from rlreason.training.stages.base import Setup
from rlreason.types import Params
from rlreason.workers import WorkerPool


def check(setup: Setup, stage: PreferenceStage):
  """Raises FileNotFoundError or ValueError if the stage could not be made."""
  checks.check_split(stage, setup.layout.num_shards)
  form = pairs.form_of(stage.preference.has_pairs)
  checks.check_source("examples", stage.examples, pairs.columns(form))
  pairs.check_rows(setup, stage, form)


def make(
    setup: Setup, stage: PreferenceStage, policy: Params, seed: int, pool: WorkerPool,
    folder: pathlib.Path,
) -> base.Stage:
  """The stage; `folder` is the run's, for data of earlier stages."""
  del pool  # there are no rewards
  layout, config = setup.layout, stage.preference
  optimizer, schedule = optimizer_of(stage.optimizer, stage.steps)
  own, reference = policies.own_policy(setup, policy, seed, has_reference=config.has_reference)
  reference = None if reference is None else layout.put_state(reference)
  algorithm = preference(config, setup.model, optimizer)
  state = layout.put_state(algorithm.init({"policy": own}))
  update = layout.compile_update(algorithm.update_step, state)
  if config.has_reference:
    score = layout.compile_rows(algorithm.score)
    make_batch = layout.compile_whole(algorithm.make_batch)
  rows, dropped = pairs.fitting_rows(setup, stage, folder, pairs.form_of(config.has_pairs))
  width = max(setup.recipe.prompt_buckets)

  def learn(state, number, drawn, key):
    host_batch = pairs.pad_batch(
        drawn, width, stage.completion_length, setup.tokenizer.pad_id)
    batch, metrics = layout.put_rows(host_batch), {}
    if config.has_reference:
      scores = score({"params": state.params, "reference": reference}, batch, None)
      batch, metrics = make_batch((batch, scores), layout.get_state(state.coefs))
    state, update_metrics = update(state, batch, key)
    host_metrics = {"optim/lr": float(schedule(number)), "rollout/dropped_examples": dropped}
    tokens = int(host_batch.completion_mask.sum() + 2 * host_batch.prompt_mask.sum())
    return base.StepOutput(state, metrics | update_metrics, host_metrics, tokens)

  return base.Stage(
      stage.name, stage.steps, state, pipeline.prompt_batches(rows, stage.batch_size, seed), learn,
      beside=reference)
