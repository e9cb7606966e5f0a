"""Logical axes to mesh axes: the table covers the model; an axis that does not fit stays whole."""

import dataclasses

from flax import linen as nn
import jax
from jax.sharding import PartitionSpec as Spec
import pytest

from rlreason import models
from rlreason.parallel import ParallelConfig, make_layout, rules
from rlreason.parallel.mesh import make_mesh
from tests.algorithms import tiny

MODEL = dataclasses.replace(
    tiny.MODEL, vocab_size=12, num_heads=4, num_kv_heads=2, qkv_bias=True, tie_embeddings=False)


def boxed(model):
  return models.abstract_boxed_params(model)


def specs(model, **fields):
  shardings = make_layout(ParallelConfig(**fields)).param_shardings(boxed(model))
  return jax.tree.map(lambda sharding: sharding.spec, shardings)


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


def test_the_width_is_split_over_sequence_too():
  got = specs(MODEL, data=2, fsdp=2, sequence=2)
  assert got["embed"]["embedding"] == Spec("tensor", ("fsdp", "sequence"))
  got = specs(MODEL, data=2, sequence=2, tensor=2)
  assert got["layers"]["mlp"]["down"]["kernel"] == Spec(None, "tensor", "sequence")


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


def test_rules_of_the_user_change_the_table():
  got = specs(MODEL, data=2, fsdp=2, tensor=2, rules=("embed:data", "mlp:none", "vocab:none"))
  assert got["embed"]["embedding"] == Spec(None, "data")
  assert got["layers"]["mlp"]["up"]["kernel"] == Spec(None, "data", None)
  assert got["layers"]["attention"]["q"]["kernel"] == Spec(None, "data", "tensor", None)


@pytest.mark.parametrize("change, message", [
    ("mpl:tensor", "rules: got 'mpl:tensor', allowed: vocab, embed, heads, kv_heads, mlp, exp"),
    ("batch:none", "rules: got 'batch:none', allowed: vocab, embed"),
    ("mlp", "rules: got 'mlp', allowed: data, fsdp, expert, sequence, tensor or none"),
    ("mlp:model", "rules: got 'mlp:model', allowed: data, fsdp, expert, sequence, tensor or none"),
    ("mlp:fsdp", "rules: got mlp:fsdp, allowed: another mesh axis than fsdp for one of embed, mlp"),
    ("embed:tensor", "allowed: another mesh axis than tensor for one of embed, vocab"),
    ("heads:data", "allowed: another mesh axis than data for one of batch, length, heads"),
    ("mlp:sequence", "allowed: another mesh axis than sequence for one of embed, mlp"),
    ("vocab:sequence", "allowed: another mesh axis than sequence for one of embed, vocab")])
def test_rules_that_cannot_be_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    ParallelConfig(rules=(change,))


def test_rules_are_not_for_pmap():
  with pytest.raises(ValueError, match="rules: got .* with mode='pmap', allowed: "):
    ParallelConfig(mode="pmap", rules=("vocab:none",))


def test_decode_steps_have_parameters_whole():
  mesh = make_mesh(ParallelConfig(data=2, fsdp=2, tensor=2))
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    assert rules.spec_of(("embed", "mlp"), (4, 4)) == Spec("fsdp", "tensor")
    with rules.whole_params():
      assert rules.spec_of(("embed", "mlp"), (4, 4)) == Spec(None, "tensor")
      assert rules.num_shards("batch") == 4


def test_a_sampler_splits_rows_alone():
  mesh = make_mesh(ParallelConfig(data=2, fsdp=2, sequence=2))
  for names, shards in ((rules.TOKENS, 8), (rules.ROWS, 4)):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(
        rules.make_sampler_table(rules.RULES, names)):
      assert rules.num_shards("batch") == shards and rules.num_shards("length") == 1
      assert not rules.splits_columns((8, 6))
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    assert rules.splits_columns((8, 6)) and not rules.splits_columns((8, 5))
    assert not rules.splits_columns((48,))


def test_experts_are_never_gathered():
  mesh = make_mesh(ParallelConfig(data=1, fsdp=2, expert=4))
  axes = ("experts", "embed", "expert_mlp")
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    assert rules.spec_of(axes, (4, 4, 4)) == Spec("expert", "fsdp", "tensor")
    assert rules.whole_in_rows(axes) == ("experts", None, "expert_mlp")
    with rules.whole_params():
      assert rules.spec_of(axes, (4, 4, 4)) == Spec("expert", None, "tensor")
