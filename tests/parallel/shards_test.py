"""Functions of each device's own part of an array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason.parallel import ParallelConfig, map_shards, num_shards, put_together, rules
from rlreason.parallel.mesh import make_mesh


@pytest.mark.parametrize("heads, part", [(4, (1, 3, 2)), (3, (1, 3, 3))])
def test_each_device_has_its_part_where_its_number_divides(heads, part):
  mesh, seen = make_mesh(ParallelConfig(data=2, fsdp=2, tensor=2)), []

  def fn(x, y):
    seen.append(x.shape)
    return x * y[:, :, None]

  def traced(x, y):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      axes = ("batch", "length", "heads")
      return map_shards(fn, (axes, axes[:2]), axes)(x, y)

  x = jnp.arange(12.0 * heads).reshape(4, 3, heads)
  y = jnp.arange(12.0).reshape(4, 3)
  placed = jax.device_put((x, y), rules.replicated(mesh))
  np.testing.assert_array_equal(jax.jit(traced)(*placed), x * y[:, :, None])
  assert seen == [part]


def test_without_a_mesh_nothing_is_split():
  fn = lambda x: x
  assert map_shards(fn, (("batch",),), ("batch",)) is fn
  assert num_shards("batch") == num_shards("length") == 1


def test_shards_of_an_axis():
  with jax.sharding.use_abstract_mesh(
      make_mesh(ParallelConfig(data=2, fsdp=2, tensor=2)).abstract_mesh):
    assert [num_shards(axis) for axis in ("batch", "vocab", "embed", "length")] == [4, 2, 2, 1]


def test_what_has_no_place_goes_to_every_device_of_the_others():
  mesh = make_mesh(ParallelConfig(data=2, fsdp=2, tensor=2))
  split = jax.device_put(jnp.zeros(8), jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec("fsdp")))
  tree = put_together({"x": split, "y": jnp.ones(3), "z": np.float32(2)})
  assert tree["x"] is split
  assert tree["y"].sharding == tree["z"].sharding == rules.replicated(mesh)
  assert tree["y"].committed and tree["z"].committed
  free = put_together({"y": jnp.ones(3), "z": np.float32(2)})
  assert not free["y"].committed and not free["z"].committed and put_together({}) == {}
