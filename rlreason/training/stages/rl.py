"""Reinforcement learning: sample, score, make a batch, update."""

from collections.abc import Callable
import dataclasses
import functools
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from rlreason import rollout as rollout_lib
from rlreason.algorithms import init_rl_params, policy_gradient
from rlreason.data import pipeline
from rlreason.data.tasks.base import Row, RowSource
from rlreason.rewards import (
    CombinedReward, RewardSpec, WorkerPool, combine_rewards, has_math_golds, verifier_columns)
from rlreason.rollout import Sampled, Scored
from rlreason.tokenizers import Tokenizer
from rlreason.training import preflight, rl_metrics
from rlreason.training.group_plans import GroupPlanner
from rlreason.training.setup import Setup
from rlreason.training.stage_configs import DistillStage, RLStage, SampleStage
from rlreason.training.stages import base, policies
from rlreason.types import Key, Outcome, Params, Rollout

Scorer = Callable[[list[Row], Rollout], Scored]


def check_rl(setup: Setup, stage: RLStage):
  """Raises FileNotFoundError or ValueError where the stage could not be made."""
  base.check_rows("num_prompts", stage.num_prompts, setup.layout.num_shards)
  for name in ("minibatch_size", "micro_batch_size"):
    base.check_rows(
        f"algorithm.{name}", vars(stage.algorithm)[name], setup.layout.num_replicas)
  base.check_source("problems", stage.problems, "{prompt, answer}")
  base.check_top_k(stage.sampling.top_k, setup.model.vocab_size)
  base.check_bigrams(stage.sampling.blocked_bigrams, setup.model.vocab_size)
  make_reward(setup, stage, None)
  policies.check_scalar_models(setup, stage)
  policies.check_reference(setup, stage)
  check_problems(setup, stage)


def make_reward(
    setup: Setup, stage: RLStage | SampleStage, pool: WorkerPool | None
) -> CombinedReward:
  """The rewards of a stage; the exploration reward knows the stage's shortest reasoning."""
  specs = stage.rewards
  if isinstance(stage, RLStage):
    shortest = {"min_length": stage.min_reasoning}
    specs = [dataclasses.replace(spec, options={**shortest, **spec.options})
             if spec.name == "exploration" and spec.function is None else spec for spec in specs]
  return combine_rewards(
      specs, verifier=setup.tasks["train"].verifier, pool=pool, clip_range=stage.reward_clip)


def make_scorer(
    setup: Setup, stage: RLStage | SampleStage, pool: WorkerPool, folder: pathlib.Path,
    tokenizer: Tokenizer | None = None,
) -> Scorer:
  """Makes `score(rows, rollout)`: texts and rewards of completions, with the reward model's score.

  `tokenizer` is that of the completions, where it is not the policy's.
  """
  reward, tokenizer = make_reward(setup, stage, pool), tokenizer or setup.tokenizer
  model_scores = policies.make_model_scores(setup, stage, folder)

  def score(rows, rollout):
    return rollout_lib.score(
        reward, tokenizer, rows, rollout, model_scores(rollout) if model_scores else None)

  return score


def check_problems(setup: Setup, stage: RLStage | SampleStage | DistillStage):
  """Raises ValueError where none of the stage's problems fits; those of a stage come later."""
  if not base.is_of_stage(stage.problems):
    rollout_lib.check_fitting(*_problems(setup, stage, pathlib.Path()))


def make_problems(
    setup: Setup, stage: RLStage | SampleStage | DistillStage, folder: pathlib.Path
) -> rollout_lib.FittingRows:
  """The problems of a stage: those of the task, or of the file or stage that it names."""
  return rollout_lib.FittingRows(*_problems(setup, stage, folder))


def _problems(
    setup: Setup, stage: RLStage | SampleStage | DistillStage, folder: pathlib.Path
) -> tuple[RowSource, Tokenizer, int, set[str], bool]:
  """What `FittingRows` takes."""
  train = setup.tasks["train"]
  rows = train.rows
  if stage.problems:
    rows = base.read_rows(stage, "problems", setup.tokenizer, folder, ("prompt", "answer"))
  specs = [spec for spec in vars(stage).get("rewards", ()) if spec.name == "verifier"]
  spec = specs[0] if specs else RewardSpec(name="verifier")
  columns = verifier_columns(spec, train.verifier)
  if vars(stage).get("answer_template"):
    columns = {*columns, "answer"}
  return (rows, setup.tokenizer, max(setup.recipe.prompt_buckets), columns,
          has_math_golds(spec, train.verifier))


class _Drawn(NamedTuple):
  """What one step works on."""

  sampled: Sampled  # the groups that are trained on
  everything: list[Sampled]  # what was sampled for them
  scores: Any  # of `Algorithm.score`, on the device
  placed: Any  # the rollout, on the device
  seconds: dict[str, float]


def make_rl(
    setup: Setup, stage: RLStage, policy: Params, seed: int, pool: WorkerPool,
    folder: pathlib.Path,
) -> base.Stage:
  """The stage; `folder` is the run's, for data that stages before it wrote."""
  layout, config = setup.layout, stage.algorithm
  updates = stage.updates_per_step
  optimizer, schedule = base.optimizer_of(stage.optimizer, stage.steps * updates)
  reference_model, given = policies.load_reference(setup, stage)
  own, reference = policies.own_policy(setup, policy, seed, has_reference=(
      config.has_fixed_reference and given is None))
  reference = layout.put_state(given or reference) if given or reference else None
  critic_model, critic = policies.load_critic(setup, stage, seed, folder)
  algorithm = policy_gradient(
      config, setup.model, optimizer, temperature=stage.sampling.temperature,
      group_size=stage.group_size, critic=critic_model, reference=reference_model,
      has_answers=bool(stage.answer_template))
  state = layout.put_state(algorithm.init(init_rl_params(config, setup.model, own, critic)))
  make_batch = layout.compile_whole(algorithm.make_batch)
  update = layout.compile_update(algorithm.update_step, state)
  problems = make_problems(setup, stage, folder)
  scorer = make_scorer(setup, stage, pool, folder)
  planner = GroupPlanner(config, stage.group_size, layout)
  generate = rollout_lib.make_generator(
      setup.model, setup.tokenizer, layout, options=stage.sampling, group_size=stage.group_size,
      prompt_buckets=setup.recipe.prompt_buckets,
      has_values=config.critic == "shared" and not config.recompute_log_probs)
  score = layout.compile_rows(algorithm.score)
  draw = _make_draw(setup, stage, scorer, generate, score, planner)
  greedy_scores = _make_greedy_scores(setup, stage, scorer)

  def step(state, number, data, key):
    key_sample, key_update = jax.random.split(key)
    models_now = {"params": state.params, "reference": state.reference or reference}
    drawn = draw(models_now, data, key_sample)
    rows, rollout, scored = drawn.sampled
    outcome = Outcome(
        scored.totals, scored.is_scored, scored.is_right, greedy_scores(state.params, rows, key),
        *_parts(stage, scored))
    ready, batch_metrics = make_batch(
        (drawn.placed, drawn.scores, layout.put_rows(outcome)), layout.get_state(state.coefs))
    ready = ready.replace(plan=planner.of_update(ready, key_update))
    state, update_metrics = update(state, ready, key_update)
    host_metrics = rl_metrics.rollout_metrics(scored, rollout, stage.group_size) | {
        "optim/lr": float(schedule(number * updates)),
        "rollout/dropped_prompts": problems.num_dropped, **drawn.seconds}
    if stage.max_rounds > 1:
      host_metrics |= rl_metrics.round_metrics(
          drawn.everything, drawn.sampled, stage.group_size, stage.useful_by)
    samples = rl_metrics.sample_rows(rows, scored, stage.group_size, setup.recipe.samples_per_step)
    accuracies = rl_metrics.accuracy_rows(drawn.everything, number) if stage.writes_accuracy else []
    tokens = sum(int(part.rollout.prompt_mask.sum() + part.scored.lengths.sum())
                 for part in drawn.everything)
    return base.StepOutput(
        state, batch_metrics | update_metrics, host_metrics, tokens, samples, accuracies)

  return base.Stage(
      stage.name, stage.steps, state,
      pipeline.prompt_batches(problems, stage.num_prompts, seed), step,
      preflight=functools.partial(_preflight, stage, problems, generate, scorer))


def _preflight(
    stage: RLStage, problems: rollout_lib.FittingRows, generate: Callable, scorer: Scorer,
    params: Params, key: Key,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
  """Samples and scores a few problems of the whole data set; see `Stage.preflight`.

  The rows are as many as in a step, the problems over and over, so that no program is compiled for
  this alone; with a reward model all of them are scored, for the same reason.
  """
  count = min(preflight.NUM_PROMPTS, len(problems), stage.num_prompts)
  chosen = [problems[i * len(problems) // count] for i in range(count)]
  rows = [chosen[i % count] for i in range(stage.num_prompts)]
  rollout = generate(params, rows, key)
  if not stage.reward_model:
    rows, rollout = chosen, jax.tree.map(lambda x: x[:count * stage.group_size], rollout)
  scored = scorer(rows, rollout)
  samples = rl_metrics.sample_rows(rows, scored, stage.group_size, count * stage.group_size)
  return rl_metrics.rollout_metrics(scored, rollout, stage.group_size), samples


def _make_draw(
    setup: Setup, stage: RLStage, scorer: Scorer, generate: Callable, score: Callable,
    planner: GroupPlanner,
) -> Callable[[dict, pipeline.BatchIterator, Key], _Drawn]:
  """Makes `draw(models, data, key)`: the completions a step trains on, with their scores."""
  layout = setup.layout
  buckets = (*stage.length_buckets, stage.sampling.max_new_tokens)

  def score_on_device(models, rollout):
    placed = layout.put_rows(rollout)
    return placed, score(models, placed, planner.of_rollout(rollout))

  def draw_one(models, data, key):
    started = time.perf_counter()
    rows = next(data)
    rollout = rollout_lib.crop(generate(models["params"], rows, key), buckets)
    sampled = time.perf_counter()
    trained = rollout
    if stage.answer_template:
      trained = rollout_lib.append_answers(setup.tokenizer, rows, rollout, stage.answer_template)
    # Dispatched, not awaited: the device computes while the host reads and scores the texts.
    placed, scores = score_on_device(models, trained)
    result = Sampled(rows, rollout, scorer(rows, rollout))
    seconds = {"time/sampling": sampled - started, "time/rewards": time.perf_counter() - sampled}
    return _Drawn(result, [result], scores, placed, seconds)

  def draw_until_full(models, data, key):
    """Dynamic sampling (DAPO, https://arxiv.org/abs/2503.14476, eq. 11), bounded."""
    started = time.perf_counter()
    parts, useful = [], 0
    while useful < stage.num_prompts and len(parts) < stage.max_rounds:
      rows = next(data)
      rollout = generate(models["params"], rows, jax.random.fold_in(key, len(parts)))
      parts.append(Sampled(rows, rollout, scorer(rows, rollout)))
      useful += int(parts[-1].differs(stage.group_size, stage.useful_by).sum())
    chosen = rollout_lib.fill_with_useful(
        parts, stage.num_prompts, stage.group_size, stage.useful_by)
    chosen = chosen._replace(rollout=rollout_lib.crop(chosen.rollout, buckets))
    placed, scores = score_on_device(models, chosen.rollout)
    seconds = {"time/sampling": time.perf_counter() - started}
    return _Drawn(chosen, parts, scores, placed, seconds)

  return draw_one if stage.max_rounds == 1 else draw_until_full


def _parts(stage: RLStage, scored: Scored) -> tuple[np.ndarray | None, np.ndarray | None]:
  """Rewards f32[B, N] of a weight other than 0, and the weights; None where nobody asks for them.

  What could not be scored is 0, in a row that takes part in nothing.
  """
  if "parts" not in stage.algorithm.advantage.arrays:
    return None, None
  specs = [spec for spec in stage.rewards if spec.weight]
  values = [[0.0 if value is None else value for value in scored.rewards.parts[spec.name]]
            for spec in specs]
  parts = np.array(values, np.float32).reshape(len(specs), len(scored.completions)).T
  return parts, np.broadcast_to(np.float32([spec.weight for spec in specs]), parts.shape)


def _make_greedy_scores(
    setup: Setup, stage: RLStage, scorer: Scorer
) -> Callable[[Params, list[Row], Key], np.ndarray | None]:
  """Makes the baseline of ReMax, f32[B]; of a method that does not ask for it, None."""
  if "greedy_scores" not in stage.algorithm.advantage.arrays:
    return lambda params, rows, key: None
  generate = rollout_lib.make_generator(
      setup.model, setup.tokenizer, setup.layout, group_size=1,
      options=dataclasses.replace(stage.sampling, temperature=0.0),
      prompt_buckets=setup.recipe.prompt_buckets)

  def greedy_scores(params, rows, key):
    scored = scorer(rows, generate(params, rows, key))
    return np.repeat(
        np.where(scored.is_scored, scored.totals, np.nan).astype(np.float32), stage.group_size)

  return greedy_scores
