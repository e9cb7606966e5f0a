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
  """`fn` of each device's tokens; the partitioner splits what devices with the same tokens share.

  Parameters, which devices with different tokens hold parts of, are gathered first, and the sum of
  their gradients is scattered after `fn`: nothing inside `fn` communicates for them. Where neither
  the rows nor their columns are divisible, it is `fn` itself.

  Args:
    fn: a function of arrays, or trees of them; independent along "batch" and, where an argument has
      that axis, "length", or it communicates itself.
    in_axes: of every argument, the logical axes.
    out_axes: of the result, or a tree of them.
    split_by: a mesh axis whose devices each get their part of a parameter that it splits; `fn` then
      communicates over it itself.
  """
  mesh = rules.current_mesh()
  if rules.num_shards("batch") * rules.num_shards("length") == 1 and split_by is None:
    return fn
  others = () if split_by is None else (split_by,)

  def tokens_spec(axes, names):
    return PartitionSpec(*(names.get(axis) for axis in axes))

  def spec_of(axes, names, x):
    return tokens_spec(axes, names) if "batch" in axes else rules.part_of(
        rules.spec_of(axes, x.shape), {*rules.TOKENS, *others})

  def mapped(*args):
    names = {axis: rules.part_of(PartitionSpec(rules.table()[axis]), rules.TOKENS)[0]
             for axis in ("batch", "length") if _divides(axis, in_axes, args)}
    if not names and split_by is None:
      return fn(*args)
    specs = tuple(jax.tree.map(functools.partial(spec_of, axes, names), arg)
                  for axes, arg in zip(in_axes, args, strict=True))

    def mine(*parts):
      return fn(*(part if "batch" in axes else jax.tree.map(_gather, part, spec)
                  for axes, part, spec in zip(in_axes, parts, specs, strict=True)))

    return jax.shard_map(
        mine, mesh=mesh, in_specs=specs,
        out_specs=jax.tree.map(
            functools.partial(tokens_spec, names=names), out_axes, is_leaf=_is_axes),
        axis_names={*rules.split_tokens(), *others}, check_vma=False)(*args)

  return mapped


def _divides(axis: str, in_axes: tuple[Axes, ...], args: tuple) -> bool:
  """Whether devices split this logical axis of some arguments, and it is divisible in all."""
  sizes = {x.shape[axes.index(axis)] for axes, arg in zip(in_axes, args, strict=True)
           if "batch" in axes and axis in axes for x in jax.tree.leaves(arg)}
  count = rules.num_shards(axis)
  return bool(sizes) and count > 1 and not any(size % count for size in sizes)


def _gather(part: jax.Array, spec: PartitionSpec) -> jax.Array:
  for axis, names in enumerate(spec):
    names = tuple(name for name in rules.names_of(names) if name in rules.TOKENS)
    if names:
      part = jax.lax.all_gather(part, names, axis=axis, tiled=True)
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


def pad_columns(x: jax.Array, multiple: int) -> jax.Array:
  """[B, T, ...] with zeros on the right, up to a multiple of columns."""
  right = -x.shape[1] % multiple
  return x if not right else jnp.pad(x, ((0, 0), (0, right)) + ((0, 0),) * (x.ndim - 2))


def whole_columns(x: jax.Array, axis: int) -> jax.Array:
  """Within `map_rows` or `map_shards`, where devices split the columns of rows: those of all."""
  return jax.lax.all_gather(x, rules.manual_axis("length"), axis=axis, tiled=True)


def gather_rows(kernel: jax.Array, axes: Axes) -> jax.Array:
  """A parameter that devices with different tokens hold parts of, whole on each of them.

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
    *rows: its arguments, M the same for all; or all [B, T, ...], where B * T is M, if devices split
      both (`rules.splits_columns`).
  """
  rows_spec, used = _spec_of_rows(rows[0].shape[:-1])
  flat = lambda rows: [x.reshape(-1, x.shape[-1]) for x in rows]
  if not used:
    return constrain(fn(*flat(rows)), axes)
  shape = jax.eval_shape(lambda *rows: fn(*flat(rows)), *rows).shape
  spec = rules.part_of(rules.spec_of(axes, shape), used)

  def mine(*rows):
    part, left = fn(*flat(rows)), set(used)
    for axis, names in enumerate(spec):
      if names is not None:
        part = jax.lax.psum_scatter(part, names, scatter_dimension=axis, tiled=True)
        left -= set(rules.names_of(names))
    return jax.lax.psum(part, sorted(left)) if left else part

  total = jax.shard_map(
      mine, mesh=rules.current_mesh(), in_specs=rows_spec, out_specs=spec,
      axis_names=rules.split_tokens(), check_vma=False)(*rows)
  return constrain(total, axes)


def _spec_of_rows(lead: tuple[int, ...]) -> tuple[PartitionSpec, tuple[str, ...]]:
  """How devices split rows of sizes [M] or [B, T], and the mesh axes that do."""
  if rules.current_mesh() is None:
    return PartitionSpec(), ()
  axes = ("batch", "length")[:len(lead)]
  spec = rules.part_of(rules.spec_of(axes, lead), rules.TOKENS)
  return spec, tuple(name for names in spec for name in rules.names_of(names))


def take_rows_of(table: jax.Array, tokens: jax.Array, axes: tuple[str, str]) -> jax.Array:
  """Rows of a table [V, D] with logical axes, for tokens i32[B, T]: [B, T, D].

  Where devices split the columns of tokens, and D too, each takes its part of D for the tokens of
  all these, and they exchange them: the partitioner would gather the rows of all devices.
  """
  rows_spec, used = _spec_of_rows(tokens.shape)
  spec = rules.part_of(rules.spec_of(axes, table.shape), used) if used else (None, None)
  if spec[1] is None or not rules.splits_columns(tokens.shape):
    return table[tokens]

  def mine(table, tokens):
    rows = table[jax.lax.all_gather(tokens.reshape(-1), spec[1], tiled=True)]
    rows = jax.lax.all_to_all(rows, spec[1], 0, 1, tiled=True)
    return rows.reshape(*tokens.shape, -1)

  return jax.shard_map(
      mine, mesh=rules.current_mesh(), in_specs=(spec, rows_spec), out_specs=rows_spec,
      axis_names=rules.split_tokens(), check_vma=False)(table, tokens)


def add_rows(
    tokens: jax.Array, rows: jax.Array, shape: tuple[int, int], axes: tuple[str, str]
) -> jax.Array:
  """f32 table of `shape` [V, D] with the sum of the rows of each token, [M, D] and i32[M].

  Where D is split over devices with other rows, each gets its columns of their rows, and adds up
  its columns of the table: the partitioner could add up whole tables instead.

  Args:
    tokens, rows: of all devices; as for `sum_rows`.
    shape: of the table.
    axes: its logical axes.
  """
  def add(tokens, rows):
    table = jnp.zeros((shape[0], rows.shape[-1]), jnp.float32)
    return table.at[tokens.reshape(-1)].add(
        rows.astype(jnp.float32).reshape(-1, rows.shape[-1]))

  rows_spec, used = _spec_of_rows(rows.shape[:-1])
  spec = rules.part_of(rules.spec_of(axes, shape), used) if used else (None, None)
  if spec[1] is None and rows.ndim == 2:
    return constrain(add(tokens, rows), axes)
  by = rules.names_of(spec[1])
  others = tuple(name for name in used if name not in by)

  def mine(tokens, rows):
    tokens, rows = tokens.reshape(-1), rows.reshape(-1, rows.shape[-1])
    if by:
      tokens = jax.lax.all_gather(tokens, by, tiled=True)
      rows = jax.lax.all_to_all(rows, by, 1, 0, tiled=True)
    part = add(tokens, rows)
    return jax.lax.psum(part, others) if others else part

  total = jax.shard_map(
      mine, mesh=rules.current_mesh(), in_specs=rows_spec, out_specs=spec,
      axis_names=rules.split_tokens(), check_vma=False)(tokens, rows)
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
