"""Label stages: they write the steps of solutions, and labels from completions of prefixes."""

from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np

from rlreason import rollout as rollout_lib, steps as steps_lib
from rlreason.algorithms.base import empty_state
from rlreason.data import fitting, pipeline
from rlreason.data.selections.rows import problem
from rlreason.data.sources import BadRows, origin
from rlreason.data.tasks.base import Row
from rlreason.rewards import has_math_golds, verifier_columns
from rlreason.training.settings.graph import start_of
from rlreason.training.settings.label_steps import LabelStepsStage
from rlreason.training.stages import base, checks, policies, scoring, sources
from rlreason.training.stages.base import Setup
from rlreason.types import Params, Rollout
from rlreason.workers import WorkerPool


def check(setup: Setup, stage: LabelStepsStage):
  """Raises FileNotFoundError or ValueError if the stage could not be made."""
  checks.check_split(stage, setup.layout.num_shards)
  checks.check_source("examples", stage.examples, "{prompt, completion, answer}")
  checks.check_top_k(stage.sampling.top_k, setup.model.vocab_size)
  checks.check_bigrams(stage.sampling.blocked_bigrams, setup.model.vocab_size)
  policies.check_positions(setup, "sampling", setup.model, stage.sampling.max_new_tokens)
  scoring.make_reward(setup, stage, None)
  _start(stage, None)
  if not sources.is_of_stage(stage.examples):  # rows of a stage do not exist yet
    _solutions(setup, stage, pathlib.Path())


def make(
    setup: Setup, stage: LabelStepsStage, policy: Params, seed: int, pool: WorkerPool,
    folder: pathlib.Path,
) -> base.Stage:
  """The stage; its rows record their stage and step, and the policy that completed them."""
  layout, tokenizer = setup.layout, setup.tokenizer
  params = layout.put_state({"policy": policy})
  solutions = _solutions(setup, stage, folder)
  scorer, _ = scoring.make_scorer(setup, stage, pool, folder)
  completer = rollout_lib.Completer(
      setup.model, tokenizer, layout, options=stage.sampling,
      num_completions=stage.num_completions, prompt_buckets=setup.recipe.prompt_buckets)
  stages = setup.recipe.stages
  policy_name = start_of(stages, [other.name for other in stages].index(stage.name)) or "initial"

  def ends_of(ids):
    ends = steps_lib.step_ends(tokenizer.decode(ids), stage.step_separator)
    return [column + 1 for column in rollout_lib.columns_of_ends(tokenizer, ids, ends)]

  def draw(unused_params, data, key):
    rows = next(data)
    complete, counts = completer.start(params, rows, key, scorer)
    verdicts = scorer(rows, _rollout_of(setup, stage, rows)).is_right
    searches = [_start(stage, rollout_lib.Solution(
        tuple(row["completion_ids"]), bool(right), ends_of))
                for row, right in zip(rows, verdicts, strict=True)]
    return rows, rollout_lib.label(searches, complete), counts

  def learn(state, number, drawn, key):
    del key
    rows, found, counts = drawn
    provenance = {"stage": stage.name, "step": number, "policy": policy_name}
    data_rows = [_data_row(setup, stage, row, labelled) | provenance
                 for row, all_labelled in zip(rows, found, strict=True)
                 for labelled in all_labelled]
    labels = [label for row in data_rows for label in row["labels"] if label is not None]
    metrics = {
        "labels/count": float(len(labels)), "labels/tokens_generated": float(counts.generated),
        "labels/tokens_computed": float(counts.computed),
        "labels/tokens_naive": float(counts.naive),
        "rollout/dropped_prompts": float(solutions.num_dropped)}
    if labels:
      metrics |= {"labels/mean": float(np.mean(labels)),
                  "labels/tokens_per_label": counts.generated / len(labels)}
    return base.StepOutput(
        state, {}, metrics, counts.computed, data_rows[:setup.recipe.samples_per_step], data_rows)

  return base.Stage(
      stage.name, stage.steps, layout.put_state(empty_state()),
      pipeline.prompt_batches(solutions, stage.num_prompts, seed), learn, draw, trains=False,
      beside=[params])


def _start(stage: LabelStepsStage, solution: rollout_lib.Solution | None) -> rollout_lib.Search:
  """The search of a solution; of none it runs up to its first request, to check its options."""
  if solution is not None:
    return stage.search(solution=solution)
  search = stage.search(solution=rollout_lib.Solution((), False, lambda ids: []))
  rollout_lib.label([search], lambda prefixes: {
      i: [rollout_lib.Completion((), False)] for i in prefixes})
  return search


def _solutions(
    setup: Setup, stage: LabelStepsStage, folder: pathlib.Path
) -> rollout_lib.FittingRows:
  """The rows whose prompt and completion fit, with `completion_ids`."""
  tokenizer, longest = setup.tokenizer, stage.sampling.max_new_tokens
  rows = sources.read_rows(stage, "examples", tokenizer, folder, ("prompt", "answer"))
  bad_rows, kept = BadRows(f"config.{stage.name}"), []
  for i in range(len(rows)):
    try:
      if not rows[i].get("completion"):
        raise ValueError("completion: got none, allowed: the text of a solution")
      ids = sources.completion_ids(tokenizer, rows[i], "completion")
      if len(ids) > longest:
        raise ValueError(f"completion of {len(ids)} tokens, allowed: sampling.max_new_tokens="
                         f"{longest}")
      kept.append(rows[i] | {"completion_ids": ids})
    except ValueError as error:
      bad_rows.add(origin(rows, i), error)
  bad_rows.finish(len(rows))
  (spec,), verifier = stage.rewards, setup.tasks["train"].verifier
  return rollout_lib.FittingRows(
      kept, tokenizer, max(setup.recipe.prompt_buckets), verifier_columns(spec, verifier),
      has_math_golds(spec, verifier))


def _rollout_of(setup: Setup, stage: LabelStepsStage, rows: Sequence[Row]) -> Rollout:
  """The given solutions as a rollout."""
  tokenizer = setup.tokenizer
  prompts = fitting.make_prompts(
      [rollout_lib.encode_prompt(tokenizer, row) for row in rows], setup.recipe.prompt_buckets,
      pad_id=tokenizer.pad_id)
  tokens = np.zeros((len(rows), stage.sampling.max_new_tokens), np.int32)
  for i, row in enumerate(rows):
    tokens[i, :len(row["completion_ids"])] = row["completion_ids"]
  lengths = np.array([len(row["completion_ids"]) for row in rows])
  mask = np.arange(tokens.shape[1]) < lengths[:, None]
  return Rollout(
      prompt_tokens=prompts.tokens, prompt_mask=prompts.mask, completion_tokens=tokens,
      token_mask=mask, action_mask=mask, log_probs=np.zeros(mask.shape, np.float32), values=None,
      truncated=np.array([row["completion_ids"][-1] not in tokenizer.eos_ids for row in rows]))


def _data_row(
    setup: Setup, stage: LabelStepsStage, row: Row, labelled: rollout_lib.Labelled
) -> dict[str, Any]:
  text = setup.tokenizer.decode(labelled.ids)
  return problem(row) | {
      "completion": text, "is_right": labelled.is_right,
      "steps": steps_lib.split_steps(text, stage.step_separator), "labels": labelled.labels,
      "prompt_ids": rollout_lib.encode_prompt(setup.tokenizer, row),
      "completion_ids": list(labelled.ids)}
