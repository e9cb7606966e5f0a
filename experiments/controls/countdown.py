"""Runs the Countdown experiment with its controls and prints the table of docs/results.md.

    .venv/bin/python experiments/controls/countdown.py --root=runs/controls --seeds=0,1,2

Each seed trains both stages once; the controls start from that seed's first stage. Finished runs
are not repeated, so the program may be stopped and restarted. Three seeds take two to three hours
on two cores.
"""

import argparse
from collections.abc import Callable, Sequence
import json
import pathlib
import statistics
import subprocess
import sys

from rlreason.evaluation import metrics

CONFIG = "experiments/rlsp_countdown.py"
OFF = "--config.rl.rewards.{}.weight=0"
CONTROLS = {
    "verifier only (c = 0)": [OFF.format("exploration")],
    "exploration only": [OFF.format("verifier")],
    "random reward": [
        OFF.format("verifier"), OFF.format("exploration"), "--config.rl.rewards.random.weight=1"],
}
BLOCKED = "--config.evaluation.blocked_words=((('lower','higher'),('answer',)),)"
COLUMNS = ("greedy", "avg@8", "pass@8", "maj@8", "reasoning_length", "backtracks", "checks",
           "truncated_fraction")


def main():
  """Runs what is missing and prints the table."""
  rows = run_seeds(run_seed, __doc__, "runs/controls")
  print("\n".join(table(rows, COLUMNS)))


def run_seeds(
    run_one: Callable[..., dict[str, dict]], usage: str, root: str, config: str = "",
) -> dict[str, list[dict]]:
  """Returns name -> a result for each seed of the command line, in their order.

  Args:
    run_one: (folder, seed, flags) -> name -> result; with `config` its fourth argument is a recipe.
    usage: description of the program; its first line is shown with --help.
    root: default folder of the runs.
    config: default recipe of the runs; empty: the program has a fixed recipe.
  """
  parser = argparse.ArgumentParser(description=usage.splitlines()[0])
  parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(root))
  parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
  if config:
    parser.add_argument("--config", default=config, help="the recipe")
  parser.add_argument("flags", nargs="*", help="further flags of every run, after --")
  args = parser.parse_args()
  recipe = [args.config] if config else []
  rows = {}
  for seed in args.seeds.split(","):
    for name, result in run_one(args.root / f"seed{seed}", seed, args.flags, *recipe).items():
      rows.setdefault(name, []).append(result)
  return rows


def table(rows: dict[str, list[dict]], columns: Sequence[str]) -> list[str]:
  """One line per name: means over seeds and each seed's values."""
  lines = ["| run | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
  for name, results in rows.items():
    lines.append(f"| {name} | " + " | ".join(cell(results, column) for column in columns) + " |")
  return lines


def run_seed(root: pathlib.Path, seed: str, flags: list[str]) -> dict[str, dict]:
  """Name -> metric -> estimate, of the runs of one seed."""
  flags = [f"--config.seed={seed}", *flags]
  stages = train(root / "rlsp", CONFIG, flags)
  results = {"after SFT": stages["sft"], "RLSP": stages["rl"]}
  sft = root / "rlsp" / "models" / "sft"
  for name, changes in CONTROLS.items():
    folder = root / name.split(" (")[0].replace(" ", "_")
    results[name] = train(folder, f"{CONFIG}:{sft}", [*flags, *changes])["rl"]
  output = root / "kept_from_giving_up.json"
  if not output.exists():
    rlreason("evaluate", f"--config={CONFIG}", f"--model={sft}", f"--output={output}", BLOCKED,
             *flags)
  results["SFT, giving up blocked"] = read(output)["sft"]
  return results


def train(workdir: pathlib.Path, config: str, flags: list[str]) -> dict[str, dict]:
  """Runs an experiment to its end, unless it is done, and returns stage -> evaluation."""
  if not (workdir / "report.html").exists():
    rlreason("train", f"--config={config}", f"--workdir={workdir}", *flags)
  return read(workdir / "summary.json")


def rlreason(command: str, *flags: str):
  subprocess.run([sys.executable, "-m", "rlreason.main", command, *flags], check=True)


def read(summary: pathlib.Path) -> dict[str, dict]:
  """Stage -> evaluation, for the evaluated stages."""
  stages = json.loads(summary.read_text())["stages"]
  return {stage["name"]: metrics.with_current_names(next(iter(stage["evaluation"].values())))
          for stage in stages if stage["evaluation"]}


def cell(results: list[dict], column: str) -> str:
  """Mean over seeds and, in brackets, each seed's value; empty if it was not measured."""
  values = [result[column]["value"] for result in results if column in result]
  if not values:
    return ""
  return f"{statistics.mean(values):.3g} [{', '.join(f'{value:.3g}' for value in values)}]"


if __name__ == "__main__":
  main()
