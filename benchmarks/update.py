"""FLOP/s of a PPO update as a share of those of a large f32 matrix product.

Usage: python benchmarks/update.py [--rounds=5]

Both alternate in one session. The operations of an update are counted by hand (matrix products,
forward once and backward twice that); recomputation does not count. "products alone" is what the
update with a shared critic could reach if nothing but its products with kernels took time: each of
them is timed by itself, in its shape, forward and for both gradients.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import ours
import side_by_side

MATRIX_SIZES = (1024, 2048, 3072)
REPEATS = 10  # of each product alone


def make_product(size):
  """A function of a round that returns the FLOP/s of one [size, size] matrix product."""
  left, right = jax.random.normal(jax.random.key(0), (2, size, size))
  product = jax.jit(jnp.matmul)
  repeats = max(1, 3072**3 // size**3 // 2)

  def run(_):
    start = time.perf_counter()
    for _ in range(repeats):
      product(left, right).block_until_ready()
    return repeats * 2 * size**3 / (time.perf_counter() - start)

  return run


def make_products_alone():
  """A function of a round that returns the FLOP/s of all products with kernels of one update."""
  shape = ours.Shape()
  tokens = shape.micro_sequences * (shape.prompt_tokens + shape.new_tokens)
  heads, kv_heads = (count * shape.head_dim for count in (shape.heads, shape.kv_heads))
  width, mlp_width = shape.width, shape.mlp_width
  sizes = [(tokens, width, heads, shape.layers), (tokens, width, kv_heads, 2 * shape.layers),
           (tokens, heads, width, shape.layers), (tokens, width, mlp_width, 2 * shape.layers),
           (tokens, mlp_width, width, shape.layers),
           (shape.micro_sequences * shape.new_tokens, width, shape.vocabulary, 1)]
  # Forward, and the gradients of the input and the kernel.
  forms = [jax.jit(functools.partial(jnp.einsum, form))
           for form in ("ti,io->to", "to,io->ti", "ti,to->io")]

  def run(_):
    seconds = operations = 0.0
    for rows, inputs, outputs, count in sizes:
      x, y, kernel = jnp.ones((rows, inputs)), jnp.ones((rows, outputs)), jnp.ones(
          (inputs, outputs))
      for form, operands in zip(forms, ((x, kernel), (y, kernel), (x, y)), strict=True):
        form(*operands).block_until_ready()
        start = time.perf_counter()
        for _ in range(REPEATS):
          form(*operands).block_until_ready()
        seconds += count * (time.perf_counter() - start) / REPEATS
        operations += count * 2 * rows * inputs * outputs
    return operations / seconds

  return run


def make_update(critic):
  """A function of a round that returns the FLOP/s of one update."""
  shape = ours.Shape()
  step, flops = ours.Step(shape, ours.ppo(shape, critic)), ours.update_flops(shape, critic)
  step.run(0)
  return lambda _: flops / step.update()["update"]


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
  rounds = parser.parse_args().rounds
  products = {f"product {size}": make_product(size) for size in MATRIX_SIZES}
  updates = {critic: make_update(critic) for critic in ("shared", "separate")}
  alone = {"products alone": make_products_alone()}
  rates = side_by_side.take_turns({**products, **alone, **updates}, rounds=rounds, warm_up=1)
  gigaflops = {name: round(statistics.median(rate) / 1e9, 1) for name, rate in rates.items()}
  # The machine's limit in a round is its best product: the others are too small or disturbed.
  limit = [max(rates[name][i] for name in products) for i in range(rounds)]
  share = {critic: side_by_side.median_ratio(rates[critic], limit) for critic in (*alone, *updates)}
  side_by_side.print_line(
      "update", shape=vars(ours.Shape()), gigaflops_per_second=gigaflops, share_of_limit=share,
      goal=0.7)


if __name__ == "__main__":
  main()
