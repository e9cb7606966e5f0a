"""The interface of a program for some rows to the other devices.

Communication of an update with other replicas, functions that the partitioner cannot split, and
arrays that follow the sharding of others.
"""

import functools
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from rlreason.parallel import rules

Axes = tuple[str | None, ...]  # logical axes of one array


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


def map_rows(
    fn: Callable, in_axes: tuple[Axes, ...], out_axes: Any, split_by: str | None = None
) -> Callable:
  """`fn` of each device's rows; the partitioner splits what devices with the same rows share.

  Parameters, which devices with different rows hold parts of, are gathered first, and the sum of
  their gradients is scattered after `fn`: nothing inside `fn` communicates for them. Where the rows
  are not divisible, it is `fn` itself.

  Args:
    fn: a function of arrays, or trees of them; independent along "batch".
    in_axes: of every argument, the logical axes.
    out_axes: of the result, or a tree of them.
    split_by: a mesh axis whose devices each get their part of a parameter that it splits; `fn` then
      communicates over it itself.
  """
  mesh, count = rules.current_mesh(), rules.num_shards("batch")
  if count == 1 and split_by is None:
    return fn
  others = () if split_by is None else (split_by,)

  def batch_spec(axes, names=rules.ROWS):
    return PartitionSpec(*(names if axis == "batch" else None for axis in axes))

  def spec_of(axes, names, x):
    return batch_spec(axes, names) if "batch" in axes else rules.rows_part(
        rules.spec_of(axes, x.shape), *others)

  def mapped(*args):
    sizes = {x.shape[axes.index("batch")] for axes, arg in zip(in_axes, args, strict=True)
             for x in jax.tree.leaves(arg) if "batch" in axes}
    names = None if any(size % count for size in sizes) else rules.ROWS
    if names is None and split_by is None:
      return fn(*args)
    specs = tuple(jax.tree.map(functools.partial(spec_of, axes, names), arg)
                  for axes, arg in zip(in_axes, args, strict=True))

    def mine(*parts):
      return fn(*(part if "batch" in axes else jax.tree.map(_gather, part, spec)
                  for axes, part, spec in zip(in_axes, parts, specs, strict=True)))

    return jax.shard_map(
        mine, mesh=mesh, in_specs=specs,
        out_specs=jax.tree.map(
            functools.partial(batch_spec, names=names), out_axes, is_leaf=_is_axes),
        axis_names={*rules.ROWS, *others}, check_vma=False)(*args)

  return mapped


def _gather(part: jax.Array, spec: PartitionSpec) -> jax.Array:
  for axis, name in enumerate(spec):
    if name in rules.ROWS:
      part = jax.lax.all_gather(part, name, axis=axis, tiled=True)
  return part


def map_shards(fn: Callable, in_axes: tuple[Axes, ...], out_axes: Any) -> Callable:
  """Applies `fn` to each device's part of its arguments, if the program is traced for a mesh.

  Without a mesh, and on one device, it is `fn` itself. An axis that is not divisible by its devices
  is not split, as in `rules.param_shardings`; the devices then all do the same.

  Args:
    fn: a function of arrays; independent along the axes that are split, or it communicates itself.
    in_axes: of every argument, the logical axes; None: whole.
    out_axes: of the result, or a tree of them.
  """
  mesh = rules.current_mesh()
  if mesh is None or mesh.size == 1:
    return fn

  def mapped(*args):
    whole = {axis for axes, x in zip(in_axes, args, strict=True)
             for axis, size in zip(axes, x.shape, strict=True)
             if axis is not None and size % rules.num_shards(axis)}

    def spec(axes):
      return PartitionSpec(*(
          None if axis is None or axis in whole else rules.table()[axis] for axis in axes))

    # Pallas does not state over which axes its results vary.
    return jax.shard_map(
        fn, mesh=mesh, in_specs=tuple(map(spec, in_axes)),
        out_specs=jax.tree.map(spec, out_axes, is_leaf=_is_axes), check_vma=False)(*args)

  return mapped


def map_parts(fn: Callable, in_specs: Any, out_specs: Any) -> Callable:
  """Applies `fn`, which communicates itself, to each device's parts, by these specifications."""
  return jax.shard_map(fn, mesh=rules.current_mesh(), in_specs=in_specs, out_specs=out_specs,
                       check_vma=False)


def _is_axes(tree: Any) -> bool:
  return isinstance(tree, tuple) and all(axis is None or isinstance(axis, str) for axis in tree)


def constrain(x: jax.Array, axes: Axes) -> jax.Array:
  """The array, split over devices like its logical axes; None: whole.

  An axis that is not divisible is not split. Without a mesh, `x` is unchanged.
  """
  mesh = rules.current_mesh()
  if mesh is None or mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, rules.spec_of(axes, x.shape))


def gather_rows(kernel: jax.Array, axes: Axes) -> jax.Array:
  """A parameter that devices with different rows hold parts of, whole on each of them.

  Once for all products that read it: else the partitioner multiplies the parts one after the other
  and adds up their products, which for bf16 rounds every sum.
  """
  return constrain(kernel, rules.whole_in_rows(axes))


def sum_rows(fn: Callable, axes: Axes, *rows: jax.Array) -> jax.Array:
  """`fn` of all rows, where that is the sum of its results for some rows and for the others.

  Every device computes it for its rows, and then gets its part of the sum: one reduce-scatter. The
  partitioner would compute the result part by part instead, each of which is too small a product.

  Args:
    fn: a function of arrays [M, ...] that returns an array.
    axes: logical axes of the result.
    *rows: its arguments, M the same for all.
  """
  mesh, count = rules.current_mesh(), rules.num_shards("batch")
  if count == 1 or rows[0].shape[0] % count:
    return constrain(fn(*rows), axes)
  spec = rules.rows_part(rules.spec_of(axes, jax.eval_shape(fn, *rows).shape))

  def mine(*rows):
    part, left = fn(*rows), [name for name in rules.ROWS if mesh.shape[name] > 1]
    for axis, name in enumerate(spec):
      if name is not None:
        part = jax.lax.psum_scatter(part, name, scatter_dimension=axis, tiled=True)
        left.remove(name)
    return jax.lax.psum(part, left) if left else part

  total = jax.shard_map(
      mine, mesh=mesh, in_specs=PartitionSpec(rules.ROWS), out_specs=spec,
      axis_names=set(rules.ROWS), check_vma=False)(*rows)
  return constrain(total, axes)


def add_rows(
    tokens: jax.Array, rows: jax.Array, shape: tuple[int, int], axes: tuple[str, str]
) -> jax.Array:
  """f32 table of `shape` [V, D] with the sum of the rows [M, D] of each token, i32[M].

  Where D is split over devices with other rows, each gets its columns of their rows, and adds up
  its columns of the table: the partitioner could add up whole tables instead.

  Args:
    tokens, rows: of all devices.
    shape: of the table.
    axes: its logical axes.
  """
  add = lambda tokens, rows: jnp.zeros((shape[0], rows.shape[1]), jnp.float32).at[tokens].add(
      rows.astype(jnp.float32))
  mesh, count = rules.current_mesh(), rules.num_shards("batch")
  spec = None if mesh is None else rules.rows_part(rules.spec_of(axes, shape))
  if count == 1 or tokens.shape[0] % count or spec[1] is None:
    return constrain(add(tokens, rows), axes)
  others = [name for name in rules.ROWS if name != spec[1] and mesh.shape[name] > 1]

  def mine(tokens, rows):
    part = add(jax.lax.all_gather(tokens, spec[1], tiled=True),
               jax.lax.all_to_all(rows, spec[1], 1, 0, tiled=True))
    return jax.lax.psum(part, others) if others else part

  total = jax.shard_map(
      mine, mesh=mesh, in_specs=PartitionSpec(rules.ROWS), out_specs=spec,
      axis_names=set(rules.ROWS), check_vma=False)(tokens, rows)
  return constrain(total, axes)


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
