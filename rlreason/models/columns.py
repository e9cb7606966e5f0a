"""The columns of rows that devices split, in parts that make causal attention even.

The last tokens of a row attend to the most others. Of 2n parts of its columns, device d of n has
part d and part 2n - 1 - d: each device then has the same number of pairs of tokens.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rlreason.parallel.rules import manual_axis
from rlreason.parallel.shards import map_rows


def _parts(shards: int) -> list[int]:
  """The parts in the order of the devices that have them: 0, 3, 1, 2 for 2 devices."""
  return [part for d in range(shards) for part in (d, 2 * shards - 1 - d)]


def balanced(length: int, shards: int) -> np.ndarray:
  """i32[T] the columns in the order of the devices that have them; T a multiple of 2 * `shards`."""
  return np.arange(length, dtype=np.int32).reshape(2 * shards, -1)[_parts(shards)].reshape(-1)


def in_order(x: jax.Array, axis: int, shards: int) -> jax.Array:
  """An array of balanced columns on `axis`, all of them on this device, in the order of a row."""
  parts = jnp.split(x, 2 * shards, axis)
  return jnp.concatenate([parts[i] for i in np.argsort(_parts(shards))], axis)


def exchange(x: jax.Array, shards: int) -> jax.Array:
  """[B, T, D] of balanced columns, split over devices, in the order of a row, split as well.

  Of the two parts that each device has, one becomes the first half of some device's columns, and
  the other the second half of another's.
  """
  last = 2 * shards - 1

  def of_device(x):
    axis = manual_axis("length")
    low, high = jnp.split(x, 2, axis=1)
    is_even = jax.lax.axis_index(axis) % 2 == 0
    # An even part is a first half: the lower part of an even device, the upper one of an odd one.
    first = jax.lax.ppermute(
        jnp.where(is_even, low, high), axis,
        [(d, (last - d if d % 2 else d) // 2) for d in range(shards)])
    second = jax.lax.ppermute(
        jnp.where(is_even, high, low), axis,
        [(d, (d if d % 2 else last - d) // 2) for d in range(shards)])
    return jnp.concatenate([first, second], axis=1)

  axes = ("batch", "length", "embed_act")
  return map_rows(of_device, (axes,), axes)(x)
