"""Sampling of SmolLM2-135M-Instruct against `transformers.generate` with PyTorch on the CPU.

Usage: python benchmarks/sampling.py [--rounds=3] [--batches 1 8 32] [--workload=tail]
First, once: bash benchmarks/peers.sh

Prompts of 45 tokens, 96 new tokens, f32, temperature 1, no end token; batches of 1, 8 and 32. Then
the group: 32 completions of one prompt, compared with 32 prompts with one completion each, for
prompts of 45 and of 360 tokens. A ratio above 1 is the speedup of this library.

The workload `tail`: 256 prompts, 32 sampled at once, with a long tail of lengths. One token in 32
ends a completion, at a temperature that makes all equally likely: lengths are geometric, with a
mean of 32, an eighth of the limit. Batches of 32, each to its end, are compared with one queue.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from rlreason import sampling
from rlreason import weights
from rlreason.types import Prompts
import side_by_side

PROMPT_TOKENS, NEW_TOKENS = 45, 96
GROUP = 32
GROUP_PROMPT_TOKENS = (45, 360)
TAIL_PROMPTS, TAIL_BATCH, TAIL_LIMIT = 256, 32, 256
TAIL_TEMPERATURE = 1000.0
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


def make_products(config, batch):
  """A function of a round: seconds of the products with kernels alone, of all tokens of a call."""
  width, heads, kv_heads = config.width, *(
      count * config.head_dim for count in (config.num_heads, config.num_kv_heads))
  sizes = dict(q=(width, heads), k=(width, kv_heads), v=(width, kv_heads), o=(heads, width),
               gate=(width, config.mlp_width), up=(width, config.mlp_width),
               down=(config.mlp_width, width))
  fill = lambda shape: jax.random.normal(jax.random.key(0), shape)
  layers = [{name: fill(shape) for name, shape in sizes.items()} for _ in range(config.num_layers)]
  vocabulary = fill((width, config.vocab_size))

  @jax.jit
  def step(x, layers, vocabulary):
    for layer in layers:
      query, key, value = (x @ layer[name] for name in "qkv")
      mixed = query + jnp.tile(key + value, (1, heads // kv_heads))
      x = x + 1e-3 * (mixed @ layer["o"])
      x = x + 1e-3 * ((x @ layer["gate"]) * (x @ layer["up"])) @ layer["down"]
    return x[-batch:] @ vocabulary

  def run(_):
    seconds = 0.0
    for rows, times in ((batch * PROMPT_TOKENS, 1), (batch, NEW_TOKENS - 1)):
      x = fill((rows, width))
      step(x, layers, vocabulary).block_until_ready()
      start = time.perf_counter()
      for _ in range(min(times, 10)):
        step(x, layers, vocabulary).block_until_ready()
      seconds += (time.perf_counter() - start) * times / min(times, 10)
    return seconds

  return run


def compare_with_peer(config, params, peer, batches, rounds):
  """Tokens per second of both and their ratio, for every batch size.

  "products_alone" is the share of this library's time that its products with kernels take if
  nothing else is computed; the sampler cannot be faster than XLA's products.
  """
  lines = {}
  for batch in batches:
    ask = functools.partial(
        peer.ask, batch=batch, prompt_tokens=PROMPT_TOKENS, new_tokens=NEW_TOKENS)
    seconds = side_by_side.take_turns({
        "transformers": lambda index, ask=ask: ask(seed=index)["seconds"],
        "rlreason": make_sampler(
            config, params, prompts=batch, group=1, prompt_tokens=PROMPT_TOKENS),
        "products": make_products(config, batch),
    }, rounds=rounds, warm_up=1)
    rate = {name: round(batch * NEW_TOKENS / statistics.median(taken), 1)
            for name, taken in seconds.items() if name != "products"}
    lines[batch] = {
        "tokens_per_second": rate,
        "products_alone": side_by_side.median_ratio(seconds["products"], seconds["rlreason"]),
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


def make_tail_samplers(config, params, stop_ids):
  """{name: function of a round that samples all completions; returns seconds}."""
  settings = dict(
      options=sampling.SamplingOptions(
          max_new_tokens=TAIL_LIMIT, temperature=TAIL_TEMPERATURE), stop_ids=stop_ids)
  batch = jax.jit(functools.partial(sampling.sample, config, **settings))
  queue = jax.jit(functools.partial(
      sampling.sample_queue, sampling.Batching(TAIL_BATCH), config, **settings))

  def run(sample_all, index):
    tokens = np.random.default_rng(index).integers(
        3, config.vocab_size, (TAIL_PROMPTS, PROMPT_TOKENS))
    prompts = Prompts(
        tokens=tokens.astype(np.int32), mask=np.ones(tokens.shape, bool),
        index=np.arange(TAIL_PROMPTS, dtype=np.int32))
    start = time.perf_counter()
    rollouts = sample_all(prompts, jax.random.key(index))
    tokens = sum(int(rollout.token_mask.sum()) for rollout in rollouts)
    seconds = time.perf_counter() - start
    assert 0.7 < tokens / (TAIL_PROMPTS * TAIL_LIMIT / 8) < 1.3, tokens
    return seconds

  # Compiled explicitly, so that no warm-up round is needed.
  for program, count in ((batch, TAIL_BATCH), (queue, TAIL_PROMPTS)):
    tokens = jax.ShapeDtypeStruct((count, PROMPT_TOKENS), np.int32)
    program.lower(params, Prompts(
        tokens=tokens, mask=tokens.update(dtype=bool), index=tokens.update(shape=(count,))),
        jax.random.key(0)).compile()

  in_batches = lambda prompts, key: [
      batch(params, jax.tree.map(lambda x: x[first:first + TAIL_BATCH], prompts), key)
      for first in range(0, TAIL_PROMPTS, TAIL_BATCH)]
  return {"batches": functools.partial(run, in_batches),
          "queue": functools.partial(run, lambda prompts, key: [queue(params, prompts, key)])}


def compare_tail(config, params, peer, rounds):
  """Completions per second of transformers, of batches and of a queue, and their ratios."""
  count = config.vocab_size * 8 // TAIL_LIMIT
  stop_ids = np.random.default_rng(0).choice(config.vocab_size, count, replace=False).tolist()
  ask = functools.partial(
      peer.ask, batch=TAIL_BATCH, prompt_tokens=PROMPT_TOKENS, new_tokens=TAIL_LIMIT,
      stop_ids=stop_ids, temperature=TAIL_TEMPERATURE)
  ask_all = lambda index: sum(
      ask(seed=1000 * index + first)["seconds"] for first in range(0, TAIL_PROMPTS, TAIL_BATCH))
  seconds = side_by_side.take_turns(
      {"transformers": ask_all, **make_tail_samplers(config, params, tuple(stop_ids))},
      rounds=rounds, warm_up=0)
  return {
      "completions_per_second": {name: round(TAIL_PROMPTS / statistics.median(taken), 2)
                                 for name, taken in seconds.items()},
      "queue_times_faster": {name: side_by_side.median_ratio(seconds[name], seconds["queue"])
                             for name in ("transformers", "batches")}}


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=3, help="counted rounds")
  parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32], help="rows at once")
  parser.add_argument("--workload", choices=("full", "tail"), default="full")
  arguments = parser.parse_args()
  config, params = load_model()
  peer = side_by_side.start_peer("torch", "torch_worker.py", FOLDER, log="transformers")
  if arguments.workload == "tail":
    tail = compare_tail(config, params, peer, arguments.rounds)
    peer.close()
    side_by_side.print_line(
        "sampling tail", model="SmolLM2-135M-Instruct", prompt_tokens=PROMPT_TOKENS,
        prompts=TAIL_PROMPTS, at_once=TAIL_BATCH, limit=TAIL_LIMIT, peer=peer.hello, **tail,
        goal={"batches": 2.5, "transformers": 4})
    return
  batches = compare_with_peer(
      config, params, peer, arguments.batches, arguments.rounds)
  peer.close()
  side_by_side.print_line(
      "sampling", model="SmolLM2-135M-Instruct", prompt_tokens=PROMPT_TOKENS,
      new_tokens=NEW_TOKENS, peer=peer.hello, batches=batches,
      groups_of_32_by_prompt_tokens=compare_group_with_prompts(
          config, params, arguments.rounds),
      goal={"1": 3, "8": 3.5, "32": 3.5})


if __name__ == "__main__":
  main()
