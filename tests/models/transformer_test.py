"""The transformer: causality, padding, packing, rematerialisation, and cached decoding."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models
from rlreason.models.config import ModelConfig
from tests.tiny_families import CONFIGS

TINY = CONFIGS["llama"]
VARIANTS = CONFIGS | {
    "one_layer": dataclasses.replace(TINY, num_layers=1, num_kv_heads=4),
}
variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


forward = jax.jit(models.forward, static_argnums=0)


def _params(config, scale=0.3):
  """Random everywhere, biases and norms too; larger than at the start, so that differences show."""
  random = np.random.default_rng(0)
  draw = lambda leaf: jnp.asarray(scale * random.standard_normal(leaf.shape), leaf.dtype)
  is_scale = lambda path: path[-1].key == "scale"
  return jax.tree.map_with_path(
      lambda path, leaf: draw(leaf) + jnp.asarray(is_scale(path), leaf.dtype),
      models.abstract_params(config))


def _tokens(batch, length, seed=2):
  return jax.random.randint(jax.random.key(seed), (batch, length), 0, TINY.vocab_size)


@variants
def test_parameter_tree(config):
  c = config
  attention = {
      "q": {"kernel": (c.num_layers, c.width, c.num_heads, c.head_dim)},
      "k": {"kernel": (c.num_layers, c.width, c.num_kv_heads, c.head_dim)},
      "v": {"kernel": (c.num_layers, c.width, c.num_kv_heads, c.head_dim)},
      "o": {"kernel": (c.num_layers, c.num_heads, c.head_dim, c.width)},
  }
  if c.qkv_bias:
    for name in ("q", "k", "v"):
      attention[name]["bias"] = (c.num_layers,) + attention[name]["kernel"][2:]
  if c.qk_norm:
    attention["q_norm"] = {"scale": (c.num_layers, c.head_dim)}
    attention["k_norm"] = {"scale": (c.num_layers, c.head_dim)}
  norms = {name: {"scale": (c.num_layers, c.width)} for name in (
      "attention_norm", "mlp_norm", "attention_post_norm", "mlp_post_norm")
           if c.post_norms or not name.endswith("post_norm")}
  feed_forward = {"mlp": {
      "gate": {"kernel": (c.num_layers, c.width, c.mlp_width)},
      "up": {"kernel": (c.num_layers, c.width, c.mlp_width)},
      "down": {"kernel": (c.num_layers, c.mlp_width, c.width)}}}
  if c.num_experts:
    feed_forward = {"experts": {
        "router_kernel": (c.num_layers, c.width, c.num_experts),
        "gate_kernel": (c.num_layers, c.num_experts, c.width, c.mlp_width),
        "up_kernel": (c.num_layers, c.num_experts, c.width, c.mlp_width),
        "down_kernel": (c.num_layers, c.num_experts, c.mlp_width, c.width)}}
  expected = {
      "embed": {"embedding": (c.vocab_size, c.width)},
      "final_norm": {"scale": (c.width,)},
      "layers": {"attention": attention} | norms | feed_forward}
  if not c.tie_embeddings:
    expected["lm_head"] = {"kernel": (c.width, c.vocab_size)}
  assert jax.tree.map(lambda leaf: leaf.shape, models.abstract_params(config)) == expected


LLAMA_8B = ModelConfig(
    vocab_size=128256, width=4096, num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128,
    mlp_width=14336, tie_embeddings=False, dtype="bfloat16", remat="full")
QWEN_32B = ModelConfig(
    vocab_size=152064, width=5120, num_layers=64, num_heads=40, num_kv_heads=8, head_dim=128,
    mlp_width=27648, tie_embeddings=False, qkv_bias=True)
SMOLLM2_135M = ModelConfig(
    vocab_size=49152, width=576, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64,
    mlp_width=1536)
QWEN3_30B = ModelConfig(
    vocab_size=151936, width=2048, num_layers=48, num_heads=32, num_kv_heads=4, head_dim=128,
    mlp_width=768, tie_embeddings=False, qk_norm=True, num_experts=128, experts_per_token=8)
GEMMA3_270M = ModelConfig(
    vocab_size=262144, width=640, num_layers=18, num_heads=4, num_kv_heads=1, head_dim=256,
    mlp_width=2048, qk_norm=True, post_norms=True)


@pytest.mark.parametrize("config, count", [  # as on the models' cards
    (LLAMA_8B, 8_030_261_248), (QWEN_32B, 32_763_876_352), (SMOLLM2_135M, 134_515_008),
    (QWEN3_30B, 30_532_122_624), (GEMMA3_270M, 268_098_176)])
def test_number_of_parameters_of_published_models(config, count):
  shapes = models.abstract_params(config)
  assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count


def test_gradient_of_an_8b_model_traces():
  tokens = jax.ShapeDtypeStruct((2, 64), jnp.int32)
  loss = lambda params, tokens: models.forward(
      LLAMA_8B, params, tokens, tokens).astype(jnp.float32).sum()
  params = models.abstract_params(LLAMA_8B)
  assert jax.eval_shape(jax.grad(loss), params, tokens) == params


@variants
def test_causality_by_gradients_that_are_exactly_zero(config):
  params = _params(config)

  def hidden_sums(embedding):
    # Token i has a row of the table to itself, so the gradient of this row is that of input i.
    shifted = {**params, "embed": {"embedding": embedding}}
    return jnp.sum(models.forward(config, shifted, jnp.arange(6)[None], jnp.ones((1, 6)))[0], -1)

  @jax.jit
  def rows_of_jacobian(embedding):
    _, pull = jax.vjp(hidden_sums, embedding)
    return jax.lax.map(lambda row: pull(row)[0], jnp.eye(6))  # products of experts have no vmap

  jacobian = np.asarray(rows_of_jacobian(params["embed"]["embedding"]))
  for position in range(6):
    assert not np.any(jacobian[position, position + 1:])
    reach = position + 1 if config.kinds[-1].window is None else min(
        position + 1, 1 + config.num_layers * (config.sliding_window - 1))
    assert np.all(np.any(jacobian[position, position + 1 - reach:position + 1] != 0, axis=1))


def test_a_window_hides_what_is_further_back():
  config = dataclasses.replace(CONFIGS["mistral"], num_layers=1)
  params, tokens = _params(config), _tokens(1, 6)
  other = tokens.at[0, 2].set((tokens[0, 2] + 1) % 17)
  mask = jnp.ones((1, 6), bool)
  differs = np.any(np.asarray(forward(config, params, tokens, mask)) != np.asarray(
      forward(config, params, other, mask)), axis=-1)[0]
  assert differs.tolist() == [False, False, True, True, True, False]  # a window of 3


@variants
def test_packed_equals_padded_equals_separate(config):
  params = _params(config)
  first, second = _tokens(1, 3, seed=3), _tokens(1, 5, seed=4)
  alone = [forward(config, params, x, jnp.ones_like(x)) for x in (first, second)]
  pad = jnp.full((1, 2), 9)
  packed = forward(
      config, params, jnp.concatenate([first, second, pad], 1),
      jnp.array([[1, 1, 1, 2, 2, 2, 2, 2, 0, 0]]), jnp.array([[0, 1, 2, 0, 1, 2, 3, 4, 0, 0]]))
  np.testing.assert_allclose(packed[:, :3], alone[0], atol=1e-5)
  np.testing.assert_allclose(packed[:, 3:8], alone[1], atol=1e-5)
  left = forward(
      config, params, jnp.concatenate([pad, first], 1), jnp.array([[0, 0, 1, 1, 1]]))
  right = forward(
      config, params, jnp.concatenate([first, pad], 1), jnp.array([[1, 1, 1, 0, 0]]))
  np.testing.assert_allclose(left[:, 2:], alone[0], atol=1e-5)
  np.testing.assert_allclose(right[:, :3], alone[0], atol=1e-5)
  assert np.all(np.isfinite(left)) and np.all(np.isfinite(right))


@pytest.mark.parametrize("remat, unroll", [
    ("full", 1), ("dots", 1), ("offload", 1), ("none", TINY.num_layers), ("full", TINY.num_layers)])
def test_remat_and_unrolling_change_neither_values_nor_gradients(remat, unroll):
  params, tokens, mask = _params(TINY), _tokens(2, 5), jnp.arange(5)[None] >= jnp.array([[2], [0]])
  loss = lambda params, config: jnp.sum(
      jnp.sin(forward(config, params, tokens, mask)) * mask[..., None])
  value_and_grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  expected = value_and_grad(params, TINY)
  got = value_and_grad(params, dataclasses.replace(TINY, remat=remat, unroll=unroll))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


@pytest.mark.parametrize("remat, again", [("none", 0), ("dots", 2), ("attention", 8), ("full", 8)])
def test_the_backward_pass_repeats_only_what_remat_says(remat, again):
  """`again` of the products of a layer: q, k, v, o, gate, up, and two of attention."""
  params, tokens, mask = _params(TINY), _tokens(1, 4), jnp.ones((1, 4), bool)

  def count(remat):
    config = dataclasses.replace(TINY, remat=remat)
    loss = lambda params: jnp.sum(forward(config, params, tokens, mask))
    return str(jax.make_jaxpr(jax.grad(loss))(params)).count(" dot_general[")

  assert count(remat) - count("none") == again


prefill = jax.jit(models.prefill, static_argnums=0)
decode_step = jax.jit(models.decode_step, static_argnums=0)


def _cached(config, params, tokens, mask, completions, group):
  """Hidden states [B, S + T, D] by prefill and decode steps."""
  hidden, (keys, values) = prefill(config, params, tokens, mask)
  steps = completions.shape[1]
  caches = models.init_caches(keys, values, group, steps)
  layers = models.split_layers(config, params)
  lengths = jnp.repeat(jnp.sum(mask, axis=1, dtype=jnp.int32), group)
  out = [jnp.repeat(hidden, group, axis=0)]
  for t in range(steps):
    x, caches = decode_step(
        config, params, layers, caches, completions[:, t], lengths + t, mask, jnp.int32(t))
    out.append(x[:, None])
  return jnp.concatenate(out, axis=1)


@variants
def test_cached_decoding_equals_a_full_forward(config):
  group = 1 if config.num_layers == 1 else 3
  params, tokens = _params(config), _tokens(2, 4)
  mask = jnp.array([[False, True, True, True], [True, True, True, True]])
  completions = _tokens(2 * group, 5, seed=5)
  rows = jnp.concatenate([jnp.repeat(tokens, group, 0), completions], 1)
  rows_mask = jnp.concatenate(
      [jnp.repeat(mask, group, 0), jnp.ones_like(completions, bool)], 1)
  full = forward(config, params, rows, rows_mask)
  cached = _cached(config, params, tokens, mask, completions, group)
  kept = np.asarray(rows_mask)
  np.testing.assert_allclose(cached[kept], full[kept], rtol=1e-5, atol=1e-5)


def test_bf16_computation_with_f32_parameters():
  params, tokens, mask = _params(TINY), _tokens(2, 4), jnp.ones((2, 4), bool)
  half = dataclasses.replace(TINY, dtype="bfloat16")
  hidden = forward(half, params, tokens, mask)
  assert hidden.dtype == jnp.bfloat16
  exact = forward(TINY, params, tokens, mask)
  np.testing.assert_allclose(hidden.astype(np.float32), exact, atol=0.1)
  assert models.logits(half, params, hidden).dtype == jnp.float32
  cached = _cached(half, params, tokens, mask, _tokens(2, 2), 1)
  assert cached.dtype == jnp.bfloat16
  gradient = jax.jit(jax.grad(lambda params: jnp.sum(
      models.forward(half, params, tokens, mask).astype(jnp.float32))))(params)
  assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}


def test_bf16_parameters():
  config = dataclasses.replace(VARIANTS["one_layer"], param_dtype="bfloat16")
  params = jax.jit(models.init_params, static_argnums=0)(config, jax.random.key(0))
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
  hidden = forward(config, params, _tokens(1, 3), jnp.ones((1, 3), bool))
  assert hidden.dtype == jnp.float32


@variants
def test_logits_are_products_with_the_output_layer(config):
  params, hidden = _params(config), jax.random.normal(jax.random.key(6), (2, config.width))
  table = (params["embed"]["embedding"].T if config.tie_embeddings
           else params["lm_head"]["kernel"])
  expected = hidden @ table
  if config.logit_softcap:
    expected = config.logit_softcap * np.tanh(expected / config.logit_softcap)
  np.testing.assert_allclose(models.logits(config, params, hidden), expected, atol=1e-5)
