"""The table from logical axes, which models name, to mesh axes."""

import math

from flax import linen as nn
import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding

ROWS = ("data", "fsdp")  # mesh axes that split the rows of a batch

RULES = (
    ("batch", ROWS),
    ("length", None),
    ("embed_act", None),
    ("layers", None),
    ("vocab", "tensor"),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("head_dim", None),
    ("mlp", "tensor"),
    ("experts", "tensor"),
    ("expert_mlp", None),  # an expert is not split further
)


def rows_sharding(mesh: Mesh) -> NamedSharding:
  """The first axis over every device that splits rows."""
  return NamedSharding(mesh, PartitionSpec(ROWS))


def minibatches_sharding(mesh: Mesh) -> NamedSharding:
  """Rows gathered into [minibatches, rows, ...]: the second axis is split."""
  return NamedSharding(mesh, PartitionSpec(None, ROWS))


def current_mesh() -> AbstractMesh | None:
  """The mesh that the program is traced for; None: there is none, or it is that of pmap."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh if set(ROWS) <= set(mesh.axis_names) else None


def num_shards(axis: str) -> int:
  """Devices that split a logical axis if the program is traced for a mesh, else 1."""
  mesh, names = current_mesh(), dict(RULES)[axis]
  if mesh is None or names is None:
    return 1
  return math.prod(mesh.shape[name] for name in ((names,) if isinstance(names, str) else names))


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def param_shardings(abstract_boxed, mesh: Mesh):
  """Shardings of parameters boxed with logical names (`models.boxed_params` under eval_shape).

  An axis that is not divisible by its mesh axis is not split: for example 3 key/value heads on 8
  devices.
  """
  specs = nn.logical_to_mesh(nn.get_partition_spec(abstract_boxed), RULES)
  return jax.tree.map(
      lambda leaf, spec: fit_sharding(NamedSharding(mesh, spec), leaf.shape),
      nn.unbox(abstract_boxed), specs)


def fit_sharding(sharding: Sharding, shape: tuple[int, ...]) -> Sharding:
  """The sharding without the axes of `shape` that it does not divide; only for named shardings."""
  if not isinstance(sharding, NamedSharding):
    return sharding
  mesh, spec = sharding.mesh, sharding.spec
  names = tuple(spec) + (None,) * (len(shape) - len(spec))
  return NamedSharding(mesh, PartitionSpec(*(
      name if name is None or size % mesh.shape[name] == 0 else None
      for name, size in zip(names, shape, strict=True))))
