"""Preference tuning on pairs of completions, or on completions judged one by one (KTO)."""

import pathlib
from typing import Any

import numpy as np

from rlreason import rollout as rollout_lib
from rlreason.algorithms import preference, unpaired_batch
from rlreason.data import pipeline, prompts
from rlreason.data.sources import BadRows
from rlreason.data.tasks.base import Row
from rlreason.tokenizers import Tokenizer
from rlreason.training.setup import Setup
from rlreason.training.stage_configs import PreferenceStage
from rlreason.training.stages import base, policies
from rlreason.types import PairBatch, Params


def check_preference(setup: Setup, stage: PreferenceStage):
  """Raises FileNotFoundError or ValueError where the stage could not be made."""
  base.check_rows("batch_size", stage.batch_size, setup.layout.num_shards)
  base.check_rows(
      "preference.micro_batch_size", stage.preference.micro_batch_size, setup.layout.num_replicas)
  base.check_source("examples", stage.examples, "{" + ", ".join(_columns(stage)) + "}")


def make_preference(
    setup: Setup, stage: PreferenceStage, policy: Params, seed: int, folder: pathlib.Path
) -> base.Stage:
  """The stage; `folder` is the run's, for data that stages before it wrote."""
  layout, config = setup.layout, stage.preference
  optimizer, schedule = base.optimizer_of(stage.optimizer, stage.steps)
  own, reference = policies.own_policy(setup, policy, seed, has_reference=config.has_reference)
  reference = None if reference is None else layout.put_state(reference)
  algorithm = preference(config, setup.model, optimizer)
  state = layout.put_state(algorithm.init({"policy": own}))
  update = layout.compile_update(algorithm.update_step, state)
  if config.has_reference:
    score = layout.compile_rows(algorithm.score)
    make_batch = layout.compile_whole(algorithm.make_batch)
  rows, dropped = _fitting_rows(setup, stage, folder)
  width = max(setup.recipe.prompt_buckets)

  def step(state, number, data, key):
    host_batch = _pad_batch(stage, next(data), width, setup.tokenizer.pad_id)
    batch, metrics = layout.put_rows(host_batch), {}
    if config.has_reference:
      scores = score({"params": state.params, "reference": reference}, batch, None)
      batch, metrics = make_batch((batch, scores), layout.get_state(state.kl_coef))
    state, update_metrics = update(state, batch, key)
    host_metrics = {"optim/lr": float(schedule(number)), "rollout/dropped_examples": dropped}
    tokens = int(host_batch.completion_mask.sum() + 2 * host_batch.prompt_mask.sum())
    return base.StepOutput(state, metrics | update_metrics, host_metrics, tokens)

  return base.Stage(
      stage.name, stage.steps, state, pipeline.prompt_batches(rows, stage.batch_size, seed), step)


def _columns(stage: PreferenceStage) -> tuple[str, ...]:
  if stage.preference.has_pairs:
    return "prompt", "chosen", "rejected"
  return "prompt", "completion", "is_right"


def _fitting_rows(setup: Setup, stage: PreferenceStage, folder: pathlib.Path):
  """Tokenised rows whose prompt and completions fit, and how many do not."""
  texts = [name for name in _columns(stage) if name != "is_right"]
  rows, fitting = base.read_source(stage.examples, folder, texts), []
  bad_rows, width = BadRows(f"config.{stage.name}"), max(setup.recipe.prompt_buckets)
  for i in range(len(rows)):
    try:
      row = _tokenize(setup.tokenizer, stage, rows[i])
      longest = max(len(ids) for ids in row["completions"])
      if len(row["prompt"]) > width or longest > stage.completion_length:
        raise ValueError(f"prompt of {len(row['prompt'])} and completion of {longest} tokens, "
                         f"allowed: {width} and {stage.completion_length}")
      fitting.append(row)
    except ValueError as error:
      bad_rows.add(i, error)
  bad_rows.finish(len(rows))
  return fitting, len(bad_rows)


def _tokenize(tokenizer: Tokenizer, stage: PreferenceStage, row: Row) -> dict[str, Any]:
  """{"prompt", "completions", "is_desirable"} in token ids."""
  if not stage.preference.has_pairs and row.get("is_right") is None:
    raise ValueError("is_right is missing: a completion without a verdict")
  names = ("chosen", "rejected") if stage.preference.has_pairs else ("completion",)
  return {"prompt": rollout_lib.encode_prompt(tokenizer, row),
          "completions": [base.completion_ids(tokenizer, row, name) for name in names],
          "is_desirable": bool(row.get("is_right"))}


def _pad_batch(
    stage: PreferenceStage, rows: list[dict[str, Any]], width: int, pad_id: int
) -> PairBatch:
  """One shape for all batches: prompts of `width` columns, completions of the stage's."""
  made = prompts.make_prompts([row["prompt"] for row in rows], [width], pad_id=pad_id)
  count = len(rows[0]["completions"])
  tokens = np.zeros((len(rows), count, stage.completion_length), np.int32)
  mask = np.zeros(tokens.shape, bool)
  for i, row in enumerate(rows):
    for j, ids in enumerate(row["completions"]):
      tokens[i, j, :len(ids)], mask[i, j, :len(ids)] = ids, True
  if count == 2:
    return PairBatch(
        prompt_tokens=made.tokens, prompt_mask=made.mask, completion_tokens=tokens,
        completion_mask=mask)
  return unpaired_batch(
      made.tokens, made.mask, tokens[:, 0], mask[:, 0],
      np.array([row["is_desirable"] for row in rows]))
