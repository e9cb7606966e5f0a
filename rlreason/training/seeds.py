"""One recipe with several seeds, one run after the other, and a summary over them.

    <workdir>/seed-<seed>/   one run each, as by `run.train`
    <workdir>/summary.json   as that of a run; estimates are means, with the spread over the seeds

Not here: comparisons of recipes (comparison.py).
"""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any

from rlreason import files, hub, processes
from rlreason.evaluation import metrics
from rlreason.training import (
    checkpoint as checkpoint_lib, loop, progress as progress_lib, run, tables)
from rlreason.training.comparison import SEED_PREFIX, seed_folders
from rlreason.training.settings.recipe import Recipe
from rlreason.training.workdir import CONFIG

_MAX_SEED = 2**31 - 1


def train_seeds(
    recipe: Recipe, workdir: str | os.PathLike, count: int, **options: Any
) -> dict[str, Any]:
  """Runs a recipe with `count` seeds, from its own on, or resumes such runs.

  Args:
    recipe: the recipe; only its seed changes.
    workdir: the folder of the runs, made if missing.
    count: 1 or more; more than before adds runs.
    **options: those of `run.train`, for each of the runs.

  Returns:
    The summary over the seeds.

  Raises:
    ValueError: the count is out of range, or the folder is that of a single run or of others.
    As `run.train`, Interrupted with the folder of all.
  """
  if not 1 <= count <= _MAX_SEED - recipe.seed + 1:
    raise ValueError(f"seeds: got {count} from {recipe.seed} on, allowed: 1 or more, up to the "
                     f"seed {_MAX_SEED}")
  workdir = pathlib.Path(hub.local_path("workdir", os.fspath(workdir))).absolute()
  processes.from_writer(lambda: _check_folder(workdir))
  summaries = []
  for seed in (seeds := range(recipe.seed, recipe.seed + count)):
    folder = workdir / f"{SEED_PREFIX}{seed}"
    progress_lib.Progress().message(f"seed {seed}, {len(summaries) + 1} of {count}: {folder}")
    try:
      summaries.append(run.train(dataclasses.replace(recipe, seed=seed), folder, **options))
    except loop.Interrupted as error:  # which names the folder of one seed
      raise loop.Interrupted(
          f"stopped on request, at seed {seed}; the same command with --workdir={workdir} resumes "
          "from there") from error
  summary = summarize(list(seeds), summaries)
  checkpoint_lib.write_json(workdir / "summary.json", summary)
  tables.print_summary(summary, {"runs": str(workdir / f"{SEED_PREFIX}*")})
  return summary


def _check_folder(workdir: pathlib.Path):
  files.check_writable("workdir", workdir)
  held = next((name for name in (CONFIG, checkpoint_lib.FOLDER) if (workdir / name).exists()), None)
  if held is None and (workdir / "summary.json").exists() and not seed_folders(workdir):
    held = "summary.json"
  if held is not None:
    raise ValueError(f"workdir: {str(workdir)!r} holds {held!r}, which is not of runs over seeds, "
                     "allowed: a new folder, or one of the same command")


def summarize(seeds: Sequence[int], summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """One summary of runs that differ in their seed.

  Returns:
    {seeds, provenance, stages}: steps, seconds and tokens of a stage are those of all runs
    together, its estimates those of `metrics.over_seeds`, and the provenance is that of the first
    run.
  """
  stages = []
  for parts in zip(*(summary["stages"] for summary in summaries), strict=True):
    total = {name: sum(part[name] for part in parts) for name in ("steps", "seconds", "tokens")}
    stages.append({"name": parts[0]["name"], **total, "evaluation": {
        task: _over_seeds([part["evaluation"][task] for part in parts])
        for task in parts[0]["evaluation"]}})
  provenance = {name: value for name, value in summaries[0].get("provenance", {}).items()
                if name != "seed"}
  return {"seeds": list(seeds), "provenance": provenance, "stages": stages}


def _over_seeds(estimates: Sequence[dict[str, metrics.Estimate]]) -> dict[str, dict[str, Any]]:
  """Estimates of each metric that any of the runs has, such as tokens per right answer."""
  names = dict.fromkeys(name for found in estimates for name in found)
  return {name: metrics.over_seeds(
      [found[name] for found in estimates if name in found],
      is_share=metrics.is_share(name)) for name in names}
