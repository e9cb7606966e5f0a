"""Compares runs: their results, paired differences, and differences of their configs.

A result is a run's folder, one with a run for each seed (`train --seeds`), or a file of `evaluate
--output`. It reads summary.json, evaluation/<stage>.jsonl, config.json and metrics.jsonl.

Not here: the plot (comparison_plot.py) and the table (commands/compare.py).
"""

from collections.abc import Sequence
import json
import os
import pathlib
from typing import Any, NamedTuple

from rlreason import hub, records
from rlreason.evaluation import completions as completions_lib, metrics
from rlreason.evaluation.completions import Completions
from rlreason.training import metrics as metrics_lib
from rlreason.training.workdir import CONFIG

SEED_PREFIX = "seed-"  # of the folders of a run over seeds
_LENGTH = "length"
# Fields of the provenance whose differences make results incomparable.
_MADE = ("seed", "data", "task", "template", "sampling", "grader")


class Run(NamedTuple):
  """One run, or one evaluation."""

  name: str
  stage: str  # that is compared
  evaluation: dict[str, dict[str, metrics.Estimate]]  # task -> metric -> estimate
  completions: Completions  # [] where an older version did not write them
  record: dict[str, Any]  # config.json, or of an evaluation how it was made
  lines: list[dict[str, Any]]  # of metrics.jsonl


class Group(NamedTuple):
  """One column of a comparison: runs that differ in their seed, or a single one."""

  name: str
  runs: list[Run]


def read_group(path: str | os.PathLike, stage: str = "") -> Group:
  """Reads a result to compare.

  Args:
    path: as above; `@stage` after it names a stage of this result only, as in runs/a@sft.
    stage: the stage whose evaluation is compared; empty: the last that has one.

  Raises:
    FileNotFoundError: there is no result.
    ValueError: a file is damaged, or the stage has no evaluation; names it.
  """
  path = pathlib.Path(hub.local_path("run", name := os.fspath(path)))
  if "@" in path.name and not path.exists():
    last, _, stage = path.name.rpartition("@")
    path = path.with_name(last) if last else path
  seeds = seed_folders(path)
  return Group(name, [_read_run(folder, stage) for folder in seeds or [path]])


def seed_folders(path: pathlib.Path) -> list[pathlib.Path]:
  """The runs in a folder that `train --seeds` wrote, by seed; [] in any other folder."""
  found = [folder for folder in path.glob(f"{SEED_PREFIX}*")
           if folder.name.removeprefix(SEED_PREFIX).isdigit() and folder.is_dir()]
  return sorted(found, key=lambda folder: int(folder.name.removeprefix(SEED_PREFIX)))


def compare(groups: Sequence[Group]) -> dict[str, Any]:
  """Compares all other groups with the first.

  Returns:
    {runs: [{name, stage, seeds}], tasks: {task: {metric: {values: [estimate], differences:
    [estimate or None]}}}, configs: [[line]]}: the lists have an entry for each group, and the
    differences and lines of the first are None and []. An estimate of several seeds is that of
    `metrics.over_seeds`. A difference is paired over the problems for which both groups have
    completions; None if there are none. Problems are matched by their prompt and right answer, or,
    if no prompts match, by their index and right answer. Values of a problem are means over the
    seeds.
  """
  first = groups[0]
  evaluations = [run.evaluation for group in groups for run in group.runs]
  tasks = [task for task in evaluations[0] if all(task in found for found in evaluations)]
  return {
      "runs": [{"name": group.name, "stage": group.runs[0].stage, "seeds": len(group.runs)}
               for group in groups],
      "tasks": {task: _compare_task(groups, task, is_part=task != tasks[0]) for task in tasks},
      "configs": [_config_differences(first, group) for group in groups],
  }


def _compare_task(groups: Sequence[Group], task: str, is_part: bool) -> dict[str, Any]:
  of_runs = [[run.evaluation[task] for run in group.runs] for group in groups]
  names = dict.fromkeys(name for found in of_runs for one in found for name in one)
  part = task if is_part else None
  return {name: {
      "values": [_mean(name, found) for found in of_runs],
      "differences": [None, *(_difference(groups[0], group, name, part) for group in groups[1:])],
  } for name in names}


def _mean(name: str, estimates: list[dict[str, metrics.Estimate]]) -> metrics.Estimate | None:
  known = [found[name] for found in estimates if name in found]
  if len(known) == len(estimates) == 1:
    return known[0]
  return metrics.over_seeds(known, is_share=metrics.is_share(name)) if known else None


def _difference(
    first: Group, second: Group, metric: str, part: str | None) -> metrics.Estimate | None:
  """The paired difference of two groups; None if they share no problem."""
  for name_problems in (_by_prompt, _by_index):
    try:
      sides = [[_by_problem(run, metric, part, name_problems) for run in group.runs]
               for group in (first, second)]
    except ValueError:  # a metric not of single problems, or of too many samples
      return None
    keys = [key for key in sides[0][0] if all(key in values for side in sides for values in side)]
    if keys:
      break
  else:
    return None
  means = [[sum(values[key] for values in side) / len(side) for key in keys] for side in sides]
  paired = metrics.paired_mean_difference if metric == _LENGTH else metrics.paired_difference
  return paired(*means)


def _by_problem(run: Run, metric: str, part: str | None, name_problems) -> dict[tuple, float]:
  """The metric of each problem, by a key that identifies it in any run."""
  rows = [row for row in run.completions if part is None or row.get("task_name") == part]
  if not rows:
    return {}
  if metric == _LENGTH:
    values = {row["problem"]: float(row["length"]) for row in rows if row["sample"] is None}
  else:
    values = completions_lib.per_problem(rows, metric)
  names = name_problems(rows)
  return {names[problem]: value for problem, value in values.items()}


def _by_prompt(rows: Completions) -> dict[int, tuple]:
  """Prompt, right answer and, if several problems share these, an index."""
  seen, names = {}, {}
  for row in rows:
    if row["problem"] not in names:
      text = json.dumps([row["prompt"], row["gold"]])
      seen[text] = seen.get(text, 0) + 1
      names[row["problem"]] = (text, seen[text])
  return names


def _by_index(rows: Completions) -> dict[int, tuple]:
  return {row["problem"]: (row["problem"], json.dumps(row["gold"])) for row in rows}


def _config_differences(first: Group, second: Group) -> list[str]:
  """`path: value of the first -> value of the second`; the seeds of several runs are ignored."""
  old, new = (_as_typed(group.runs[0].record) for group in (first, second))
  lines = [f"config.{name}: only in the {place}" for one, other, place in (
      (old, new, "first"), (new, old, "second"))
           for name, value in one.items() if name not in other and isinstance(value, dict)]
  told = {line.partition(":")[0].removeprefix("config.") for line in lines}
  lines += records.differences(*(
      {name: value for name, value in record.items() if name not in told} for record in (old, new)))
  lines = [line for line in lines  # without expected results
           if not line.startswith("config.evaluation.expected")]
  has_seeds = max(len(first.runs), len(second.runs)) > 1
  return [line for line in lines if not (has_seeds and line.startswith("config.seed:"))]


def _as_typed(record: dict[str, Any]) -> dict[str, Any]:
  """A config with the paths of the command line: `rl.rewards.verifier` for entries of two lists."""
  stages = {stage.get("name"): stage for stage in record.get("stages", ())}
  for name, stage in stages.items():
    parts = {part.get("name"): part for part in stage.get("rewards", ())}
    stages[name] = stage | {"rewards": parts} if parts else stage
  return record | {"stages": list(stages)} | stages


def _read_run(path: pathlib.Path, stage: str) -> Run:
  is_file = path.is_file()
  summary_file = path if is_file else path / "summary.json"
  if not summary_file.is_file():
    raise FileNotFoundError(
        f"no result in {str(path)!r}; give the --workdir of a run that was evaluated, one of "
        "train --seeds, or a file that evaluate --output wrote")
  summary = _read_json(summary_file)
  stages = summary.get("stages")
  if not isinstance(stages, list) or not all(
      isinstance(one, dict) and isinstance(one.get("evaluation"), dict) for one in stages):
    raise ValueError(f"{str(summary_file)!r} is no summary of a run")
  stages = metrics.with_current_summary(summary)["stages"]
  evaluated = {one["name"]: one["evaluation"] for one in stages if one["evaluation"]}
  if not evaluated or (stage and stage not in evaluated):
    raise ValueError(
        f"stage: got {stage!r} of {str(path)!r}, allowed: those with an evaluation "
        f"({', '.join(evaluated) or 'there are none'})")
  stage = stage or list(evaluated)[-1]
  completions = path.with_suffix(".jsonl") if is_file else path / "evaluation" / f"{stage}.jsonl"
  config = path / CONFIG
  made = summary.get("provenance", {})
  record = ({name: made[name] for name in _MADE if name in made} if is_file or not config.exists()
            else _read_json(config))
  lines = [] if is_file else metrics_lib.read_lines(path / "metrics.jsonl")
  return Run(str(path), stage, evaluated[stage], metrics_lib.read_lines(completions), record, lines)


def _read_json(file: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(file.read_bytes())
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{str(file)!r} is damaged, and no JSON: {error}") from error
  if not isinstance(value, dict):
    raise ValueError(f"{str(file)!r} is damaged: it holds no object")
  return value
