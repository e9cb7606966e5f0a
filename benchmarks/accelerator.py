r"""Updates as a share of an accelerator's peak, decoding as a share of its memory's bandwidth.

    python benchmarks/accelerator.py [--parts=update,decode,attention,int8,run] [--tiny]

update     GRPO on rows of 16k and 64k tokens: Qwen3-0.6B's shape, all of it, and Qwen3-4B's with
           adapters of rank 16. FLOPs that the model needs (recomputation not counted) over the
           device's peak. prime-rl publishes 11.1 and 26.8%, 21.7 and 37.4% on one H100.
decode     Qwen3-0.6B, 8 groups of 8 rows, 1,024 + 1,024 tokens: bytes that every step has to read
           (parameters once, the tokens so far of each row and the prompt of each group) over the
           memory's bandwidth. Goal: 70%.
attention  log-probs and gradients with cuDNN or flash against those with XLA's attention.
int8       the same sampling with kernels of 8 bits: tokens per second, and how far the log-probs of
           its tokens are from the trainer's.
run        a whole RLSP run of SmolLM2-135M with its evaluations (experiments/rlsp_smollm2.py).

Parameters are random. `--tiny` does all parts but the last on shapes that measure nothing, so that
the program is tested without an accelerator. Prints a JSON line for each measurement.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from rlreason import algorithms, models, sampling
from rlreason.algorithms import presets
from rlreason.algorithms.rows import completion_features
from rlreason.models import LoRAConfig, ModelConfig
from rlreason.models import attention as attention_lib
from rlreason.models.transformer import token_log_probs
from rlreason.parallel import ParallelConfig, chips, make_layout
from rlreason.training.optimizer import OptimizerConfig, make_optimizer
from rlreason.training.planning import flops
from rlreason.types import Outcome, Prompts, Rollout

PARTS = ("update", "decode", "attention", "int8", "run")
# Bytes/s of the memory, by a part of the name that JAX has for a device; of their makers.
BANDWIDTHS = {
    "A100": 2.04e12, "H100": 3.35e12, "H200": 4.8e12, "B200": 8e12, "TPU v5 lite": 0.819e12,
    "TPU v5": 2.765e12, "TPU v6 lite": 1.64e12}
ROUNDS = 5


def qwen3(width, mlp_width, layers, heads, **fields):
  return ModelConfig(
      vocab_size=151_936, width=width, num_layers=layers, num_heads=heads, num_kv_heads=8,
      head_dim=128, mlp_width=mlp_width, rope_theta=1e6, norm_eps=1e-6, tie_embeddings=True,
      qk_norm=True, max_positions=131_072, **{
          "dtype": "bfloat16", "param_dtype": "bfloat16", "remat": "full", **fields})


def shapes(is_tiny):
  """Name -> (model, tokens of a row)."""
  small = qwen3(1024, 3072, 28, 16, param_dtype="float32")
  large = qwen3(2560, 9728, 36, 32, lora=LoRAConfig(rank=16, alpha=32.0))
  sizes = (16_384, 65_536)
  if is_tiny:
    tiny = dict(vocab_size=64, width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8,
                mlp_width=32)
    small, large = (dataclasses.replace(model, **tiny) for model in (small, large))
    sizes = (16,)
  return {f"{name} {tokens}": (model, tokens) for tokens in sizes
          for name, model in (("Qwen3-0.6B", small), ("Qwen3-4B adapters", large))}


def seconds_of(run):
  """The median time of a call, whose first compiles and does not count."""
  jax.block_until_ready(run())
  taken = []
  for _ in range(ROUNDS):
    start = time.perf_counter()
    jax.block_until_ready(run())
    taken.append(time.perf_counter() - start)
  return statistics.median(taken)


def init(model):
  """Random parameters, made on the device."""
  return jax.jit(functools.partial(models.init_params, model))(jax.random.key(0))


def update(model, tokens, peak):
  """One update of two rows, each of an eighth of prompt, by GRPO."""
  prompt, rows = tokens // 8, 2
  config = presets.grpo(
      minibatch_size=rows, micro_batch_size=1, share_prompts=False, kl_coef=0.0)
  optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-6), 1000)
  algorithm = algorithms.policy_gradient(
      config, model, optimizer, temperature=1.0, group_size=rows)
  layout = make_layout(ParallelConfig(data=1))
  state = layout.put_state(algorithm.init(layout.put_params(
      algorithms.init_rl_params(config, model, init(model)), None)))
  rollout = layout.put_rows(random_rollout(model, rows, prompt, tokens - prompt))
  scores = layout.compile_rows(algorithm.score)({"params": state.params}, rollout, None)
  outcome = layout.put_rows(Outcome(np.arange(rows, dtype=np.float32), np.ones(rows, bool)))
  batch, _ = layout.compile_whole(algorithm.make_batch)((rollout, scores, outcome), state.coefs)
  step, held = layout.compile_update(algorithm.update_step, state), [state]
  del state

  def run():
    held[0], metrics = step(held[0], batch, jax.random.key(1))
    return metrics

  seconds = seconds_of(run)
  needed = flops.training(model, flops.forward(
      model, rows=rows, prompt=prompt, completion=tokens - prompt))
  return {"seconds": seconds, "mfu": needed / seconds / peak, "tokens": rows * tokens,
          "attention": attention_lib.resolve(model, tokens), **peak_memory()}


def random_rollout(model, rows, prompt, completion):
  random = np.random.default_rng(0)
  ids = lambda length: random.integers(2, model.vocab_size, (rows, length)).astype(np.int32)
  everything = np.ones((rows, completion), bool)
  return Rollout(
      prompt_tokens=ids(prompt), prompt_mask=np.ones((rows, prompt), bool),
      completion_tokens=ids(completion), token_mask=everything, action_mask=everything,
      log_probs=np.full(everything.shape, -np.log(model.vocab_size), np.float32), values=None,
      truncated=np.ones(rows, bool))


def peak_memory():
  stats = jax.devices()[0].memory_stats() or {}
  return {"peak_gb": stats["peak_bytes_in_use"] / 1e9} if "peak_bytes_in_use" in stats else {}


def sampler(model, params, sizes, weights):
  """A function without arguments that samples; `sizes` are groups, their rows, S and T."""
  groups, size, prompt, new = sizes
  random = np.random.default_rng(0)
  prompts = jax.device_put(Prompts(
      tokens=random.integers(2, model.vocab_size, (groups, prompt)).astype(np.int32),
      mask=np.ones((groups, prompt), bool), index=np.arange(groups, dtype=np.int32)))
  options = sampling.SamplingOptions(max_new_tokens=new, weights=weights)
  run = jax.jit(lambda params, prompts: sampling.sample(
      model, params, prompts, jax.random.key(0), options=options, stop_ids=(), group_size=size))
  return lambda: run(params, prompts)


def decode(model, params, sizes, bandwidth):
  """Sampling: the time of a step, and the share of the bandwidth that its reads take."""
  groups, size, prompt, new = sizes
  one_token = (groups, size, prompt, 1)  # the prompts' pass, and nothing else
  seconds = seconds_of(sampler(model, params, sizes, "full")) - seconds_of(
      sampler(model, params, one_token, "full"))
  item = jnp.dtype(model.dtype).itemsize
  kernels = item * sum(leaf.size for leaf in jax.tree.leaves(params))
  token = 2 * item * model.num_layers * model.num_kv_heads * model.head_dim
  read = kernels + token * (groups * prompt + groups * size * new / 2)
  step = seconds / (new - 1)
  return {"step_ms": 1e3 * step, "tokens_per_second": groups * size / step,
          "gb_a_step": read / 1e9, "share_of_bandwidth": read / step / bandwidth}


def log_probs_of(model, params, rollout):
  """The trainer's, f32[B, T]."""
  hidden, _ = completion_features(model, params, rollout)
  return token_log_probs(model, params, hidden, rollout.completion_tokens)[0]


def attention(model, params, tokens):
  """Relative differences of the platform's kernel from XLA's: log-probs and their gradient."""
  rollout = random_rollout(model, 2, tokens // 8, tokens - tokens // 8)

  def of(name):
    config = dataclasses.replace(model, attention=name)

    def loss(params):
      found = log_probs_of(config, params, rollout)
      return jnp.mean(found), found

    (_, found), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return found, jnp.concatenate(
        [x.astype(jnp.float32).reshape(-1) for x in jax.tree.leaves(gradients["layers"])])

  apart = {part: float(jnp.linalg.norm(x - y) / jnp.linalg.norm(y)) for part, x, y in zip(
      ("log_probs", "gradient"), of("auto"), of("xla"), strict=True)}
  return {"kernel": attention_lib.resolve(model, tokens), **apart}


def int8(model, params, sizes):
  """Kernels of 8 bits against the model's own: speed, and the distance of their log-probs."""
  groups, size, prompt, new = sizes
  runs = {weights: sampler(model, params, sizes, weights) for weights in ("full", "int8")}
  speed = {f"{weights}_tokens_per_second": groups * size * new / seconds_of(run)
           for weights, run in runs.items()}
  trained = jax.jit(functools.partial(log_probs_of, model))
  found = {}
  for weights, run in runs.items():
    rollout = run()
    apart = trained(params, rollout) - rollout.log_probs
    found[f"{weights}_k3"] = float(jnp.mean(jnp.exp(apart) - 1 - apart))
  return speed | found


def whole_run():
  with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "rlreason", "train", "--config=rlsp_smollm2",
         f"--workdir={folder}/run"], check=True)
    with open(f"{folder}/run/summary.json", encoding="utf-8") as file:
      stages = json.load(file)["stages"]
  return {"seconds": time.perf_counter() - start, "stages": stages}


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--parts", default=",".join(PARTS), help="of them, separated by commas")
  parser.add_argument("--tiny", action="store_true", help="shapes that measure nothing")
  parser.add_argument("--peak", type=float, help="TFLOP/s of bf16, if the device is not known")
  parser.add_argument("--bandwidth", type=float, help="GB/s of memory, if it is not known")
  arguments = parser.parse_args()
  kind = jax.devices()[0].device_kind
  peak = 1e12 * arguments.peak if arguments.peak else chips.named(kind).peak
  known = next((value for name, value in BANDWIDTHS.items() if name in kind), 1e10)
  bandwidth = 1e9 * arguments.bandwidth if arguments.bandwidth else known

  def say(part, **values):
    print(json.dumps({"part": part, "device": kind, **values}), flush=True)

  parts = [part for part in arguments.parts.split(",") if part != "run" or not arguments.tiny]
  sizes = (2, 2, 4, 4) if arguments.tiny else (8, 8, 1024, 1024)
  models_of = shapes(arguments.tiny)
  for name, (model, tokens) in models_of.items() if "update" in parts else ():
    say("update", shape=name, **update(model, tokens, peak))
  model, tokens = next(iter(models_of.values()))
  model = dataclasses.replace(model, param_dtype="bfloat16")
  params = init(model) if {"attention", "decode", "int8"} & set(parts) else None
  if "attention" in parts:
    say("attention", **attention(model, params, min(tokens, 4096)))
  if "decode" in parts:
    say("decode", **decode(model, params, sizes, bandwidth))
  if "int8" in parts:
    say("int8", **int8(model, params, sizes))
  if "run" in parts:
    say("run", **whole_run())


if __name__ == "__main__":
  main()
