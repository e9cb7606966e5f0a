"""Logical axes to mesh axes: the table covers the model; an axis that does not fit stays whole."""

import dataclasses

from flax import linen as nn
import jax
from jax.sharding import PartitionSpec as Spec
import pytest

from rlreason import models
from rlreason.parallel import ParallelConfig, rules
from rlreason.parallel.mesh import make_mesh
from tests.algorithms import tiny

MODEL = dataclasses.replace(
    tiny.MODEL, vocab_size=12, num_heads=4, num_kv_heads=2, qkv_bias=True, tie_embeddings=False)


def boxed(model):
  return models.abstract_boxed_params(model)


def specs(model, **fields):
  mesh = make_mesh(ParallelConfig(**fields))
  return jax.tree.map(lambda sharding: sharding.spec, rules.param_shardings(boxed(model), mesh))


def test_every_axis_of_the_model_is_in_the_table():
  names = {axis for leaf in jax.tree.leaves(nn.get_partition_spec(boxed(MODEL)),
                                            is_leaf=lambda x: isinstance(x, Spec))
           for axis in leaf if axis is not None}
  assert names <= {name for name, _ in rules.RULES}
  assert len({name for name, _ in rules.RULES}) == len(rules.RULES)


def test_parameters_are_split_over_fsdp_and_tensor():
  got = specs(MODEL, data=2, fsdp=2, tensor=2)
  assert got["embed"]["embedding"] == Spec("tensor", "fsdp")
  assert got["lm_head"]["kernel"] == Spec("fsdp", "tensor")
  attention = got["layers"]["attention"]
  assert attention["q"]["kernel"] == Spec(None, "fsdp", "tensor", None)
  assert attention["k"]["kernel"] == Spec(None, "fsdp", "tensor", None)
  assert attention["o"]["kernel"] == Spec(None, "tensor", None, "fsdp")
  assert attention["q"]["bias"] == Spec(None, "tensor", None)
  assert got["layers"]["mlp"]["down"]["kernel"] == Spec(None, "tensor", "fsdp")


@pytest.mark.parametrize("change, name", [
    (dict(num_heads=3, num_kv_heads=3), "k"), (dict(num_kv_heads=1), "k")])
def test_an_axis_that_does_not_divide_stays_whole(change, name):
  got = specs(dataclasses.replace(MODEL, **change), data=2, fsdp=2, tensor=2)
  assert got["layers"]["attention"][name]["kernel"] == Spec(None, "fsdp", None, None)


def test_rows_are_split_over_data_and_fsdp_but_not_tensor():
  mesh = make_mesh(ParallelConfig(data=2, fsdp=2, tensor=2))
  assert rules.rows_sharding(mesh).shard_shape((8, 3)) == (2, 3)
  assert rules.minibatches_sharding(mesh).shard_shape((5, 8, 3)) == (5, 2, 3)
  assert rules.replicated(mesh).shard_shape((8, 3)) == (8, 3)
