"""FLOP/s of a PPO update as a share of those of a large f32 matrix product.

Usage: python benchmarks/update.py [--rounds=5]

Both alternate in one session. The operations of an update are counted by hand (matrix products,
forward once and backward twice that); recomputation does not count.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import ours
import side_by_side

MATRIX_SIZES = (1024, 2048, 3072)


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
  rates = side_by_side.take_turns({**products, **updates}, rounds=rounds, warm_up=1)
  gigaflops = {name: round(statistics.median(rate) / 1e9, 1) for name, rate in rates.items()}
  # The machine's limit in a round is its best product: the others are too small or disturbed.
  limit = [max(rates[name][i] for name in products) for i in range(rounds)]
  share = {critic: side_by_side.median_ratio(rates[critic], limit) for critic in updates}
  side_by_side.print_line(
      "update", shape=vars(ours.Shape()), gigaflops_per_second=gigaflops, share_of_limit=share,
      goal=0.7)


if __name__ == "__main__":
  main()
