"""The folder of a run: its owner, and the files that its stages wrote for each other.

    <workdir>/run.lock       held while a process works here

Not here: what the run reads (inputs.py), configuration and checkpoints (checkpoint.py), and what
the run writes (loop.py).
"""

from collections.abc import Sequence
from concurrent import futures
import os
import pathlib
from typing import Any

from rlreason import files
from rlreason.data.sources import digest
from rlreason.training import checkpoint as checkpoint_lib
from rlreason.training.checkpoint import FOLDER, UNSAVED, has_checkpoints
from rlreason.training.settings.base import RunConfig, StageConfig

CONFIG, INPUTS = "config.json", "inputs.json"
# Files of a run, besides its checkpoints. A folder counts if it is not empty.
_WRITTEN = (
    CONFIG, INPUTS, "metrics.jsonl", "samples.jsonl", "summary.json", "report.html", "models",
    "adapters", "data", "evaluation", "plots", "tensorboard", "wandb.json", "wandb")


def check_free(workdir: pathlib.Path) -> None:
  """Checks that a run may write here: a new one, or the one whose checkpoints are here.

  One that ended before its first checkpoint cannot be resumed, and starts again.

  Raises:
    ValueError: a file of something else, or of a run without its checkpoints, would be replaced;
      names it.
    NotADirectoryError, PermissionError: the folder is not writable.
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


def grown_steps(workdir: pathlib.Path, recipe: RunConfig) -> tuple[str, ...]:
  """The path of the steps field, if the last stage has more steps than in the resumed run.

  Raises:
    ValueError: with the new number of steps earlier results would differ, or it has fewer.
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


def has_grown(stages: Sequence[StageConfig], host: dict[str, Any]) -> bool:
  """Whether a run, of which this is the host's state, ended with fewer steps than there are now."""
  if host.get("stage") != len(stages) or not stages[-1].has_steps:
    return False
  last = host["summary"]["stages"][-1]
  return last["steps"] < stages[-1].steps and "ended_early" not in last


def write_steps(workdir: pathlib.Path, recipe: RunConfig) -> None:
  """Puts the steps of the last stage into the config of a run that is resumed with more."""
  record = checkpoint_lib.read_json(workdir / CONFIG)
  record["stages"][-1]["steps"] = recipe.stages[-1].steps
  checkpoint_lib.write_json(workdir / CONFIG, record)


def stage_files(workdir: pathlib.Path, stage: str) -> dict[str, str]:
  """The checksums of the files that a stage wrote for later stages, by relative path."""
  folders = [workdir / "models" / stage, workdir / "adapters" / stage]
  found = [file for folder in folders for file in sorted(folder.glob("*")) if file.is_file()]
  data = workdir / "data" / f"{stage}.jsonl"
  found += [data] if data.is_file() else []
  with futures.ThreadPoolExecutor() as threads:
    return dict(zip((str(file.relative_to(workdir)) for file in found), threads.map(digest, found)))


def check_files(workdir: pathlib.Path, sums: dict[str, str]) -> None:
  """Checks that files of stages are unchanged; missing ones are reported where they are read.

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
