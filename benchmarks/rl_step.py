"""One whole PPO step against google-tunix's PPOLearner on the same work.

Usage: python benchmarks/rl_step.py [--rounds=5]
First, once: bash benchmarks/peers.sh

Both make 64 completions of 64 tokens for 64 prompts of 64 tokens, score them under a reference
and a critic, and do one update of all of them, with a Qwen3-like model of 6.03M parameters in f32.
A ratio above 1 says how many times faster this library is in the same round.
"""

import argparse
import dataclasses
import json

import ours
import side_by_side


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
  rounds = parser.parse_args().rounds
  shape = ours.Shape()
  peer = side_by_side.Peer("tunix", "tunix_worker.py", json.dumps(dataclasses.asdict(shape)))
  steps = {critic: ours.PPOStep(shape, critic) for critic in ("shared", "separate")}
  # Two rounds of warm-up: the peer compiles its update twice.
  seconds = side_by_side.take_turns(
      {"tunix": lambda index: peer.ask(step=index),
       **{critic: step.run for critic, step in steps.items()}}, rounds=rounds, warm_up=2)
  peer.close()
  total = {name: [result["total"] for result in results] for name, results in seconds.items()}
  side_by_side.print_line(
      "rl_step", shape=vars(shape), parameters=peer.hello["parameters"],
      seconds={name: side_by_side.median_of_parts(results) for name, results in seconds.items()},
      times_faster={critic: side_by_side.median_ratio(total["tunix"], total[critic])
                    for critic in steps},
      goal={"separate": 1.5, "shared": 2.5})


if __name__ == "__main__":
  main()
