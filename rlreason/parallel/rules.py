"""The table from logical axes, which models name, to mesh axes."""

from collections.abc import Iterable, Mapping
import contextlib
import functools
import math

from flax import linen as nn
import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding

ROWS = ("data", "fsdp", "expert")  # mesh axes that split the rows of a batch
TOKENS = (*ROWS, "sequence")  # and those that split the tokens of all rows

RULES = (
    ("batch", ROWS),
    ("length", "sequence"),
    ("embed_act", None),
    ("layers", None),
    ("vocab", "tensor"),
    ("embed", ("fsdp", "sequence")),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("head_dim", None),
    ("mlp", "tensor"),
    ("experts", "expert"),
    ("expert_mlp", "tensor"),
)


# Logical axes that a user's rules may place, and the axes of one array, which may not share a mesh
# axis: those of parameters, and of heads and logits of rows.
_PLACED = ("vocab", "embed", "heads", "kv_heads", "mlp", "experts", "expert_mlp")
_TOGETHER = (("embed", "vocab"), ("embed", "heads"), ("embed", "kv_heads"), ("embed", "mlp"),
             ("experts", "embed", "expert_mlp"), ("batch", "length", "vocab"),
             ("batch", "length", "heads"), ("batch", "length", "kv_heads"))


def make_table(changes: tuple[str, ...], mesh_axes: tuple[str, ...]) -> tuple:
  """`RULES` with changes such as "mlp:none" or "embed:data".

  Args:
    changes: a logical axis of parameters and the mesh axis that splits it, or none.
    mesh_axes: those that there are.

  Raises:
    ValueError: an axis is unknown, or two axes of one array would be split by the same mesh axis.
  """
  names = dict(RULES)
  for change in changes:
    axis, _, place = change.partition(":")
    if axis not in _PLACED:
      raise ValueError(f"rules: got {change!r}, allowed: {', '.join(_PLACED)} before the colon")
    if place not in (*mesh_axes, "none"):
      raise ValueError(
          f"rules: got {change!r}, allowed: {', '.join(mesh_axes)} or none after the colon")
    names[axis] = None if place == "none" else place
  for axes in _TOGETHER:
    used = [name for axis in axes for name in names_of(names[axis])]
    twice = next((name for name in used if used.count(name) > 1), None)
    if twice is not None:
      raise ValueError(f"rules: got {', '.join(changes)}, allowed: another mesh axis than {twice} "
                       f"for one of {', '.join(axes)}, which are axes of one array")
  return tuple(names.items())


def make_sampler_table(table: tuple, names: tuple[str, ...]) -> tuple:
  """The table of a program that samples: a step has one token of a row, and `names` split rows."""
  return tuple({**dict(table), "batch": names, "length": None}.items())


def count_row_shards(sizes: Mapping[str, int]) -> int:
  """Devices that split the rows of a batch, of a mesh with axes of these sizes."""
  return math.prod(sizes[name] for name in ROWS)


def count_token_shards(sizes: Mapping[str, int]) -> int:
  """Devices that split the tokens of a batch, of a mesh with axes of these sizes."""
  return math.prod(sizes[name] for name in TOKENS)


def rows_sharding(mesh: Mesh, names: tuple[str, ...] = ROWS) -> NamedSharding:
  """The first axis over every device that splits rows."""
  return NamedSharding(mesh, PartitionSpec(names))


def minibatches_sharding(mesh: Mesh) -> NamedSharding:
  """Rows gathered into [minibatches, rows, ...]: the second axis is split."""
  return NamedSharding(mesh, PartitionSpec(None, ROWS))


def table() -> dict[str, str | tuple[str, ...] | None]:
  """The table that the program is traced with; `RULES` outside of layouts."""
  return dict(nn.get_logical_axis_rules() or RULES)


@contextlib.contextmanager
def whole_params():
  """Inside, devices with different tokens hold parameters whole, as decode steps do.

  Except for experts, whose rows go to their devices.
  """
  if current_mesh() is None:
    yield
    return
  with nn.logical_axis_rules([
      (axis, names if axis in ("batch", "length") else whole_in_rows((axis,))[0] and names)
      for axis, names in table().items()]):
    yield


def current_mesh() -> AbstractMesh | None:
  """The mesh that the program is traced for; None: there is none, or it is that of pmap."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh if set(ROWS) <= set(mesh.axis_names) else None


def platform() -> str:
  """cpu, gpu or tpu: of the mesh that the program is traced for, or else JAX's default."""
  mesh = current_mesh()
  device = mesh.abstract_device if mesh is not None else None
  return jax.default_backend() if device is None else device.platform


def num_shards(axis: str) -> int:
  """Devices that split a logical axis if the program is traced for a mesh, else 1."""
  mesh = current_mesh()
  return 1 if mesh is None else _size(mesh, table()[axis])


def split_axis(axis: str, size: int) -> str | None:
  """The one mesh axis that splits an axis of this size among devices with the same tokens."""
  names = names_of(table()[axis])
  is_split = len(names) == 1 and names[0] not in TOKENS and num_shards(axis) > 1
  return names[0] if is_split and size % num_shards(axis) == 0 else None


def manual_axis(axis: str) -> str | None:
  """The mesh axis that splits a logical axis, in a program of each device's part of it."""
  mesh, names = current_mesh(), names_of(table()[axis])
  return names[0] if mesh is not None and len(names) == 1 and names[0] in mesh.manual_axes else None


def _size(mesh: Mesh | AbstractMesh, names: str | tuple[str, ...] | None) -> int:
  return math.prod(mesh.shape[name] for name in names_of(names))


def spec_of(axes: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
  """The mesh axes of an array with logical axes on the current mesh, where they divide `shape`."""
  names = table()
  return fit_spec(PartitionSpec(*(axis and names[axis] for axis in axes)), shape, current_mesh())


def split_tokens() -> set[str]:
  """The axes of the current mesh that split tokens among several devices."""
  mesh = current_mesh()
  return {name for name in TOKENS if mesh.shape[name] > 1}


def part_of(spec: PartitionSpec, kept: Iterable[str]) -> PartitionSpec:
  """A specification with only those mesh axes that are kept and split something."""
  mesh, kept = current_mesh(), set(kept)
  return PartitionSpec(*(
      _entry(tuple(name for name in names_of(entry) if name in kept), mesh) for entry in spec))


def splits_columns(lead: tuple[int, ...]) -> bool:
  """Whether devices split the second of two axes [B, T], rather than rows alone."""
  shards = num_shards("length") if len(lead) == 2 else 1
  return shards > 1 and lead[1] % shards == 0


def whole_in_rows(axes: tuple[str | None, ...]) -> tuple[str | None, ...]:
  """Logical axes of a parameter without those that devices with different tokens split.

  Except for experts, which are never gathered.
  """
  names = table()
  return tuple(axis if axis == "experts" or not set(names_of(axis and names[axis])) & set(TOKENS)
               else None for axis in axes)


def names_of(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """The mesh axes of an entry of a table or a specification."""
  return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def param_shardings(abstract_boxed, mesh: Mesh, table: tuple = RULES):
  """Shardings of parameters boxed with logical names (`models.boxed_params` under eval_shape).

  An axis that is not divisible by its mesh axis is not split: for example 3 key/value heads on 8
  devices.

  Raises:
    ValueError: the devices of the axis `expert` cannot have as many experts each.
  """
  specs = nn.get_partition_spec(abstract_boxed)
  jax.tree.map(functools.partial(_check_experts, mesh, dict(table)),
               nn.unbox(abstract_boxed), specs)
  specs = nn.logical_to_mesh(specs, table)
  return jax.tree.map(
      lambda leaf, spec: fit_sharding(NamedSharding(mesh, spec), leaf.shape),
      nn.unbox(abstract_boxed), specs)


def _check_experts(mesh: Mesh, names: dict, leaf: jax.Array, axes: PartitionSpec):
  if "experts" in axes and names["experts"] == "expert":
    count = leaf.shape[tuple(axes).index("experts")]
    if count % mesh.shape["expert"]:
      raise ValueError(f"config.parallel.expert: got {mesh.shape['expert']}, allowed: a divisor of "
                       f"{count}, the number of experts of a layer")


def fit_sharding(sharding: Sharding, shape: tuple[int, ...]) -> Sharding:
  """The sharding without the axes of `shape` that it does not divide; only for named shardings."""
  if not isinstance(sharding, NamedSharding):
    return sharding
  return NamedSharding(sharding.mesh, fit_spec(sharding.spec, shape, sharding.mesh))


def fit_spec(
    spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
  """The specification without the axes of `shape` that it does not divide."""
  names = tuple(spec) + (None,) * (len(shape) - len(spec))
  return PartitionSpec(*(
      _entry(name, mesh) if size % _size(mesh, name) == 0 else None
      for name, size in zip(names, shape, strict=True)))


def _entry(names: str | tuple[str, ...] | None, mesh: Mesh | AbstractMesh):
  """An entry of a specification, without those of several mesh axes that split nothing."""
  if names is None or isinstance(names, str):
    return names
  found = tuple(name for name in names if mesh.shape[name] > 1)
  return found if len(found) > 1 else found[0] if found else None
