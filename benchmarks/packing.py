"""Learning from padded and from packed rows (`pack_rows`).

Usage: python benchmarks/packing.py [--rounds=5] [--workload countdown smollm2] [--start=FOLDER]

  countdown  256 completions of at most 96 tokens, as in experiments/rlsp_countdown.py
  smollm2    16 completions of at most 56 tokens after prompts in 128 columns, SmolLM2-135M-Instruct
             as in experiments/rlsp_smollm2.py

Both learn from the same rollouts, which are sampled and scored before; "learn" is scoring under the
reference and the update. --start is the policy of `countdown`, such as runs/countdown/models/sft;
without it, it is untrained. Prints one JSON line per workload: medians in seconds of time and of
CPU time, the waste (share of padding), and the mean length of completions in tokens.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import jax
import side_by_side

EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"
FORMS = {"padded": False, "packed": True}
WARM_UP = 2  # rounds


def make_recipe(workload, start, packs, steps):
  from rlreason import config_files
  from rlreason.training.settings.recipe import from_config

  config = config_files.load_config_file(str(EXPERIMENTS / f"rlsp_{workload}.py"))
  config.stages = ("rl",)
  config.rl.steps = steps
  if start:
    config.rl.start = str(start)
  if workload == "smollm2":
    config.rl.num_prompts = 16
  config.rl.algorithm.pack_rows = packs
  return from_config(config)


def measure(workload, start, rounds):
  """{form: [(seconds, CPU seconds, waste) of each counted round]} and the mean length."""
  from rlreason.training import run as run_lib
  from rlreason.training.setup import make_setup
  from rlreason.training.stages import make_stage
  from rlreason.workers import WorkerPool

  stages, states = {}, {}
  with WorkerPool(num_workers=1) as pool, tempfile.TemporaryDirectory() as folder:
    for form, packs in FORMS.items():
      recipe = make_recipe(workload, start, packs, WARM_UP + rounds)
      setup, policy = make_setup(recipe)
      if start:
        policy = run_lib.load_start(setup, "start", pathlib.Path(start), None)
      stages[form] = make_stage(setup, recipe.stages[0], policy, 0, pool, pathlib.Path(folder))
      states[form] = stages[form].state
    found, lengths, key = {form: [] for form in FORMS}, [], jax.random.key(0)
    for number in range(WARM_UP + rounds):
      drawn = stages["padded"].draw(
          states["padded"].params, stages["padded"].data, jax.random.fold_in(key, number))
      drawn.judge()
      lengths.append(float(drawn.rollout.token_mask.sum(axis=1).mean()))
      for form, stage in stages.items():
        started, used = time.perf_counter(), time.process_time()
        output = stage.learn(states[form], number, drawn, jax.random.fold_in(key, number))
        states[form] = jax.block_until_ready(output.state)
        found[form].append((
            time.perf_counter() - started, time.process_time() - used,
            output.host_metrics["rollout/padding_waste"]))
  return {form: of_form[WARM_UP:] for form, of_form in found.items()}, lengths[WARM_UP:]


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
  parser.add_argument("--workload", choices=("countdown", "smollm2"), nargs="*",
                      default=("countdown", "smollm2"), help="which of them")
  parser.add_argument("--start", type=pathlib.Path, help="a model folder for countdown")
  arguments = parser.parse_args()
  for workload in arguments.workload:
    start = arguments.start if workload == "countdown" else None
    found, lengths = measure(workload, start, arguments.rounds)
    medians = {form: dict(zip(("learn", "learn_cpu", "waste"), (
        round(statistics.median(column), 3) for column in zip(*rows))))
               for form, rows in found.items()}
    side_by_side.print_line(
        "packing", workload=workload, tokens=round(statistics.mean(lengths), 1), **medians,
        times_faster=side_by_side.median_ratio(
            *([row[0] for row in found[form]] for form in FORMS)))


if __name__ == "__main__":
  main()
