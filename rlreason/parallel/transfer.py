"""Arrays between the hosts of several processes and the devices of all of them."""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from rlreason import processes


def on_writer(tree: Any) -> Any:
  """A tree whose arrays that are divided over processes are on the host of the one that writes.

  All processes have to call it. They gather one array at a time, a large one slice by slice of its
  first axis; on the others the tree is unchanged.
  """
  def gather(x):
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
      return x
    part, whole = _gathering(NamedSharding(x.sharding.mesh, PartitionSpec()))
    found = np.empty(x.shape, x.dtype) if processes.is_writer() else None
    is_large = x.ndim > 2  # the kernels of all layers, stacked
    for i in range(x.shape[0]) if is_large else (Ellipsis,):
      piece = part(x, i) if is_large else whole(x)
      if found is not None:
        found[i] = piece
    return x if found is None else found

  return jax.tree.map(gather, tree)


@functools.cache  # a program for each shape is compiled once for all models that are written
def _gathering(everywhere: NamedSharding) -> tuple[Callable, Callable]:
  """Programs that make a slice of the first axis, and a whole array, the same on all devices."""
  return (jax.jit(lambda x, i: jax.lax.dynamic_index_in_dim(x, i, keepdims=False),
                  out_shardings=everywhere),
          jax.jit(lambda x: x, out_shardings=everywhere))


def transfers(everywhere: NamedSharding, in_turn: Callable) -> tuple[Callable, Callable]:
  """How arrays come to the devices of a mesh, and back.

  Args:
    everywhere: the sharding of what all devices of the mesh hold.
    in_turn: makes a jitted function one that no other thread's program overlaps.

  Returns:
    `put(tree, shardings)`, of arrays that every process holds, with a tree of shardings or one for
    all; and `get(tree)`, of arrays of all devices, which every process gets whole.
  """
  if processes.count() == 1:
    return jax.device_put, jax.device_get

  whole = in_turn(jax.jit(lambda tree: tree, out_shardings=everywhere))

  def put_tree(tree, shardings):
    if isinstance(shardings, jax.sharding.Sharding):
      return jax.tree.map(lambda x: _put(x, shardings), tree)
    return jax.tree.map(_put, tree, shardings)

  return put_tree, lambda tree: jax.device_get(whole(tree))


def _put(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
  """`device_put`, where each process transfers its own part.

  JAX's own compares the values of all processes first, which takes time, and fails for NaN.
  """
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    return jax.device_put(x, sharding)
  host = np.asarray(x)
  return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
