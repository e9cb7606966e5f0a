"""Sampling of SmolLM2-135M-Instruct against `transformers.generate` with PyTorch on the CPU.

Usage: python benchmarks/sampling.py [--rounds=3] [--batches 1 8 32]
First, once: bash benchmarks/peers.sh

Prompts of 45 tokens, 96 new tokens, f32, temperature 1, no end token; batches of 1, 8 and 32. Then
the group: 32 completions of one prompt beside 32 prompts with one completion each, for prompts of
45 and of 360 tokens. A ratio above 1 says how many times faster this library is.
"""

import argparse
import functools
import statistics
import time

import jax
import numpy as np
from rlreason import sampling
from rlreason import weights
from rlreason.types import Prompts
import side_by_side

PROMPT_TOKENS, NEW_TOKENS = 45, 96
GROUP = 32
GROUP_PROMPT_TOKENS = (45, 360)
FOLDER = side_by_side.ROOT / ".peers" / "smollm2"


def load_model():
  """Configuration and parameters; also writes the folder that transformers reads."""
  path = weights.find_smollm2()
  if not (FOLDER / "config.json").exists():
    weights.convert(path, FOLDER)
  config, params, _ = weights.load_model(path)
  return config, params


def make_sampler(config, params, *, prompts, group, prompt_tokens):
  """A function of a round that samples `prompts` x `group` completions; returns seconds."""
  options = sampling.SamplingOptions(max_new_tokens=NEW_TOKENS, temperature=1.0)
  compiled = jax.jit(functools.partial(
      sampling.sample, config, options=options, stop_ids=(), group_size=group))

  def run(index):
    tokens = np.random.default_rng(index).integers(3, config.vocab_size, (prompts, prompt_tokens))
    batch = jax.device_put(Prompts(
        tokens=tokens.astype(np.int32), mask=np.ones(tokens.shape, bool),
        index=np.arange(prompts, dtype=np.int32)))
    start = time.perf_counter()
    rollout = jax.block_until_ready(compiled(params, batch, jax.random.key(index)))
    seconds = time.perf_counter() - start
    assert not rollout.token_mask.size - rollout.token_mask.sum(), "a row ended early"
    return seconds

  return run


def compare_with_peer(config, params, peer, batches, rounds):
  """Tokens per second of both and their ratio, for every batch size."""
  lines = {}
  for batch in batches:
    ask = functools.partial(
        peer.ask, batch=batch, prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS)
    seconds = side_by_side.take_turns({
        "transformers": lambda index, ask=ask: ask(seed=index)["seconds"],
        "rlreason": make_sampler(
            config, params, prompts=batch, group=1, prompt_tokens=PROMPT_TOKENS),
    }, rounds=rounds, warm_up=1)
    rate = {name: round(batch * NEW_TOKENS / statistics.median(taken), 1)
            for name, taken in seconds.items()}
    lines[batch] = {
        "tokens_per_second": rate,
        "times_faster": side_by_side.median_ratio(seconds["transformers"], seconds["rlreason"])}
  return lines


def compare_group_with_prompts(config, params, rounds):
  """Seconds of a group of one prompt as a share of as many prompts, per prompt length."""
  lines = {}
  for length in GROUP_PROMPT_TOKENS:
    make = functools.partial(make_sampler, config, params, prompt_tokens=length)
    seconds = side_by_side.take_turns(
        {"group": make(prompts=1, group=GROUP), "prompts": make(prompts=GROUP, group=1)},
        rounds=rounds, warm_up=1)
    lines[length] = {
        "seconds": {name: round(statistics.median(taken), 2) for name, taken in seconds.items()},
        "group_cost": side_by_side.median_ratio(seconds["group"], seconds["prompts"])}
  return lines


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=3, help="counted rounds")
  parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32], help="rows at once")
  arguments = parser.parse_args()
  config, params = load_model()
  peer = side_by_side.start_peer("torch", "torch_worker.py", FOLDER, log="transformers")
  batches = compare_with_peer(
      config, params, peer, arguments.batches, arguments.rounds)
  peer.close()
  side_by_side.print_line(
      "sampling", model="SmolLM2-135M-Instruct", prompt_tokens=PROMPT_TOKENS,
      new_tokens=NEW_TOKENS, peer=peer.hello, batches=batches,
      groups_of_32_by_prompt_tokens=compare_group_with_prompts(
          config, params, arguments.rounds),
      goal={"batch 32": 2.2})


if __name__ == "__main__":
  main()
