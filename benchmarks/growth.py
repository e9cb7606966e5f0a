"""Growth of the cost of a PPO step with batch, length, group and vocabulary.

Usage: python benchmarks/growth.py [--rounds=3] [--axis new_tokens]

One size is changed at a time, from a small base; all sizes of an axis alternate. Prints one JSON
line per axis: seconds of each phase, and of the whole step as a multiple of the axis' first size.
"""

import argparse
import dataclasses
import statistics

import ours
import side_by_side

BASE = ours.Shape(sequences=16)
# The group is varied with many rows and a long prompt, so that prompts are most of a rollout.
AXES = {
    "sequences": (BASE, (16, 32, 64)),
    "new_tokens": (BASE, (64, 128, 256)),
    "group": (dataclasses.replace(BASE, sequences=32, prompt_tokens=256), (1, 4, 16)),
    "vocabulary": (BASE, (4096, 16384, 65536)),
}


def measure(axis, rounds):
  """Prints the line of one axis."""
  base, sizes = AXES[axis]
  shapes = {str(size): dataclasses.replace(base, **{axis: size}) for size in sizes}
  steps = {name: ours.Step(shape, ours.ppo(shape, "shared")) for name, shape in shapes.items()}
  seconds = side_by_side.take_turns(
      {name: step.run for name, step in steps.items()}, rounds=rounds, warm_up=1)
  medians = {name: side_by_side.median_of_parts(results) for name, results in seconds.items()}
  times = {}
  for name, results in seconds.items():
    ratios = [result["total"] / first["total"]
              for result, first in zip(results, seconds[str(sizes[0])], strict=True)]
    times[name] = round(statistics.median(ratios), 2)
  side_by_side.print_line(
      "growth", axis=axis, base=vars(base), seconds=medians, times_the_first=times)


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=3, help="counted rounds")
  parser.add_argument("--axis", choices=AXES, nargs="*", default=list(AXES), help="what to vary")
  arguments = parser.parse_args()
  for axis in arguments.axis:
    measure(axis, arguments.rounds)


if __name__ == "__main__":
  main()
