"""Functions that the partitioner cannot split: each device runs them on its own part."""

from typing import Callable

import jax
from jax.sharding import PartitionSpec

from rlreason.parallel import rules

Axes = tuple[str, ...]  # logical axes of one array


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
