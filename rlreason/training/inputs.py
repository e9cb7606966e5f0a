"""Checksums of the files that a run reads, which a resumed run must match.

    <workdir>/inputs.json    SHA-256 of the files that it reads

All bytes are hashed at each start: it takes less time than loading them into a model, and times or
sizes do not identify the content of a file.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
import pathlib

from rlreason import config as config_lib, weights
from rlreason.data.sources import digest
from rlreason.data.tasks import own
from rlreason.training import checkpoint as checkpoint_lib
from rlreason.training.checkpoint import has_checkpoints
from rlreason.training.settings.base import START, stage_of
from rlreason.training.settings.recipe import Recipe
from rlreason.training.workdir import INPUTS

_WEIGHTS = ".safetensors"
_MODEL_SUFFIXES = (_WEIGHTS, ".json", ".model", ".txt", ".jinja")  # of files a model is read from

Inputs = dict[str, dict[str, str]]  # field of the config -> file -> SHA-256


def read_inputs(recipe: Recipe) -> Inputs:
  """The checksums of all that a run reads: data, models, adapters, rows of a task in Python."""
  return own.input_digests(recipe.task) | _digests(_input_paths(recipe))


def read_task_inputs(recipe: Recipe) -> Inputs:
  """The checksums of what an evaluation reads: files, or rows, of a task, and a search's scorer."""
  paths = (*_input_paths(recipe, "config.task."), *_input_paths(recipe, "config.evaluation."))
  return own.input_digests(recipe.task) | _digests(paths)


def read_model_inputs(models: Mapping[str, str | None]) -> Inputs:
  """The checksums of the files of models, by the fields that name them; None: no model."""
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
  """Checks that a resumed run reads the files with which it was started.

  Runs of older versions, which did not record checksums, are resumed.

  Raises:
    ValueError: other files or rows, and not `allow_changed`; names them.
  """
  file = workdir / INPUTS
  if allow_changed or not (file.exists() and has_checkpoints(workdir)):
    return
  before = checkpoint_lib.read_json(file)
  if not all(isinstance(sums, dict) for sums in before.values()):
    raise ValueError(f"{str(file)!r} is damaged: it holds no checksums; put it back from a copy, "
                     "or resume without it: --allow_changed_inputs")
  lines = []
  for field in sorted({*before, *inputs}):
    old, new = before.get(field, {}), inputs.get(field, {})
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    if changed:
      lines.append(f"{field}: {', '.join(changed)}")
  if lines:
    raise ValueError(
        f"the run in {str(workdir)!r} was started with other files or rows ({'; '.join(lines)}); "
        "put them back, give a new workdir, or resume with these: --allow_changed_inputs")


def _input_paths(recipe: Recipe, below: str = "config.") -> Iterator[tuple[str, pathlib.Path]]:
  """(field, file or folder) of existing paths of the recipe that are not stages."""
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
  """(name, file) of a file, or of a model folder's files; any other folder counts as one file."""
  if path.is_dir() and any(path.glob(f"*{_WEIGHTS}")):
    return [(file.name, file) for file in sorted(path.iterdir()) if file.suffix in _MODEL_SUFFIXES]
  return [(path.name, path)]
