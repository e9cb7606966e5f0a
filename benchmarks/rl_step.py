"""One whole PPO step against google-tunix's PPOLearner on the same work.

Usage: python benchmarks/rl_step.py [--rounds=5]
First, once: bash benchmarks/peers.sh

Both make 64 completions of 64 tokens for 64 prompts of 64 tokens, score them under a reference
and a critic, and do one update of all of them, with a Qwen3-like model of 6.03M parameters in f32.
The peer runs twice, with gradients of all sequences at once and of 16 at a time (which is how this
library does it here), and its faster median counts. A ratio above 1 says how many times faster this
library is in the same round.
"""

import argparse
import dataclasses
import functools
import json
import statistics

import ours
import side_by_side


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
  rounds = parser.parse_args().rounds
  shape = ours.Shape()
  peers = {f"tunix {size}": start_peer(shape, size)
           for size in (shape.sequences, shape.micro_sequences)}
  steps = {critic: ours.PPOStep(shape, critic) for critic in ("shared", "separate")}
  sides = {name: functools.partial(ask, peer) for name, peer in peers.items()}
  # Two rounds of warm-up: the peer compiles its update twice.
  seconds = side_by_side.take_turns(
      {**sides, **{critic: step.run for critic, step in steps.items()}}, rounds=rounds, warm_up=2)
  for peer in peers.values():
    peer.close()
  total = {name: [result["total"] for result in results] for name, results in seconds.items()}
  fastest = min(peers, key=lambda name: statistics.median(total[name]))
  side_by_side.print_line(
      "rl_step", shape=vars(shape), parameters=peers[fastest].hello["parameters"],
      seconds={name: side_by_side.median_of_parts(results) for name, results in seconds.items()},
      fastest_peer=fastest,
      times_faster={critic: side_by_side.median_ratio(total[fastest], total[critic])
                    for critic in steps},
      goal={"separate": 1.5, "shared": 2.5})


def start_peer(shape, micro_sequences):
  """A worker whose update takes gradients of `micro_sequences` at a time."""
  sizes = dataclasses.asdict(shape) | {"micro_sequences": micro_sequences}
  return side_by_side.start_peer(
      "tunix", "tunix_worker.py", json.dumps(sizes), log=f"tunix_{micro_sequences}")


def ask(peer, index):
  """One step of a worker: {part: seconds}."""
  return peer.ask(step=index)


if __name__ == "__main__":
  main()
