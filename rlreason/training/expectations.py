"""Compares the evaluations of a run with the expectations of its recipe, if comparable.

A run has the settings of the recipe if its config, up to the evaluated stage, differs only in the
seed and in fields that change no result. Not here: the ranges (evaluation/expected.py).
"""

import dataclasses
import functools
import pathlib
from typing import Any

from rlreason import config as config_lib, config_files, recipe_files, records
from rlreason.evaluation import expected as expected_lib
from rlreason.training.settings.recipe import PretrainedModel, Recipe, from_config

# Fields that change no result, and the seed.
_FREE = ("seed", "parallel", "checkpoint", "preflight", "samples_per_step", "reward_workers",
         "reward_timeout")
_FREE_OF_MODEL = ("remat", "unroll", "attention")
_FREE_OF_EVALUATION = ("expected", "batch_size", "every_stage", "every_steps", "search")
_OF_SAMPLES = ("num_samples", "temperature", "top_p")  # of a sampled evaluation
_LONGEST = 60  # characters of a displayed value


def of_evaluation(
    recipe: Recipe, stage: str, step: int | None, evaluation: dict[str, Any],
    problems: dict[str, Any],
) -> dict[str, Any] | None:
  """Compares an evaluation of a run with what its recipe expects; None: nothing is expected.

  Args:
    recipe: of the run.
    stage: the stage after or within which it was made; "start" before the first.
    step: number of its steps before the evaluation; None: at its end.
    evaluation: as in summary.json.
    problems: the problems, as from `provenance.of_problems`.

  Returns:
    As from `evaluation.expected.place`.
  """
  config = recipe.evaluation.expected
  if config is None:
    return None
  differences = [*_differences(recipe, stage), *_other_problems(config, problems)]
  return expected_lib.place(
      config, [one.name for one in recipe.stages], stage, step, evaluation, differences)


def of_model(
    recipe: Recipe, path: str, evaluation: dict[str, Any], problems: dict[str, Any]
) -> dict[str, Any] | None:
  """The same for a separately evaluated model, if it is the one from which the recipe starts.

  Args:
    recipe: the recipe whose task was used.
    path: of the model.
    evaluation, problems: as for `of_evaluation`.
  """
  if isinstance(recipe.model, PretrainedModel):
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, path=path))
    found = of_evaluation(recipe, expected_lib.START, None, evaluation, problems)
    if found and not found["differences"]:
      return found
  return None


def line(found: dict[str, Any], evaluation: dict[str, Any]) -> str:
  """The line that is shown to the user."""
  value = next(iter(evaluation.values()))[found["metric"]]["value"]
  return expected_lib.sentence(found, value)


def _differences(recipe: Recipe, stage: str) -> list[str]:
  """`field: before -> now` for differences between a run and the recipe, up to a stage."""
  config = recipe.evaluation.expected
  if not config.recipe:
    return []
  measured = _load(config.recipe)
  if isinstance(measured, str):
    return [f"config.evaluation.expected.recipe: {measured}"]
  old, new = (_record(one, stage, config.metric) for one in (measured, recipe))
  return [difference if len(difference) <= 2 * _LONGEST else f"{difference[:2 * _LONGEST]}…"
          for difference in records.differences(old, new)]


@functools.cache
def _load(name: str) -> Recipe | str:
  """A recipe, or the reason why there is none."""
  known, _, argument = name.partition(":")
  file = recipe_files.find_all().get(known)  # and no file of that name in the current folder
  try:
    return from_config(config_files.load_config_file(f"{file}:{argument}" if file else name))
  except (FileNotFoundError, ValueError) as error:
    return str(error)


def _record(recipe: Recipe, stage: str, metric: str) -> dict[str, Any]:
  """The settings on which a recipe's results up to the end of a stage depend."""
  names = [one.name for one in recipe.stages]
  count = names.index(stage) + 1 if stage in names else 0
  if stage != expected_lib.START and stage not in names:
    count = len(names)
  free = (*_FREE_OF_EVALUATION, *(_OF_SAMPLES if metric.startswith("greedy") else ()))
  if count == 0:
    free = (*free, "stop_after")
  record = records.with_defaults(config_lib.to_dict(recipe), recipe)
  stages = {one["name"]: _without(one, ("name",)) for one in record.pop("stages")[:count]}
  model = _without(record.pop("model"), _FREE_OF_MODEL)
  if "path" in model:
    model["path"] = _model_name(model["path"])
  return {**_without(record, (*_FREE, "evaluation")), "model": model, **stages,
          "evaluation": _without(record["evaluation"], free)}


def _without(record: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
  return {name: value for name, value in record.items() if name not in names}


def _model_name(path: str) -> str:
  """The name of the model in a path, independent of its folder."""
  parts = [part.rpartition("--")[2] for part in pathlib.PurePath(path).parts
           if part.startswith("models--")]  # folder names of the Hub's cache
  return parts[-1] if parts else pathlib.PurePath(path).name


def _other_problems(config: expected_lib.Expected, problems: dict[str, Any]) -> list[str]:
  found = []
  if config.num_problems not in (0, problems["count"]):
    found.append(f"problems: {config.num_problems} -> {problems['count']}")
  if not problems["sha256"].startswith(config.problems_sha256):
    found.append(f"sha256 of the problems: {config.problems_sha256} -> {problems['sha256'][:8]}")
  return found
