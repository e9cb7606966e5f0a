"""Memory and time of token log-probs and entropies over a large vocabulary, and of the naive form.

Usage: python benchmarks/logprobs.py [--rounds=5] [--dtype=bfloat16] [--softcap=30]

The gradient of a loss of both with respect to hidden states and kernel, at the vocabulary of
Qwen2.5. The naive form is the obvious implementation: all logits, log_softmax, the target's, the
entropy. It runs twice, on [B, T, V] and on [B * T, V], which XLA computes faster on the CPU; the
goals are for the better figure of the two. Each form runs in a separate process, compiled with the
library's options, and they alternate.

The peak is that of the process without inputs, results and the memory held before compiling; on a
GPU that of the device. `temporary` is XLA's own count of the memory for intermediate results. CPU
seconds of the process on all cores are reported besides wall-clock seconds, because a busy machine
hardly changes them.
"""

import argparse
import dataclasses
import gc
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from rlreason import losses
from rlreason.parallel.jit import compiler_options
import side_by_side

FORMS = ("chunked", "naive", "naive, flat")
GOAL = {"peak": 0.25, "seconds": 1.15}


@dataclasses.dataclass(frozen=True)
class Shape:
  """Sizes of one loss, and its options."""

  rows: int = 4
  tokens: int = 256
  width: int = 896
  vocabulary: int = 151936
  dtype: str = "float32"  # of hidden states and products; the kernel is f32
  softcap: float = 0.0  # 0 = none
  tied: int = 0  # 1: the kernel is [V, D], an embedding


def naive(shape, hidden, kernel, targets):
  """Log-probs and entropies of targets, with an array of all logits."""
  kernel = kernel.T if shape.tied else kernel
  logits = jnp.matmul(
      hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
  if shape.softcap:
    logits = shape.softcap * jnp.tanh(logits / shape.softcap)
  log_probs = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
  return chosen, -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def flat(shape, hidden, kernel, targets):
  """The same with all tokens on one axis."""
  results = naive(shape, hidden.reshape(-1, shape.width), kernel, targets.reshape(-1))
  return jax.tree.map(lambda x: x.reshape(targets.shape), results)


def chunked(shape, hidden, kernel, targets):
  """The library's implementation."""
  return losses.token_log_probs(
      hidden, kernel, targets, softcap=shape.softcap or None, vocab_axis=0 if shape.tied else 1)


def make_inputs(shape):
  """Hidden states, kernel, targets, and two weights of every token."""
  random = np.random.default_rng(0)
  tokens = (shape.rows, shape.tokens)
  kernel = 0.02 * jax.random.normal(jax.random.key(0), (shape.width, shape.vocabulary))
  return (jnp.asarray(random.normal(size=(*tokens, shape.width)), shape.dtype),
          jax.block_until_ready(kernel.T if shape.tied else kernel),
          jnp.asarray(random.integers(0, shape.vocabulary, tokens), jnp.int32),
          jnp.asarray(random.normal(size=(2, *tokens)), jnp.float32))


def make_gradient(form, shape):
  """The program of one form: the loss, and its gradient for hidden states and kernel."""
  log_probs_of = dict(zip(FORMS, (chunked, naive, flat), strict=True))[form]

  def loss(hidden, kernel, targets, weights):
    log_probs, entropy = log_probs_of(shape, hidden, kernel, targets)
    return jnp.sum(weights[0] * log_probs) + jnp.sum(weights[1] * entropy)

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)),
                 compiler_options=compiler_options(jax.default_backend()))


def peak_beside(before, results):
  """Peak bytes since `before`, without those of the results."""
  stats = jax.devices()[0].memory_stats()
  peak = stats["peak_bytes_in_use"] if stats else side_by_side.process_memory("VmHWM")
  return peak - before - sum(leaf.nbytes for leaf in jax.tree.leaves(results))


def work(form, shape):
  """In a separate process: one JSON line when ready, then one for each line of stdin."""
  inputs = make_inputs(shape)
  compiled = make_gradient(form, shape).lower(*inputs).compile()
  gc.collect()
  stats = jax.devices()[0].memory_stats()
  before = stats["bytes_in_use"] if stats else side_by_side.process_memory("VmRSS")
  if not stats:
    # The peak is counted from here, which excludes making the inputs and compiling.
    side_by_side.forget_peak()
  results = jax.block_until_ready(compiled(*inputs))
  print(json.dumps({
      "loss": float(results[0]), "temporary": compiled.memory_analysis().temp_size_in_bytes,
      "peak": peak_beside(before, results)}), flush=True)
  for _ in sys.stdin:
    del results
    start, busy = time.perf_counter(), time.process_time()
    results = jax.block_until_ready(compiled(*inputs))
    print(json.dumps({"seconds": time.perf_counter() - start,
                      "cpu_seconds": time.process_time() - busy}), flush=True)


def start(form, shape):
  """Starts the process of one form."""
  return side_by_side.Worker(
      [sys.executable, __file__, "--work", form, json.dumps(dataclasses.asdict(shape))])


def measure(shape, rounds):
  """{form: loss, bytes and seconds}, and the chunked form relative to the better naive one."""
  workers = {form: start(form, shape) for form in FORMS}
  taken = side_by_side.take_turns(
      {form: lambda _, worker=worker: worker.ask() for form, worker in workers.items()},
      rounds=rounds, warm_up=1)
  for worker in workers.values():
    worker.close()
  forms = {form: workers[form].hello | side_by_side.median_of_parts(taken[form])
           for form in FORMS}
  ratios = {}
  for name in ("peak", "temporary"):
    ratios[name] = round(
        forms["chunked"][name] / min(forms[form][name] for form in FORMS[1:]), 3)
  for name in ("seconds", "cpu_seconds"):
    best = min(FORMS[1:], key=lambda form, name=name: forms[form][name])
    of = lambda form, name=name: [result[name] for result in taken[form]]
    ratios[name] = side_by_side.median_ratio(of("chunked"), of(best))
  return forms, ratios


def print_table(forms):
  """One line per form."""
  print(f"{'':12} {'peak MB':>9} {'temporary MB':>13} {'seconds':>8} {'of CPU':>8} "
        f"{'loss':>10}")
  for form, figures in forms.items():
    print(f"{form:12} {figures['peak'] / 1e6:9.0f} {figures['temporary'] / 1e6:13.0f} "
          f"{figures['seconds']:8.3f} {figures['cpu_seconds']:8.3f} {figures['loss']:10.4f}")


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
  parser.add_argument("--work", nargs=2, metavar=("FORM", "SHAPE"),
                      help="only answer: what the processes of their own are started with")
  for field in dataclasses.fields(Shape):
    parser.add_argument(f"--{field.name}", type=field.type, default=field.default)
  arguments = parser.parse_args()
  if arguments.work:
    work(arguments.work[0], Shape(**json.loads(arguments.work[1])))
    return
  shape = Shape(**{field.name: getattr(arguments, field.name)
                   for field in dataclasses.fields(Shape)})
  forms, ratios = measure(shape, arguments.rounds)
  print_table(forms)
  side_by_side.print_line(
      "logprobs", shape=dataclasses.asdict(shape), forms=forms, of_naive=ratios, goal=GOAL)


if __name__ == "__main__":
  main()
