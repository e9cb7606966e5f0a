"""One full RL step compared with google-tunix on the same work.

Usage: python benchmarks/rl_step.py [--rounds=5] [--workload ppo grpo grpo_tail]
First, once: bash benchmarks/peers.sh

All generate 64 completions and make one update of all of them, with a Qwen3-like model of 6.03M
parameters in f32, and score them under a reference:

  ppo        64 prompts of 64 tokens, completions of 64; a critic as well; PPOLearner
  grpo       16 prompts of 64 tokens with 4 completions of 64 each; GRPOLearner
  grpo_tail  4 prompts of 256 tokens with 16 completions each, geometric lengths (a 64th of the
             vocabulary ends one) of at most 256; GRPOLearner

The peer runs twice, with gradients of all sequences at once and of 16 at a time (--peer_sizes), and
its faster median is reported. A ratio above 1 is the speedup of this library in the same round.
Prints one JSON line per workload; "tokens" is the mean length of the completions.
"""

import argparse
import dataclasses
import functools
import json
import statistics
from typing import NamedTuple

import ours
import side_by_side


class Workload(NamedTuple):
  """The work of both sides."""

  method: str  # of the peer
  shape: ours.Shape
  settings: dict  # {name: settings of this library's step}
  goal: dict  # {name: times faster}


def workload(name):
  """One of `NAMES`."""
  shape = ours.Shape()
  if name == "ppo":
    return Workload(
        "ppo", shape, {critic: ours.ppo(shape, critic) for critic in ("shared", "separate")},
        {"separate": 2.8, "shared": 4.5})
  shape, goal = dataclasses.replace(shape, group=4), 3.5
  if name == "grpo_tail":
    shape, goal = dataclasses.replace(
        shape, group=16, prompt_tokens=256, new_tokens=256, mean_tokens=64), 12.0
  return Workload("grpo", shape, {"grpo": ours.grpo(shape)}, {"grpo": goal})


NAMES = ("ppo", "grpo", "grpo_tail")
WARM_UP = 2  # rounds: the peer compiles its update twice


def measure(name, rounds, peer_sizes):
  """Prints the line of one workload; the peer runs with each of `peer_sizes` per gradient pass."""
  method, shape, settings, goal = workload(name)
  steps = {side: ours.Step(shape, setting) for side, setting in settings.items()}
  # The number of packed rows varies, and each number needs a program: the counted rounds run once
  # beforehand to compile them. The peer's programs are always the same.
  for step in steps.values():
    for index in range(WARM_UP, WARM_UP + rounds if shape.mean_tokens else WARM_UP):
      step.run(index)
  peers = {f"tunix {size}": start_peer(method, shape, size) for size in peer_sizes}
  sides = {side: functools.partial(ask, peer) for side, peer in peers.items()}
  seconds = side_by_side.take_turns(
      {**sides, **{side: step.run for side, step in steps.items()}}, rounds=rounds,
      warm_up=WARM_UP)
  for peer in peers.values():
    peer.close()
  total = {side: [result["total"] for result in results] for side, results in seconds.items()}
  fastest = min(peers, key=lambda side: statistics.median(total[side]))
  side_by_side.print_line(
      "rl_step", workload=name, shape=vars(shape), parameters=peers[fastest].hello["parameters"],
      seconds={side: side_by_side.median_of_parts(results) for side, results in seconds.items()},
      fastest_peer=fastest,
      times_faster={side: side_by_side.median_ratio(total[fastest], total[side]) for side in steps},
      goal=goal)


def start_peer(method, shape, micro_sequences):
  """A worker whose update takes gradients of `micro_sequences` at a time."""
  sizes = dataclasses.asdict(dataclasses.replace(shape, micro_sequences=micro_sequences))
  return side_by_side.start_peer(
      "tunix", "tunix_worker.py",
      json.dumps(sizes | {"method": method, "stop_ids": shape.stop_ids()}),
      log=f"tunix_{micro_sequences}")


def ask(peer, index):
  """One step of a worker: {part: seconds} and the mean length."""
  return peer.ask(step=index)


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
  parser.add_argument("--workload", choices=NAMES, nargs="*", default=NAMES, help="which of them")
  parser.add_argument("--peer_sizes", type=int, nargs="*", default=(64, 16),
                      help="sequences of the peer's gradient passes, tried beside each other")
  arguments = parser.parse_args()
  for name in arguments.workload:
    measure(name, arguments.rounds, arguments.peer_sizes)


if __name__ == "__main__":
  main()
