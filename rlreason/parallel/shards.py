"""The interface of a program for some rows to the other devices.

Communication of an update with other replicas, functions that the partitioner cannot split, and
arrays that follow the sharding of others.
"""

from typing import Any, Callable, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from rlreason.parallel import rules

Axes = tuple[str, ...]  # logical axes of one array


class Replicas(NamedTuple):
  """Communication of an update with the other replicas."""

  sum: Callable[[Any], Any]  # adds a pytree over the replicas
  gather: Callable[[Any], Any]  # this replica's rows -> all rows
  take: Callable[[Any, jax.Array], Any]  # (all rows, i32[n, m]) -> this replica's [n, share, ...]
  place: Callable[[Any], Any]  # [n, parts, ...] -> the same, each part on the device of its rows


def take_rows(batch: Any, indices: jax.Array) -> Any:
  """The rows of a batch, arrays [B, ...], at `indices` i32[n, m]: [n, m, ...]."""
  return jax.tree.map(lambda x: x[indices], batch)


ALONE = Replicas(sum=lambda x: x, gather=lambda x: x, take=take_rows, place=lambda x: x)


def map_rows(fn: Callable, in_axes: tuple[Axes, ...], out_axes: Any) -> Callable:
  """`map_shards` over the devices that split rows; the partitioner splits the parts of others.

  Where the rows are not divisible, it is `fn` itself. The gradient of what is not split is summed
  over the devices once, after `fn`.

  Args:
    fn: a function of arrays; independent along "batch", the only axis that is split.
    in_axes: of every argument, the logical axes; those other than "batch" are whole.
    out_axes: of the result, or a tree of them.
  """
  mesh = rules.current_mesh()
  count = rules.num_shards("batch")
  if count == 1:
    return fn
  is_axes = lambda axes: isinstance(axes, tuple) and all(isinstance(axis, str) for axis in axes)
  spec = lambda axes: PartitionSpec(*(rules.ROWS if axis == "batch" else None for axis in axes))
  specs = lambda tree: jax.tree.map(spec, tree, is_leaf=is_axes)

  def mapped(*args):
    sizes = {x.shape[axes.index("batch")] for axes, x in zip(in_axes, args, strict=True)
             if "batch" in axes}
    if any(size % count for size in sizes):
      return fn(*args)
    return jax.shard_map(
        fn, mesh=mesh, in_specs=specs(in_axes), out_specs=specs(out_axes),
        axis_names=set(rules.ROWS), check_vma=False)(*args)

  return mapped


def map_shards(fn: Callable, in_axes: tuple[Axes, ...], out_axes: Axes) -> Callable:
  """Applies `fn` to each device's part of its arguments, if the program is traced for a mesh.

  Without a mesh, and on one device, it is `fn` itself. An axis that is not divisible by its devices
  is not split, as in `rules.param_shardings`; the devices then all do the same.

  Args:
    fn: a function of arrays that returns an array; independent along the axes that are split.
    in_axes: of every argument, the logical axes.
    out_axes: of the result.
  """
  mesh = rules.current_mesh()
  if mesh is None or mesh.size == 1:
    return fn

  def mapped(*args):
    whole = {axis for axes, x in zip(in_axes, args, strict=True)
             for axis, size in zip(axes, x.shape, strict=True) if size % rules.num_shards(axis)}

    def spec(axes):
      return PartitionSpec(*(None if axis in whole else dict(rules.RULES)[axis] for axis in axes))

    # Pallas does not state over which axes its results vary.
    return jax.shard_map(
        fn, mesh=mesh, in_specs=tuple(map(spec, in_axes)), out_specs=spec(out_axes),
        check_vma=False)(*args)

  return mapped


def put_together(tree: Any) -> Any:
  """A tree whose arrays without a sharding are replicated to the devices of the others.

  A program is compiled for the shardings of its arguments, and its results have shardings: without
  this, a loop would compile its programs once for its initial arrays and again for later ones.

  Args:
    tree: of arrays; traced ones are unchanged.
  """
  is_free = lambda x: not isinstance(x, jax.core.Tracer) and not getattr(x, "committed", False)
  held = next((x.sharding for x in jax.tree.leaves(tree)
               if not isinstance(x, jax.core.Tracer) and not is_free(x)), None)
  if isinstance(held, NamedSharding):
    held = NamedSharding(held.mesh, PartitionSpec())
  return jax.tree.map(lambda x: jax.device_put(x, held) if is_free(x) else x, tree)
