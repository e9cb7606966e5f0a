"""A process reward model: the policy's backbone and a head, trained on labels of steps."""

from collections.abc import Callable, Sequence
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlreason import files, processes, rollout as rollout_lib, steps, tracking, weights
from rlreason.algorithms import init_process_params, process_reward, score_steps
from rlreason.data import fitting, pipeline, step_labels
from rlreason.data.sources import BadRows, hold_out, origin
from rlreason.data.tasks.base import Row
from rlreason.evaluation import step_metrics
from rlreason.models import lora
from rlreason.parallel import on_writer
from rlreason.training.keys import init_key
from rlreason.training.optimizer import optimizer_of
from rlreason.training.settings.process_reward import ProcessRewardStage
from rlreason.training.stages import base, checks, policies, sources
from rlreason.training.stages.base import Setup
from rlreason.types import Params, StepBatch
from rlreason.workers import WorkerPool

STEP_FILE = "step_metrics.json"  # beside the model: how it judges the held-out steps


class _Rows(NamedTuple):
  """Tokenised rows {"prompt" ids, "completion" ids, "columns", "labels"}."""

  trained: list[dict[str, Any]]
  held_out: list[dict[str, Any]]
  num_dropped: int
  most_steps: int  # of a row


def check(setup: Setup, stage: ProcessRewardStage):
  """Raises FileNotFoundError or ValueError if the stage could not be made."""
  checks.check_split(stage, setup.layout.num_shards)
  checks.check_source("examples", stage.examples, "{prompt, steps, labels}")
  if not sources.is_of_stage(stage.examples):  # rows of a stage do not exist yet
    _read(setup, stage, pathlib.Path())


def make(
    setup: Setup, stage: ProcessRewardStage, policy: Params, seed: int, pool: WorkerPool,
    folder: pathlib.Path,
) -> base.Stage:
  """The stage; `folder` is the run's, for data of earlier stages."""
  del pool  # there are no rewards
  layout, config = setup.layout, stage.process_reward
  optimizer, schedule = optimizer_of(stage.optimizer, stage.steps)
  # A copy: the policy is not trained here, and later stages start from it.
  trunk, _ = policies.own_policy(
      setup, jax.tree.map(jnp.copy, policy), seed, has_reference=False)
  algorithm = process_reward(config, setup.model, optimizer)
  state = layout.put_state(algorithm.init(init_process_params(
      config, setup.model, trunk, jax.random.fold_in(init_key(seed), 3))))
  update = layout.compile_update(algorithm.update_step, state)
  rows = _read(setup, stage, folder)
  measure = _make_measure(setup, stage, rows)

  def learn(state, number, drawn, key):
    batch = _pad(setup, stage, drawn, rows.most_steps)
    state, metrics = update(state, layout.put_rows(batch), key)
    host_metrics = {"optim/lr": float(schedule(number)),
                    "rollout/dropped_examples": rows.num_dropped}
    if number == stage.steps - 1:
      found, _ = measure(state.params)
      host_metrics |= {f"process_reward/held_out/{name}": value for name, value in found.items()}
    tokens = int(batch.token_mask.sum() + batch.prompt_mask.sum())
    return base.StepOutput(state, metrics, host_metrics, tokens)

  def finish(params: Params, destination: pathlib.Path):
    """Writes the folder of the model, and how it judges the held-out steps."""
    found, bins = measure(layout.put_state(params))
    params = on_writer(params)
    if not processes.is_writer():
      return
    merged = params | {"trunk": lora.merged_view(setup.model, params["trunk"])
                       if setup.model.lora is not None else params["trunk"]}
    weights.save_process_model(
        destination, dataclasses.replace(setup.model, lora=None), merged, setup.tokenizer)
    if found:
      files.write_whole(destination / STEP_FILE, json.dumps(
          {"metrics": found, "bins": [one._asdict() for one in bins]}, indent=2) + "\n")

  return base.Stage(
      stage.name, stage.steps, state,
      pipeline.prompt_batches(rows.trained, stage.batch_size, seed), learn, trains=False,
      finish=finish)


def _read(setup: Setup, stage: ProcessRewardStage, folder: pathlib.Path) -> _Rows:
  """The rows that fit, tokenised."""
  texts = ("prompt", "steps", "labels")
  rows = sources.read_rows(stage, "examples", setup.tokenizer, folder, texts)
  kind, longest = step_labels.kind_of_rows(rows), stage.completion_length
  width = max(setup.recipe.prompt_buckets)
  bad_rows, kept, fitting_rows = BadRows(f"config.{stage.name}"), [], []
  for i in tracking.each("tokenising steps", len(rows)):
    try:
      row = _tokenize(setup, stage, rows[i], kind)
      if len(row["prompt"]) > width or len(row["completion"]) > longest:
        raise ValueError(f"prompt of {len(row['prompt'])} and steps of {len(row['completion'])} "
                         f"tokens, allowed: {width} and {longest}")
      fitting_rows.append(row)
      kept.append(i)
    except ValueError as error:
      bad_rows.add(origin(rows, i), error)
  bad_rows.finish(len(rows))
  trained, held_out = range(len(kept)), []
  if stage.held_out_share:
    try:
      trained, held_out = hold_out([rows[i] for i in kept], stage.held_out_share)
    except ValueError as error:
      raise ValueError(f"held_out_share: {error}; or 0") from error
  return _Rows([fitting_rows[i] for i in trained], [fitting_rows[i] for i in held_out],
               len(bad_rows), max(len(row["columns"]) for row in fitting_rows))


def _tokenize(
    setup: Setup, stage: ProcessRewardStage, row: Row, kind: step_labels.Kind
) -> dict[str, Any]:
  """The ids of a prompt and its steps, the column that ends each step, and its label."""
  if stage.process_reward.num_classes > 1:
    labels = step_labels.as_ratings(row["labels"], kind)
  else:
    labels = step_labels.as_shares(row["labels"], kind, stage.neutral)
  text, ends = steps.join_steps(row["steps"], stage.step_separator)
  ids = sources.completion_ids(setup.tokenizer, row | {"completion": text}, "completion")
  ends = _ends_in(setup.tokenizer.decode(ids), text, ends)
  return {"prompt": rollout_lib.encode_prompt(setup.tokenizer, row), "completion": ids,
          "columns": rollout_lib.columns_of_ends(setup.tokenizer, ids, ends), "labels": labels}


def _ends_in(decoded: str, text: str, ends: Sequence[int]) -> list[int]:
  """Ends of steps of a text in the text of its tokens, which may have other blanks."""
  if decoded.startswith(text):
    return list(ends)
  places = [i + 1 for i, character in enumerate(decoded) if not character.isspace()]
  if not places:
    return [len(decoded)] * len(ends)
  counts = [len("".join(text[:end].split())) for end in ends]
  return [places[min(max(count, 1), len(places)) - 1] for count in counts]


def _pad(
    setup: Setup, stage: ProcessRewardStage, rows: Sequence[dict[str, Any]], most_steps: int
) -> StepBatch:
  """One shape for all batches."""
  prompts = fitting.make_prompts(
      [row["prompt"] for row in rows], [max(setup.recipe.prompt_buckets)],
      pad_id=setup.tokenizer.pad_id)
  tokens = np.zeros((len(rows), stage.completion_length), np.int32)
  token_mask = np.zeros(tokens.shape, bool)
  columns = np.zeros((len(rows), most_steps), np.int32)
  labels = np.full(columns.shape, np.nan, np.float32)
  for i, row in enumerate(rows):
    count = len(row["columns"])
    tokens[i, :len(row["completion"])] = row["completion"]
    token_mask[i, :len(row["completion"])] = True
    columns[i, :count] = row["columns"]
    labels[i, :count] = [np.nan if label is None else label for label in row["labels"]]
  return StepBatch(
      prompt_tokens=prompts.tokens, prompt_mask=prompts.mask, completion_tokens=tokens,
      token_mask=token_mask, columns=columns, labels=np.nan_to_num(labels),
      label_mask=~np.isnan(labels))


def _make_measure(
    setup: Setup, stage: ProcessRewardStage, rows: _Rows
) -> Callable[[Params], tuple[dict[str, float], list[step_metrics.Bin]]]:
  """Makes `measure(params)`: metrics of the held-out steps, and the bins of their calibration.

  Ratings count as right unless they are -1, as in the score.
  """
  layout = setup.layout
  score = layout.compile_rows(lambda params, batch, key: score_steps(
      setup.model, params, batch, batch.columns))
  low = -1.0 if stage.process_reward.num_classes > 1 else None

  def measure(params):
    scores = []
    for start in range(0, len(rows.held_out), stage.batch_size):
      some = rows.held_out[start:start + stage.batch_size]
      missing = stage.batch_size - len(some)  # every batch has one shape
      batch = _pad(setup, stage, some + some[:1] * missing, rows.most_steps)
      found = layout.get_rows(score(params, layout.put_rows(batch), None))
      scores += [found[i, :len(row["columns"])].tolist() for i, row in enumerate(some)]
    labels = [row["labels"] if low is None else [
        None if label is None else float(label > low) for label in row["labels"]]
              for row in rows.held_out]
    return step_metrics.step_metrics(scores, labels, stage.threshold) if scores else ({}, [])

  return measure
