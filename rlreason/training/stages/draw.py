"""The experience of an RL step: completions and their scores."""

from collections.abc import Callable
import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from rlreason import rollout as rollout_lib
from rlreason.data import pipeline
from rlreason.data.tasks.base import Row
from rlreason.rollout import Sampled, Scored
from rlreason.training import preflight
from rlreason.training.settings.rl import RLStage
from rlreason.training.stages import rl_metrics
from rlreason.training.stages.base import Setup
from rlreason.training.stages.scoring import Scorer
from rlreason.types import Key, Outcome, Params, Rollout


class Judged(NamedTuple):
  """The scored completions of a draw."""

  sampled: Sampled  # the groups used for training
  everything: list[Sampled]  # all groups that were sampled
  greedy_scores: np.ndarray | None  # f32[B], for methods that need them
  seconds: dict[str, float]


class Drawn(NamedTuple):
  """The experience of one step."""

  rollout: Rollout  # numpy, as used for training: `Judged.sampled`, with answers if any
  judge: Callable[[], Judged]  # computes the rewards, once


def make_draw(
    setup: Setup, stage: RLStage, scorer: Scorer, generate: Callable
) -> Callable[[Params, pipeline.BatchIterator, Key], Drawn]:
  """Makes `draw(params, data, key)`: the completions on which a step trains.

  Their rewards are computed when the step requests them, so that the device may compute meanwhile;
  if steps sample ahead, within the draw.
  """
  buckets = (*stage.length_buckets, stage.sampling.max_new_tokens)
  greedy_scores = _make_greedy_scores(setup, stage, scorer)

  def draw_one(params, data, key):
    key_sample, _ = jax.random.split(key)
    started = time.perf_counter()
    rows = next(data)
    rollout = rollout_lib.crop(generate(params, rows, key_sample), buckets)
    seconds = {"time/sampling": time.perf_counter() - started}

    @functools.cache
    def judge():
      started = time.perf_counter()
      result = Sampled(rows, rollout, scorer(rows, rollout))
      seconds["time/rewards"] = time.perf_counter() - started
      return Judged(result, [result], greedy_scores(params, rows, key), seconds)

    if not stage.answer_template:
      return Drawn(rollout, judge)
    return Drawn(rollout_lib.append_answers(
        setup.tokenizer, rows, rollout, stage.answer_template), judge)

  def draw_until_full(params, data, key):
    """Dynamic sampling (DAPO, https://arxiv.org/abs/2503.14476, eq. 11), bounded."""
    key_sample, _ = jax.random.split(key)
    started = time.perf_counter()
    parts, num_differing = [], 0
    while num_differing < stage.num_prompts and len(parts) < stage.max_resample_rounds:
      rows = next(data)
      rollout = generate(params, rows, jax.random.fold_in(key_sample, len(parts)))
      parts.append(Sampled(rows, rollout, scorer(rows, rollout)))
      num_differing += int(parts[-1].differs(stage.group_size, stage.filter_groups_by).sum())
    chosen = rollout_lib.choose_groups(
        parts, stage.num_prompts, stage.group_size, stage.filter_groups_by)
    chosen = chosen._replace(rollout=rollout_lib.crop(chosen.rollout, buckets))
    seconds = {"time/sampling": time.perf_counter() - started}
    judge = functools.cache(
        lambda: Judged(chosen, parts, greedy_scores(params, chosen.rows, key), seconds))
    return Drawn(chosen.rollout, judge)

  draw = draw_one if stage.max_resample_rounds == 1 else draw_until_full

  def draw_and_judge(params, data, key):
    drawn = draw(params, data, key)
    drawn.judge()
    return drawn

  return draw_and_judge if stage.draws_ahead else draw


def make_outcome(setup: Setup, stage: RLStage) -> Callable[[Judged, int], Outcome]:
  """Makes `outcome(judged, width)`: the `Outcome` of rows of this width, for the update."""
  has_parts = "parts" in stage.algorithm.advantage.arrays

  def outcome(judged, width):
    _, rollout, scored = judged.sampled
    totals, paid = scored.totals, None
    if scored.rewards.placed is not None or scored.rewards.potentials is not None:
      paid = rollout_lib.token_rewards(
          setup.tokenizer, rollout, scored.rewards, discount=stage.algorithm.discount,
          bootstraps=stage.algorithm.bootstrap_truncated)
      paid = np.pad(paid, ((0, 0), (0, width - paid.shape[1])))
      totals = totals - rollout_lib.placed_sums(scored.rewards)
    parts = _reward_parts(stage, scored) if has_parts else (None, None)
    return Outcome(totals, scored.is_scored, scored.is_right, judged.greedy_scores, *parts,
                   token_rewards=paid)

  return outcome


def _reward_parts(stage: RLStage, scored: Scored) -> tuple[np.ndarray, np.ndarray]:
  """Rewards f32[B, N] of a weight other than 0, and the weights.

  A reward that could not be scored is 0, in a row that is ignored.
  """
  specs = [spec for spec in stage.rewards if spec.weight]
  values = [[0.0 if value is None else value for value in scored.rewards.parts[spec.name]]
            for spec in specs]
  parts = np.array(values, np.float32).reshape(len(specs), len(scored.completions)).T
  return parts, np.broadcast_to(np.float32([spec.weight for spec in specs]), parts.shape)


def _make_greedy_scores(
    setup: Setup, stage: RLStage, scorer: Scorer
) -> Callable[[Params, list[Row], Key], np.ndarray | None]:
  """Makes the baseline of ReMax, f32[B]; None for methods that do not need it."""
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


def try_problems(
    stage: RLStage, problems: rollout_lib.FittingRows, generate: Callable, scorer: Scorer,
    params: Params, key: Key,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
  """Samples and scores a few problems of the whole data set; see `Stage.preflight`.

  There are as many rows as in a step, with repeated problems, so that no extra program is compiled;
  with a reward model all of them are scored, for the same reason.
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
