"""Memory and time of PPO on SmolLM2-135M: full, adapters, and adapters on a quantised base.

Runs the RL stage of experiments/rlsp_smollm2.py for a few steps, each form in a separate process.
`arrays_mb` is what stays on the device between steps (parameters, reference, moments), `peak_mb`
the peak memory of the process, compilation included. Prints one JSON line.
"""

import argparse
import importlib.util
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import jax

from rlreason.rewards import WorkerPool
from rlreason.training.settings import recipe as recipe_lib
from rlreason.training.setup import make_setup
from rlreason.training.stages import make_stage
import side_by_side

EXPERIMENT = pathlib.Path(__file__).parents[1] / "experiments" / "rlsp_smollm2.py"
FORMS = {"full": None, "adapters": "full", "adapters int8": "int8", "adapters nf4": "nf4"}


def load_recipe(form, num_prompts):
  """The experiment's second stage, with minibatches of at most 8."""
  spec = importlib.util.spec_from_file_location("experiment", EXPERIMENT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config.stages = ("rl",)
  config.rl.num_prompts = num_prompts
  config.rl.algorithm.minibatch_size = min(8, num_prompts)
  if FORMS[form]:
    config.lora = dict(rank=16, alpha=32.0, base=FORMS[form])
  return recipe_lib.from_config(config)


def run(form, num_prompts, steps):
  """Runs the steps in this process and prints their time and memory."""
  recipe = load_recipe(form, num_prompts)
  setup, policy = make_setup(recipe)
  with (WorkerPool(num_workers=1, timeout_seconds=recipe.reward_timeout) as pool,
        tempfile.TemporaryDirectory() as folder):
    stage = make_stage(setup, recipe.stages[0], policy, 0, pool, pathlib.Path(folder))
    del policy
    state, seconds = stage.state, []
    stage = stage._replace(state=None)
    for step in range(steps):
      started = time.perf_counter()
      output = stage.step(state, step, stage.data, jax.random.key(step))
      state = jax.block_until_ready(output.state)
      del output
      seconds.append(time.perf_counter() - started)
  trained = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) // 2
  print(json.dumps({
      "trained_parameters": trained,
      "arrays_mb": round(sum(array.nbytes for array in jax.live_arrays()) / 1e6),
      "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
      "step_seconds": round(min(seconds[1:]), 1)}))


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--prompts", type=int, default=16, help="of a step, one completion each")
  parser.add_argument("--steps", type=int, default=3, help="the first compiles and does not count")
  parser.add_argument("--form", choices=FORMS, help="only this one, in this process")
  arguments = parser.parse_args()
  if arguments.form:
    run(arguments.form, arguments.prompts, arguments.steps)
    return
  results = {}
  for form in FORMS:
    done = subprocess.run(
        [sys.executable, __file__, f"--form={form}", f"--prompts={arguments.prompts}",
         f"--steps={arguments.steps}"], check=True, capture_output=True, text=True)
    results[form] = json.loads(done.stdout.splitlines()[-1])
  side_by_side.print_line("lora", prompts=arguments.prompts, results=results)


if __name__ == "__main__":
  main()
