"""RLSP on word problems with its controls, and their table.

    .venv/bin/python experiments/controls/word_problems.py --root=runs/word_problems --seeds=0,1,2

Each seed trains the supervised stage once; RLSP and every control start from it
(experiments/rlsp_word_problems.py; --config=experiments/rlsp_small_word_problems.py is a task for
one CPU core). Each row also has the start's majority vote over as many samples as take the tokens
of one answer of that row's model. Finished runs are not repeated, so the program may be stopped and
restarted.
"""

import pathlib
import statistics

import countdown as controls
import exploration

CONFIG = "experiments/rlsp_word_problems.py"
OFF = controls.OFF
NO_VERIFIER = [OFF.format(name) for name in ("verifier", "exploration", "finished")]
RUNS = {
    "RLSP": [],
    "verifier only (c = 0)": [OFF.format("exploration")],
    "format-only reward": [*NO_VERIFIER, "--config.rl.rewards.format.weight=1"],
    "random reward": [*NO_VERIFIER, "--config.rl.rewards.random.weight=1"]}
MARK = "####"  # before the answer
SAMPLES = 8  # per problem, of the start
# At once: samples without a working. n: so many samples of the start take as many tokens as one.
COLUMNS = ("greedy, %", "avg@4, %", "pass@4, %", "maj@4, %", "tokens", "at once, %",
           "truncated, %", "n", "start: pass@n, %", "start: maj@n, %", *exploration.TRAINING)


def main():
  """Runs what is missing and prints the table."""
  rows = controls.run_seeds(run_seed, __doc__, "runs/word_problems", CONFIG)
  print("\n".join(controls.table(rows, COLUMNS)))


def run_seed(
    root: pathlib.Path, seed: str, flags: list[str], config: str = CONFIG,
) -> dict[str, dict]:
  """Name -> column -> estimate, of one seed's runs of a recipe."""
  start, flags = root / "sft", [f"--config.seed={seed}", *flags]
  controls.train(start, config, [
      "--config.stages=('sft',)", f"--config.evaluation.num_samples={SAMPLES}", *flags])
  before = exploration.read(start / "evaluation" / "sft.jsonl")
  untrained = exploration.read(start / "evaluation" / "start.jsonl")
  results = {"untrained": measured(untrained, before), "after SFT": measured(before, before)}
  for name, changes in RUNS.items():
    workdir = root / name.split(" (")[0].replace(" ", "_")
    controls.train(workdir, f"{config}:{start / exploration.MODEL}",
                   [*changes, exploration.LAST_ONLY, *flags])
    results[name] = measured(
        exploration.read(workdir / "evaluation" / "rl.jsonl"), before) | exploration.trained(
            exploration.read(workdir / "metrics.jsonl"))
  return results


def measured(rows: list[dict], before: list[dict]) -> dict[str, dict]:
  """The results of an evaluation and of the start; arguments of `exploration.measured`."""
  tokens, tokens_before = exploration.mean_tokens(rows), exploration.mean_tokens(before)
  n = min(max(round(tokens / tokens_before), 1), SAMPLES)
  values = (
      *(exploration.accuracy(rows, name) for name in ("greedy", "avg@4", "pass@4", "maj@4")),
      tokens, 100 * statistics.mean(
          row["completion"].lstrip().startswith(MARK) for row in rows if row["sample"] is not None),
      100 * statistics.mean(row["truncated"] for row in rows), n,
      exploration.accuracy(before, f"pass@{n}"), exploration.accuracy(before, f"maj@{n}"))
  return {column: {"value": value} for column, value in zip(COLUMNS, values, strict=False)}


if __name__ == "__main__":
  main()
