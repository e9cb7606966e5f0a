"""Sweeps the strength of the exploration reward from a policy that finds almost no rewards.

    .venv/bin/python experiments/controls/exploration.py --root=runs/exploration --seeds=0,1,2

One model learns to search, once; each seed then teaches it to answer immediately, and every
strength c and every control starts from the result (experiments/exploration_countdown.py). Prints
the tables of docs/results.md. Finished runs are not repeated, so the program may be stopped and
restarted. A seed takes about 20 minutes on one core.
"""

from collections.abc import Sequence
import json
import pathlib
import re
import statistics

import countdown as controls

from rlreason.data.tasks import countdown as task
from rlreason.evaluation import completions as completions_lib

CONFIG = "experiments/exploration_countdown.py"
# From 23 on a wrong answer after all tokens has a higher reward than a right one after one try.
STRENGTHS = ("0", "0.1", "1", "4", "10", "40")
STRENGTH = "--config.rl.rewards.exploration.options.c={}"
BLOCKED = "--config.evaluation.blocked_words=(((':','lower','higher'),('answer',)),)"
LAST_ONLY = "--config.evaluation.every_stage=False"
# Samples of the start: a trained model's answer hardly takes more tokens than these.
SAMPLES = 32
MANY = [f"--config.evaluation.num_samples={SAMPLES}", "--config.evaluation.batch_size=50"]
MODEL = pathlib.Path("models") / "sft"
WINDOW = 10  # steps
# All but the first are of the samples; n samples of the start take as many tokens as one answer.
RESULTS = (
    "greedy, %", "avg@4, %", "pass@4, %", "maj@4, %", "self-check of 4, %", "tokens", "n",
    "start: pass@n, %", "start: maj@n, %", "start: self-check of n, %")
# Of the samples; reached: a try ended at the target.
REASONS = ("boxed, %", "backtracks", "truncated, %", "reached, %", "of those right, %")
TRAINING = ("rollouts right in the first 10 steps, %", "in the last 10 steps, %")


def main():
  """Runs what is missing and prints the tables."""
  rows = controls.run_seeds(run_seed, __doc__, "runs/exploration")
  for columns in (RESULTS, (*REASONS, *TRAINING)):
    print("\n".join(["", *controls.table(rows, columns)]))


def run_seed(root: pathlib.Path, seed: str, flags: list[str]) -> dict[str, dict]:
  """Name -> column -> estimate, of one seed's runs."""
  searches, start = root.parent / "searches", root / "start"
  controls.train(searches, CONFIG, [LAST_ONLY, *flags])
  flags = [f"--config.seed={seed}", LAST_ONLY, *flags]
  controls.train(start, f"{CONFIG}:{searches / MODEL}", [
      "--config.stages=('sft',)", *MANY, *flags])
  blocked = root / "kept_from_giving_up.json"
  if not blocked.exists():
    controls.rlreason("evaluate", f"--config={CONFIG}:rl,{start / MODEL}",
                      f"--model={start / MODEL}", f"--output={blocked}", BLOCKED, *flags)
  before = read(start / "evaluation" / "sft.jsonl")
  results = {"after SFT": measured(before, before),
             "SFT, giving up blocked": measured(read(blocked.with_suffix(".jsonl")), before)}
  runs = {f"c = {c}": [STRENGTH.format(c)] for c in STRENGTHS}
  runs["random reward"] = controls.CONTROLS["random reward"]
  for name, changes in runs.items():
    workdir = root / name.replace(" = ", "_").replace(" ", "_")
    controls.train(workdir, f"{CONFIG}:rl,{start / MODEL}", [*changes, *flags])
    results[name] = measured(read(workdir / "evaluation" / "rl.jsonl"), before) | trained(
        read(workdir / "metrics.jsonl"))
  return results


def measured(rows: list[dict], before: list[dict]) -> dict[str, dict]:
  """The results of an evaluation, and those of the start for as many tokens in more samples.

  Args:
    rows: completions of an evaluation (`completions.py`).
    before: completions of the start, with more samples of each problem.
  """
  samples = [row for row in rows if row["sample"] is not None]
  reached = [row for row in samples if reaches(row)]
  tokens, tokens_before = mean_tokens(rows), mean_tokens(before)
  n = min(max(round(tokens / tokens_before), 1), SAMPLES)
  values = (
      accuracy(rows, "greedy"), accuracy(rows, "avg@4"), accuracy(rows, "pass@4"),
      accuracy(rows, "maj@4"), own_check(rows, 4), tokens, n, accuracy(before, f"pass@{n}"),
      accuracy(before, f"maj@{n}"), own_check(before, n),
      100 * statistics.mean(row["extracted"] is not None for row in samples),
      statistics.mean(row["completion"].split().count("back") for row in samples),
      100 * statistics.mean(row["truncated"] for row in samples),
      100 * len(reached) / len(samples),
      100 * statistics.mean([row["score"] >= 1 for row in reached] or [0]))
  return {column: {"value": value}
          for column, value in zip((*RESULTS, *REASONS), values, strict=True)}


def trained(steps: list[dict]) -> dict[str, dict]:
  """Shares of right rollouts at the beginning and at the end of training."""
  right = [100 * step["rollout/accuracy"] for step in steps if step["stage"] == "rl"]
  values = statistics.mean(right[:WINDOW]), statistics.mean(right[-WINDOW:])
  return {column: {"value": value} for column, value in zip(TRAINING, values, strict=True)}


def accuracy(rows: list[dict], metric: str) -> float:
  """In percent."""
  return 100 * statistics.mean(completions_lib.per_problem(rows, metric).values())


def reaches(row: dict) -> bool:
  """Whether a try ends at the target, according to the text of the completion."""
  target = row["prompt"].split()[-2]
  return re.search(rf"= {target} ({'|'.join(task.CHECK_WORDS)})", row["completion"]) is not None


def own_check(rows: list[dict], n: int) -> float:
  """Accuracy, in percent, of the first of n samples that claims to be right, else of the first."""
  groups = {}
  for row in rows:
    if row["sample"] is not None:
      groups.setdefault((row["problem"], row["sample"] // n), []).append(row)
  chosen = [next((row for row in group if "equal" in row["completion"]), group[0])
            for group in groups.values() if len(group) == n]
  return 100 * statistics.mean(row["score"] >= 1 for row in chosen)


def mean_tokens(rows: Sequence[dict]) -> float:
  """Of the samples."""
  return statistics.mean(row["length"] for row in rows if row["sample"] is not None)


def read(path: pathlib.Path) -> list[dict]:
  with path.open(encoding="utf-8") as lines:
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
  main()
