"""The folder of a run: whose it is, what the run was started with, and what it read.

    <workdir>/run.lock       held while a process works here
    <workdir>/inputs.json    SHA-256 of the files that it reads

All bytes are hashed at each start: it takes less time than reading them into a model, and a time or
a size says little of what a file holds.

Not here: configuration and checkpoints (checkpoint.py), and what the run writes (loop.py).
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
import os
import pathlib

from rlreason import config as config_lib, files, weights
from rlreason.data.sources import digest
from rlreason.data.tasks import own
from rlreason.training import checkpoint as checkpoint_lib
from rlreason.training.checkpoint import FOLDER, UNSAVED, has_checkpoints
from rlreason.training.settings.base import START, stage_of
from rlreason.training.settings.recipe import Recipe

CONFIG, INPUTS = "config.json", "inputs.json"
_WEIGHTS = ".safetensors"
_MODEL_SUFFIXES = (_WEIGHTS, ".json", ".model", ".txt", ".jinja")  # of files a model is read from
# What a run writes, beside its checkpoints. A folder counts when there is something in it.
_WRITTEN = (
    CONFIG, INPUTS, "metrics.jsonl", "samples.jsonl", "summary.json", "report.html", "models",
    "adapters", "data", "evaluation", "plots", "tensorboard", "wandb.json", "wandb")


def check_free(workdir: pathlib.Path) -> None:
  """Looks whether a run may write here: a new one, or the one whose checkpoints are here.

  One that ended before its first checkpoint has nothing to go on with, and begins again.

  Raises:
    ValueError: a file of somebody, or of a run without its checkpoints, would be replaced; names
      it.
    NotADirectoryError, PermissionError: nothing can be written here.
  """
  files.check_writable("workdir", workdir)
  if has_checkpoints(workdir) or (workdir / FOLDER / UNSAVED).exists():
    return
  for name in (*_WRITTEN, FOLDER):
    path = workdir / name
    if path.is_dir():
      path = next(path.iterdir(), None)
    if path is not None and os.path.lexists(path):
      raise ValueError(
          f"workdir: {str(path)!r} is there already, and no checkpoint of a run that it could be "
          f"of; it would be replaced: give a new workdir, or move it away")


def grown_steps(workdir: pathlib.Path, recipe: Recipe) -> tuple[str, ...]:
  """The path of the field where the last stage has more steps than in the run that goes on.

  Raises:
    ValueError: with as many steps as now it would have had other numbers, or it has fewer.
  """
  if not recipe.stages or not has_checkpoints(workdir) or not (workdir / CONFIG).exists():
    return ()
  stages = checkpoint_lib.read_json(workdir / CONFIG).get("stages", [])
  last, number = recipe.stages[-1], len(recipe.stages) - 1
  if len(stages) != len(recipe.stages) or not hasattr(last, "steps"):
    return ()
  before = stages[-1].get("steps")
  if before == last.steps or not isinstance(before, int):
    return ()
  name = f"config.{last.name}.steps: got {last.steps} in a run that was started with {before}"
  if last.steps < before:
    raise ValueError(f"{name}, allowed: {before} or more")
  summary = workdir / "summary.json"
  ended = checkpoint_lib.read_json(summary)["stages"][-1] if summary.exists() else {}
  if "ended_early" in ended and ended["name"] == last.name:
    raise ValueError(f"{name}, which ended early ({ended['ended_early']}), allowed: {before}")
  schedule = last.optimizer.schedule if hasattr(last, "optimizer") else "constant"
  if schedule != "constant":
    raise ValueError(
        f"{name} and optimizer.schedule={schedule!r}, by which each step depends on how many there "
        f"are, allowed: {before}, or a new workdir (a run with the schedule 'constant' may grow)")
  return (f"config.stages[{number}].steps",)


def write_steps(workdir: pathlib.Path, recipe: Recipe) -> None:
  """Puts the steps of the last stage into the config of a run that goes on with more of them."""
  record = checkpoint_lib.read_json(workdir / CONFIG)
  record["stages"][-1]["steps"] = recipe.stages[-1].steps
  checkpoint_lib.write_json(workdir / CONFIG, record)


Inputs = dict[str, dict[str, str]]  # field of the config -> file -> SHA-256


def read_inputs(recipe: Recipe) -> Inputs:
  """The checksums of all that a run reads: data, models, adapters, rows of a task in Python."""
  return own.input_digests(recipe.task) | _digests(_input_paths(recipe))


def read_task_inputs(recipe: Recipe) -> Inputs:
  """Those of the files, or rows, of a recipe's task: what an evaluation reads, beside a model."""
  return own.input_digests(recipe.task) | _digests(_input_paths(recipe, "config.task."))


def read_model_inputs(models: Mapping[str, str | None]) -> Inputs:
  """The checksums of the files of models, by what names them; None: there is none."""
  found = {name: pathlib.Path(weights.find_model(path)) for name, path in models.items() if path}
  return _digests((name, path) for name, path in found.items() if path.exists())


def _digests(paths: Iterable[tuple[str, pathlib.Path]]) -> Inputs:
  named = [(field, name, file) for field, path in paths for name, file in _files_of(path)]
  with futures.ThreadPoolExecutor() as threads:
    sums = list(threads.map(lambda entry: digest(entry[2]), named))
  inputs = {}
  for (field, name, _), total in zip(named, sums, strict=True):
    inputs.setdefault(field, {})[name] = total
  return inputs


def check_inputs(workdir: pathlib.Path, inputs: Inputs, allow_changed: bool) -> None:
  """Looks whether a run that goes on reads the files that it was started with.

  A run of an older version did not write their checksums down, and goes on.

  Raises:
    ValueError: other files or rows, and not `allow_changed`; names them.
  """
  file = workdir / INPUTS
  if allow_changed or not (file.exists() and has_checkpoints(workdir)):
    return
  before = checkpoint_lib.read_json(file)
  if not all(isinstance(sums, dict) for sums in before.values()):
    raise ValueError(f"{str(file)!r} is damaged: it holds no checksums; put it back from a copy, "
                     "or go on without: --allow_changed_inputs")
  lines = []
  for field in sorted({*before, *inputs}):
    old, new = before.get(field, {}), inputs.get(field, {})
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    if changed:
      lines.append(f"{field}: {', '.join(changed)}")
  if lines:
    raise ValueError(
        f"the run in {str(workdir)!r} was started with other files or rows ({'; '.join(lines)}); "
        "put them back, give a new workdir, or go on with these: --allow_changed_inputs")


def stage_files(workdir: pathlib.Path, stage: str) -> dict[str, str]:
  """The checksums of what a stage wrote for the stages after it, by the path in the folder."""
  folders = [workdir / "models" / stage, workdir / "adapters" / stage]
  found = [file for folder in folders for file in sorted(folder.glob("*")) if file.is_file()]
  data = workdir / "data" / f"{stage}.jsonl"
  found += [data] if data.is_file() else []
  with futures.ThreadPoolExecutor() as threads:
    return dict(zip((str(file.relative_to(workdir)) for file in found), threads.map(digest, found)))


def check_files(workdir: pathlib.Path, sums: dict[str, str]) -> None:
  """Looks whether what stages wrote is still that; what is gone is missed where it is read.

  Raises:
    ValueError: names a file that is damaged or was changed.
  """
  with futures.ThreadPoolExecutor() as threads:
    wrong = threads.map(
        lambda name: (workdir / name).is_file() and digest(workdir / name) != sums[name], sums)
    for name, is_wrong in zip(sums, wrong):
      if is_wrong:
        raise ValueError(
            f"{str(workdir / name)!r} is not what its stage wrote, and later stages may read it: "
            "put it back from a copy, or give a new workdir")


def _input_paths(recipe: Recipe, below: str = "config.") -> Iterator[tuple[str, pathlib.Path]]:
  """(field, file or folder) of what is there of the recipe's paths, and is no stage's."""
  stages = {f"config.stages[{i}]": f"config.{stage.name}" for i, stage in enumerate(recipe.stages)}
  names = (*START, *(stage.name for stage in recipe.stages))
  for field, path in config_lib.paths(recipe):
    section, _, name = field.rpartition(".")
    if not field.startswith(below) or not path or path in names or stage_of(path) is not None:
      continue
    found = pathlib.Path(weights.find_model(path))
    if found.exists():
      yield f"{stages.get(section, section)}.{name}", found


def _files_of(path: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
  """(name, file) of a file, or of those of a model's folder; any other folder is one by itself."""
  if path.is_dir() and any(path.glob(f"*{_WEIGHTS}")):
    return [(file.name, file) for file in sorted(path.iterdir()) if file.suffix in _MODEL_SUFFIXES]
  return [(path.name, path)]
