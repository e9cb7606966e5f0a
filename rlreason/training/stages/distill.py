"""Distillation from a teacher's distributions, on the student's samples or on those of a file."""

import pathlib

import jax
import numpy as np
import optax

from rlreason import masks, rollout as rollout_lib, weights
from rlreason.algorithms import distill, init_distill_params
from rlreason.data import fitting, pipeline
from rlreason.data.tasks.base import Row
from rlreason.training.optimizer import optimizer_of
from rlreason.training.settings.distill import DistillStage
from rlreason.training.stages import base, checks, policies, scoring, sources
from rlreason.training.stages.base import Setup
from rlreason.types import Params, Rollout
from rlreason.workers import WorkerPool


def check(setup: Setup, stage: DistillStage):
  """Raises FileNotFoundError or ValueError if the stage could not be made."""
  checks.check_split(stage, setup.layout.num_shards)
  teacher, tokenizer = weights.open_model(weights.find_model(stage.teacher))
  policies.check_other_model(setup, "teacher", teacher, tokenizer, stage.sampling.max_new_tokens)
  distill(stage.distill, setup.model, teacher, optax.identity())  # checks the two
  if stage.distill.top_k == setup.model.vocab_size:
    raise ValueError(f"distill.top_k: got {stage.distill.top_k}, all words of the model, allowed: "
                     "less, or 0, which is the same and keeps no list of them")
  checks.check_source("examples", stage.examples, "{prompt, completion}")
  checks.check_source("problems", stage.problems, "{prompt, answer}")
  checks.check_top_k(stage.sampling.top_k, setup.model.vocab_size)
  checks.check_bigrams(stage.sampling.blocked_bigrams, setup.model.vocab_size)
  if not stage.examples:
    scoring.check_problems(setup, stage)
  elif not sources.is_of_stage(stage.examples):
    rows = sources.read_rows(
        stage, "examples", setup.tokenizer, pathlib.Path(), ("prompt", "completion"))
    rollout_lib.check_fitting(rows, setup.tokenizer, max(setup.recipe.prompt_buckets))


def make(
    setup: Setup, stage: DistillStage, policy: Params, seed: int, pool: WorkerPool,
    folder: pathlib.Path,
) -> base.Stage:
  """The stage; `folder` is the run's, for data of earlier stages."""
  del pool  # there are no rewards
  layout, config = setup.layout, stage.distill
  optimizer, schedule = optimizer_of(stage.optimizer, stage.steps)
  own, _ = policies.own_policy(setup, policy, seed, has_reference=False)
  teacher_model, teacher = policies.load_beside(setup, stage.teacher)
  algorithm = distill(config, setup.model, teacher_model, optimizer)
  state = layout.put_state(algorithm.init(
      init_distill_params(config, teacher_model, own, teacher)))
  teacher = layout.put_state(teacher)
  score = layout.compile_rows(algorithm.score)
  make_batch = layout.compile_whole(algorithm.make_batch)
  update = layout.compile_update(algorithm.update_step, state)
  generate = rollout_lib.make_generator(
      setup.model, setup.tokenizer, layout, options=stage.sampling, group_size=stage.group_size,
      prompt_buckets=setup.recipe.prompt_buckets)
  rows = _make_rows(setup, stage, folder)

  def draw(params, data, key):
    key_sample, key_choice, _ = jax.random.split(key, 3)
    batch = next(data)
    is_own = float(jax.random.uniform(key_choice)) < stage.student_fraction
    return is_own, (generate({"policy": params["policy"]}, batch, key_sample) if is_own
                    else _rollout_of_rows(setup, stage, batch))

  def learn(state, number, drawn, key):
    is_own, rollout = drawn
    *_, key_update = jax.random.split(key, 3)
    placed = layout.put_rows(rollout)
    scores = score({"teacher": teacher}, placed, None)
    is_kept = layout.put_rows(np.ones(rollout.token_mask.shape[0], bool))
    ready, metrics = make_batch((placed, scores, is_kept), layout.get_state(state.coefs))
    state, update_metrics = update(state, ready, key_update)
    lengths = masks.lengths(rollout.token_mask)
    host_metrics = {
        "optim/lr": float(schedule(number)), "distill/is_own": float(is_own),
        "rollout/length/mean": float(lengths.mean()),
        "rollout/truncated_fraction": float(rollout.truncated.mean())}
    tokens = int(rollout.prompt_mask.sum() + lengths.sum())
    return base.StepOutput(state, metrics | update_metrics, host_metrics, tokens)

  return base.Stage(
      stage.name, stage.steps, state, pipeline.prompt_batches(rows, stage.num_prompts, seed), learn,
      draw, beside=teacher)


def _make_rows(setup: Setup, stage: DistillStage, folder: pathlib.Path):
  """Problems to sample from, or examples whose completions have at most the stage's length."""
  if not stage.examples:
    return scoring.make_problems(setup, stage, folder)
  rows = sources.read_rows(stage, "examples", setup.tokenizer, folder, ("prompt", "completion"))
  return rollout_lib.FittingRows(rows, setup.tokenizer, max(setup.recipe.prompt_buckets))


def _rollout_of_rows(setup: Setup, stage: DistillStage, rows: list[Row]) -> Rollout:
  """The completions of examples, `group_size` times each, as if they had been sampled."""
  rows = [row for row in rows for _ in range(stage.group_size)]
  made = fitting.make_prompts(
      [rollout_lib.encode_prompt(setup.tokenizer, row) for row in rows],
      setup.recipe.prompt_buckets, pad_id=setup.tokenizer.pad_id)
  width = stage.sampling.max_new_tokens
  tokens = np.zeros((len(rows), width), np.int32)
  lengths = np.zeros(len(rows), int)
  for i, row in enumerate(rows):
    ids = sources.completion_ids(setup.tokenizer, row, "completion")
    lengths[i] = min(len(ids), width)
    tokens[i, :lengths[i]] = ids[:width]
  mask = np.arange(width) < lengths[:, None]
  return Rollout(
      prompt_tokens=made.tokens, prompt_mask=made.mask, completion_tokens=tokens,
      token_mask=mask, action_mask=mask, log_probs=np.zeros(mask.shape, np.float32), values=None,
      truncated=np.zeros(len(rows), bool))
