"""What a program that is written for some rows knows of the devices beside its own.

How an update talks to the other replicas, functions that the partitioner cannot split, and arrays
that go where others are.
"""

from typing import Any, Callable, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from rlreason.parallel import rules

Axes = tuple[str, ...]  # logical axes of one array


class Replicas(NamedTuple):
  """How an update talks to the replicas beside it."""

  sum: Callable[[Any], Any]  # adds a pytree over the replicas
  gather: Callable[[Any], Any]  # this replica's rows -> all rows
  take: Callable[[Any, jax.Array], Any]  # (all rows, i32[n, m]) -> this replica's [n, share, ...]
  place: Callable[[Any], Any]  # [n, parts, ...] -> the same, each part on the device of its rows


def take_rows(batch: Any, indices: jax.Array) -> Any:
  """The rows of a batch, arrays [B, ...], at `indices` i32[n, m]: [n, m, ...]."""
  return jax.tree.map(lambda x: x[indices], batch)


ALONE = Replicas(sum=lambda x: x, gather=lambda x: x, take=take_rows, place=lambda x: x)


def map_shards(fn: Callable, in_axes: tuple[Axes, ...], out_axes: Axes) -> Callable:
  """`fn` of each device's part of its arguments, where the program is traced for a mesh.

  Without a mesh, and on one device, it is `fn` itself. An axis that its devices do not divide stays
  whole, as in `rules.param_shardings`; the devices then all do the same.

  Args:
    fn: a function of arrays that returns an array; independent along the axes that are split.
    in_axes: of every argument, the logical axes.
    out_axes: of the result.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return fn

  def mapped(*args):
    whole = {axis for axes, x in zip(in_axes, args, strict=True)
             for axis, size in zip(axes, x.shape, strict=True) if size % rules.num_shards(axis)}

    def spec(axes):
      return PartitionSpec(*(None if axis in whole else dict(rules.RULES)[axis] for axis in axes))

    # Pallas does not say over which axes its results vary.
    return jax.shard_map(
        fn, mesh=mesh, in_specs=tuple(map(spec, in_axes)), out_specs=spec(out_axes),
        check_vma=False)(*args)

  return mapped


def put_together(tree: Any) -> Any:
  """A tree whose arrays without a place of their own go where the others are, to every device.

  A program is compiled for the places of its arguments, and what comes out of it has one: without
  this, a loop would compile its programs once for what it starts with and again for what follows.

  Args:
    tree: of arrays; traced ones stay as they are.
  """
  is_free = lambda x: not isinstance(x, jax.core.Tracer) and not getattr(x, "committed", False)
  held = next((x.sharding for x in jax.tree.leaves(tree)
               if not isinstance(x, jax.core.Tracer) and not is_free(x)), None)
  if isinstance(held, NamedSharding):
    held = NamedSharding(held.mesh, PartitionSpec())
  return jax.tree.map(lambda x: jax.device_put(x, held) if is_free(x) else x, tree)
