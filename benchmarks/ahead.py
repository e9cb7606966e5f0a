"""Steps with sampling ahead of learning (`draws_ahead`), with a slow verifier.

Usage: python benchmarks/ahead.py [--rounds=8] [--seconds 0.5 5]

GRPO on chains (experiments/methods/grpo.py from an untrained model, `--prompts` of 16 completions a
step). One reward waits `--seconds` for each batch, like a judge behind a network, and uses no core.
Steps run with draws_ahead of 0, 1 and 2. For 0 the parts are timed: sampling, its rewards, and the
rest, the learning. With rollouts sampled ahead a step takes at least max(sampling + rewards,
learning); if one device samples and learns, as a CPU does, also at least sampling + learning.
Prints one JSON line for each waiting time.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import side_by_side

EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"
WARM_UP = 3  # steps


def wait(prompts, completions, *, seconds: float, **unused_columns):
  """A reward of a service: a fixed time for a batch of any size."""
  time.sleep(seconds)
  return [float(len(text) % 2) for text in completions]


def make_recipe(seconds, ahead, prompts, steps):
  from rlreason import config_files
  from rlreason.training.settings.recipe import from_config

  config = config_files.load_config_file(str(EXPERIMENTS / "methods" / "grpo.py"))
  config.stages = ("rl",)
  config.rl.update(steps=steps, num_prompts=prompts, group_size=16, draws_ahead=ahead)
  config.rl.rewards.waiting = dict(function=wait, options=dict(seconds=seconds), weight=1.0)
  return from_config(config)


def measure(seconds, ahead, prompts, rounds):
  """Seconds of each counted step, and of its parts if nothing is sampled ahead."""
  from rlreason.training import experience
  from rlreason.training.setup import make_setup
  from rlreason.training.stages import make_stage
  from rlreason.workers import WorkerPool

  recipe = make_recipe(seconds, ahead, prompts, WARM_UP + rounds)
  setup, policy = make_setup(recipe)
  with WorkerPool(num_workers=1) as pool, tempfile.TemporaryDirectory() as folder:
    stage = make_stage(setup, recipe.stages[0], policy, 0, pool, pathlib.Path(folder))
    key, state = jax.random.key(0), stage.state
    draws = experience.Draws(stage, key)
    draws.begin(0, state.params)
    steps, parts = [], []
    for number in range(WARM_UP + rounds):
      started = time.perf_counter()
      output = stage.learn(state, number, draws.next(number, state.params),
                           jax.random.fold_in(key, number))
      state = jax.block_until_ready(output.state)
      steps.append(time.perf_counter() - started)
      parts.append((output.host_metrics["time/sampling"], output.host_metrics["time/rewards"]))
    draws.close()
  return steps[WARM_UP:], parts[WARM_UP:]


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=8, help="counted steps")
  parser.add_argument("--seconds", type=float, nargs="*", default=(0.5, 5.0), help="of a batch")
  parser.add_argument("--prompts", type=int, default=32, help="of a step")
  arguments = parser.parse_args()
  sys.path.insert(0, str(EXPERIMENTS / "methods"))
  for seconds in arguments.seconds:
    steps, parts = {}, None
    for ahead in (0, 1, 2):
      steps[ahead], found = measure(seconds, ahead, arguments.prompts, arguments.rounds)
      parts = parts or found
    draw, rewards = (statistics.median(column) for column in zip(*parts))
    total = {ahead: statistics.median(of_steps) for ahead, of_steps in steps.items()}
    learn = total[0] - draw - rewards
    side_by_side.print_line(
        "ahead", waiting=seconds, draw=draw, rewards=rewards, learn=learn, step=total,
        over_bound={ahead: total[ahead] / max(draw + rewards, learn) for ahead in (1, 2)},
        over_bound_of_one_device={
            ahead: total[ahead] / max(draw + rewards, draw + learn) for ahead in (1, 2)})


if __name__ == "__main__":
  main()
