"""Problems, rewards and scorers, which all stages that sample completions share."""

from collections.abc import Callable
import dataclasses
import functools
import pathlib

from rlreason import processes, rollout as rollout_lib
from rlreason.data.tasks.base import Row, RowSource
from rlreason.rewards import (
    SCORE_COLUMN, STEPS_COLUMN, CombinedReward, RewardSpec, combine_rewards, has_math_golds,
    verifier_columns)
from rlreason.rewards.judge import Ask
from rlreason.rollout import Scored
from rlreason.tokenizers import Tokenizer
from rlreason.training.settings.distill import DistillStage
from rlreason.training.settings.rl import RLStage
from rlreason.training.settings.sample import SampleStage
from rlreason.training.stages import judges, policies, sources
from rlreason.training.stages.base import Setup
from rlreason.types import Params, Rollout
from rlreason.workers import WorkerPool

Scorer = Callable[[list[Row], Rollout], Scored]


def make_reward(
    setup: Setup, stage: RLStage | SampleStage, pool: WorkerPool | None, ask: Ask | None = None
) -> CombinedReward:
  """The rewards of a stage; the exploration reward gets its `min_reasoning_tokens`."""
  specs = stage.rewards
  if isinstance(stage, RLStage):
    shortest = {"min_length": stage.min_reasoning_tokens}
    specs = [dataclasses.replace(spec, options={**shortest, **spec.options})
             if spec.name == "exploration" and spec.function is None else spec for spec in specs]
  return combine_rewards(
      specs, verifier=setup.tasks["train"].verifier, pool=pool, clip_range=stage.reward_clip,
      ask=ask)


def check_potentials(stage: RLStage):
  """Raises ValueError if the differences of a potential would reach no token."""
  for spec in stage.rewards:
    if spec.is_potential and spec.weight and not stage.algorithm.places_rewards:
      raise ValueError(
          f"rewards.{spec.name}.is_potential: got True with critic='none' and advantage="
          f"{stage.algorithm.advantage.name}, which gives all tokens of a completion the same, "
          "allowed: with a critic, or with group_centered, leave_one_out, no_baseline, opo, remax")


def make_scorer(
    setup: Setup, stage: RLStage | SampleStage, pool: WorkerPool, folder: pathlib.Path,
    tokenizer: Tokenizer | None = None,
) -> tuple[Scorer, list[Params | None] | None]:
  """Makes `scorer(rows, rollout)`: texts and rewards of completions; and gives the parameters of
  the stage's models of rewards, if it has any, whose scores the rewards then read.

  `tokenizer` is that of the completions, if it is not the policy's.
  """
  reward = make_reward(setup, stage, pool, judges.make_ask(setup, stage))
  tokenizer = tokenizer or setup.tokenizer
  model_scores, params = policies.make_model_scores(setup, stage, folder)
  step_scores, step_params = policies.make_step_scores(setup, stage, folder, tokenizer)

  score = rollout_lib.score if processes.count() == 1 else rollout_lib.score_together
  score = functools.partial(score, reward, tokenizer)
  makers = {name: make for name, make in (
      (SCORE_COLUMN, model_scores), (STEPS_COLUMN, step_scores)) if make is not None}
  if not makers:
    return score, None
  return lambda rows, rollout: score(rows, rollout, {
      name: make(rollout) for name, make in makers.items()}), [params, step_params]


def check_problems(setup: Setup, stage: RLStage | SampleStage | DistillStage):
  """Raises ValueError if none of the stage's problems fits; data of a stage do not exist yet."""
  if not sources.is_of_stage(stage.problems):
    rollout_lib.check_fitting(*_problems(setup, stage, pathlib.Path()))


def make_problems(
    setup: Setup, stage: RLStage | SampleStage | DistillStage, folder: pathlib.Path
) -> rollout_lib.FittingRows:
  """The problems of a stage: those of the task, or of the file or stage that it names."""
  return rollout_lib.FittingRows(*_problems(setup, stage, folder))


def _problems(
    setup: Setup, stage: RLStage | SampleStage | DistillStage, folder: pathlib.Path
) -> tuple[RowSource, Tokenizer, int, set[str], bool]:
  """The arguments of `FittingRows`."""
  train = setup.tasks["train"]
  rows = train.rows
  if stage.problems:
    rows = sources.read_rows(stage, "problems", setup.tokenizer, folder, ("prompt", "answer"))
  specs = [spec for spec in vars(stage).get("rewards", ()) if spec.name == "verifier"]
  spec = specs[0] if specs else RewardSpec(name="verifier")
  columns = verifier_columns(spec, train.verifier)
  if vars(stage).get("answer_template"):
    columns = {*columns, "answer"}
  return (rows, setup.tokenizer, max(setup.recipe.prompt_buckets), columns,
          has_math_golds(spec, train.verifier))
