"""Adapters: what they add, what trains, and that merged, cached and quantised forms agree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models
from rlreason.models import LoRAConfig, layers, lora, quantize
from rlreason.models.config import LORA_TARGETS
from tests import tiny_families

FAMILIES = tuple(tiny_families.CONFIGS)


def adapted(config, targets=LORA_TARGETS, **fields):
  targets = [name for name in targets if name in "qkvo"] if config.num_experts else targets
  return dataclasses.replace(
      config, lora=LoRAConfig(rank=3, alpha=6.0, targets=tuple(targets), **fields))


def random_like(tree, seed=0, scale=0.3):
  random = np.random.default_rng(seed)
  return jax.tree.map(
      lambda x: (scale * random.standard_normal(x.shape)).astype(x.dtype), tree)


def make_policy(config, seed=0):
  """A model's parameters and random adapters for them, apart."""
  params = random_like(models.abstract_params(dataclasses.replace(config, lora=None)), seed)
  adapters = lora.split(models.abstract_params(config))[0]
  return params, random_like(adapters, seed + 1)


def test_a_projection_adds_the_scaled_product_hand_worked():
  config = models.ModelConfig(
      vocab_size=11, width=2, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=2, mlp_width=5,
      lora=LoRAConfig(rank=1, alpha=3.0, targets=("up",)))
  projection = layers.Projection(config, (2,), ("embed", "mlp"), name="up")
  params = {"kernel": jnp.eye(2), "lora_a": jnp.array([[1.0], [2.0]]),
            "lora_b": jnp.array([[10.0, -1.0]])}
  got = projection.apply({"params": params}, jnp.array([[1.0, 1.0]]))
  np.testing.assert_allclose(got, [[1 + 3 * 3 * 10, 1 - 3 * 3]])


def test_new_adapters_change_nothing_and_start_as_peft_starts_them():
  config = adapted(tiny_families.CONFIGS["llama"], targets=("q", "down"))
  params = jax.jit(models.init_params, static_argnums=0)(config, jax.random.key(0))
  attention = params["layers"]["attention"]
  assert "lora_a" not in attention["k"] and "lora_b" not in params["layers"]["mlp"]["up"]
  assert not np.any(attention["q"]["lora_b"])
  a = np.asarray(params["layers"]["mlp"]["down"]["lora_a"])
  assert a.shape == (config.num_layers, config.mlp_width, 3)
  limit = config.mlp_width ** -0.5
  assert 0.8 * limit < np.abs(a).max() <= limit and abs(a.mean()) < 0.2 * limit


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_and_frozen_part_make_the_whole(family):
  config = adapted(tiny_families.CONFIGS[family])
  params, adapters = make_policy(config)
  whole = {"policy": lora.join(params, adapters), "value_head": {"kernel": jnp.ones(2)}}
  trained, frozen = lora.split(whole)
  assert jax.tree.structure(trained) == jax.tree.structure(
      {"policy": adapters, "value_head": whole["value_head"]})
  assert jax.tree.structure(frozen) == jax.tree.structure({"policy": params})
  again = lora.join(trained, frozen)
  assert jax.tree.structure(again) == jax.tree.structure(whole)
  assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True))
  assert lora.split({"policy": params}) == ({"policy": params}, {})


def test_what_is_named_frozen_is_with_and_without_adapters():
  plain, frozen = {"policy": {"kernel": 1}}, {"frozen": {"kernel": 2}}
  assert lora.split(plain | frozen) == (plain, frozen)
  assert lora.split(plain) == (plain, {})
  trained = {"policy": {"lora_a": 3}}
  assert lora.split(lora.join(plain, trained) | frozen) == (trained, plain | frozen)


def test_parts_that_share_a_leaf_do_not_join():
  with pytest.raises(ValueError, match="share a leaf"):
    lora.join({"a": {"b": 1}}, {"a": {"b": 2}})


@pytest.mark.parametrize(
    "family, kind", [(family, "full") for family in FAMILIES] +
    [("llama", "int8"), ("llama", "nf4"), ("qwen3_moe", "nf4")])
def test_merged_and_decoded_policies_are_the_same_model(family, kind):
  config = adapted(tiny_families.CONFIGS[family])
  params, adapters = make_policy(config)
  if kind != "full":
    params = quantize.quantize_params(params, kind)
  policy = lora.join(params, adapters)
  tokens = jax.random.randint(jax.random.key(1), (2, 7), 0, config.vocab_size)
  mask = jnp.ones_like(tokens, bool)
  forward = jax.jit(models.forward, static_argnums=0)
  expected = forward(config, policy, tokens, mask)
  changed = forward(dataclasses.replace(config, lora=None), params, tokens, mask)
  assert np.abs(np.asarray(expected - changed)).max() > 0.1
  merged = lora.merge(config, policy)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), merged) == jax.tree.map(
      lambda x: (x.shape, x.dtype), models.abstract_params(dataclasses.replace(config, lora=None)))
  jax.tree.map(  # what is written to a file
      lambda x, y: np.testing.assert_allclose(x[(slice(1, 3),) * x.ndim], y[
          (slice(1, 3),) * x.ndim], rtol=1e-6), merged, lora.merged_view(config, policy))
  np.testing.assert_allclose(
      forward(dataclasses.replace(config, lora=None), merged, tokens, mask), expected, atol=2e-5)
  np.testing.assert_allclose(decode(config, policy, tokens), expected[:, 3:], atol=2e-5)


def decode(config, policy, tokens):
  """Hidden states of all tokens but the first three, decoded one by one after these."""

  @jax.jit
  def run(policy):
    _, (keys, values) = models.prefill(config, policy, tokens[:, :3], jnp.ones((2, 3), bool))
    layers_ = models.split_layers(config, policy)

    def step(caches, slot):
      hidden, caches = models.decode_step(
          config, policy, layers_, caches, tokens[:, 3 + slot], jnp.full(2, 3 + slot),
          jnp.ones((2, 3), bool), slot)
      return caches, hidden

    _, out = jax.lax.scan(step, models.init_caches(keys, values, 1, 4), jnp.arange(4))
    return jnp.swapaxes(out, 0, 1)

  return run(policy)


def test_decoding_in_bf16_keeps_what_adapters_add():
  """A bf16 kernel would round it away, and the policy sampled would not be the one that trains."""
  config = dataclasses.replace(
      adapted(tiny_families.CONFIGS["llama"]), dtype="bfloat16", param_dtype="bfloat16")
  policy = lora.join(*make_policy(config))
  turned = models.split_layers(config, policy)[0]["attention"]["q"]
  assert turned["kernel"].dtype == jnp.bfloat16 and turned["lora_a"].dtype == jnp.float32


def test_only_what_projections_can_do_is_allowed():
  with pytest.raises(ValueError, match="rank: got 0, allowed: 1 or more"):
    LoRAConfig(rank=0)
  with pytest.raises(ValueError, match="alpha: got -1"):
    LoRAConfig(alpha=-1)
  with pytest.raises(ValueError, match="targets: got .*embed"):
    LoRAConfig(targets=("q", "embed"))
  with pytest.raises(ValueError, match="experts have no adapters"):
    dataclasses.replace(tiny_families.CONFIGS["qwen3_moe"], lora=LoRAConfig())
