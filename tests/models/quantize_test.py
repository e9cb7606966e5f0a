"""Kernels in 8 and 4 bits: hand-worked, bounds of the error, odd sizes, and memory of gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models
from rlreason.models import quantize
from tests import tiny_families


def test_int8_hand_worked():
  kernel = jnp.array([[1.0, -254.0], [-0.5, 127.0], [0.25, 1.0]])
  got = quantize.quantize(kernel, "int8", -2)
  # 127 is the largest of a column; halves go to the even neighbour.
  np.testing.assert_array_equal(got["int8"], [[127, -127], [-64, 64], [32, 0]])
  np.testing.assert_allclose(got["scale"], [[1 / 127, 2]])
  np.testing.assert_allclose(
      quantize.dequantize(got, -2, jnp.float32), [[1, -254], [-64 / 127, 128], [32 / 127, 0]])


def test_nf4_hand_worked():
  kernel = jnp.array([[2.0], [-2.0], [0.0], [0.2]])
  got = quantize.quantize(kernel, "nf4", -2)
  assert got["nf4"].dtype == jnp.uint8
  # Codes 15, 0, 7 and, for 0.1, 8 (0.0796); the first of a pair lies in the low bits.
  np.testing.assert_array_equal(got["nf4"], [[15 + 16 * 0], [7 + 16 * 8]])
  np.testing.assert_allclose(
      quantize.dequantize(got, -2, jnp.float32), [[2], [-2], [0], [2 * 0.07958029955625534]])


def test_values_of_the_code_stay_as_they_are():
  kernel = 3.0 * jnp.asarray(quantize.NF4)[:, None]
  again = quantize.dequantize(quantize.quantize(kernel, "nf4", -2), -2, jnp.float32)
  np.testing.assert_array_equal(again, kernel)


@pytest.mark.parametrize("axis", [-2, -3])
@pytest.mark.parametrize("kind, bound", [("int8", 0.5 / 127), ("nf4", 0.16)])
def test_the_error_is_within_half_a_step_of_the_largest_of_a_block(kind, bound, axis):
  kernel = jax.random.normal(jax.random.key(0), (3, 128, 4, 5)).swapaxes(1, axis % 4)
  stored = quantize.quantize(kernel, kind, axis)
  again = quantize.dequantize(stored, axis, jnp.float32)
  blocks = stored["scale"].shape[axis]
  assert blocks == {"int8": 1, "nf4": 2}[kind]
  shape = list(kernel.shape)
  shape[axis % 4:axis % 4 + 1] = [blocks, 128 // blocks]
  error, limit = (np.abs(np.asarray(x)).reshape(shape).max(axis % 4 + 1)
                  for x in (again - kernel, kernel))
  assert np.all(error <= bound * limit + 1e-6)


def test_an_odd_number_of_inputs_has_no_4_bits():
  with pytest.raises(ValueError, match="got 7 inputs, allowed: an even number for nf4"):
    quantize.quantize(jnp.ones((7, 2)), "nf4", -2)


@pytest.mark.parametrize("kind", quantize.KINDS)
def test_odd_blocks_zeros_and_single_places(kind):
  for shape in ((6, 1), (2, 3), (130, 2)):
    zeros = jnp.zeros(shape)
    np.testing.assert_array_equal(
        quantize.dequantize(quantize.quantize(zeros, kind, -2), -2, jnp.float32), zeros)


def test_rows_of_int8_hand_worked():
  kernel = quantize.quantize_rows(jnp.array([[127.0, -127.0], [0.5, 0.0]]))
  np.testing.assert_array_equal(kernel["int8"], [[127, -127], [127, 0]])
  np.testing.assert_allclose(kernel["scale"], [[1], [0.5 / 127]])
  rows = jnp.array([[1.0, 2.0], [3.0, -1.0], [0.0, 0.0]])
  np.testing.assert_allclose(
      quantize.multiply_rows(kernel, rows), [[-127, 508, 0], [0.5, 1.5, 0]], rtol=1e-6)


@pytest.mark.parametrize("family", ["qwen2", "gemma3", "qwen3_moe"])
def test_a_decode_step_with_int8_is_one_with_the_rounded_kernels(family):
  config = tiny_families.CONFIGS[family]
  params = jax.jit(models.init_params, static_argnums=0)(config, jax.random.key(0))
  tokens = jnp.array([[3, 4, 5]], jnp.int32)
  _, (keys, values) = jax.jit(models.prefill, static_argnums=0)(
      config, params, tokens, tokens > 0)
  in_full, in_int8 = (models.split_layers(config, params, is_int8=is_int8)
                      for is_int8 in (False, True))

  def rounded(kernel, plain):
    if not quantize.is_quantized(kernel):
      return plain
    assert kernel["int8"].dtype == jnp.int8
    return (kernel["int8"] * kernel["scale"]).reshape(plain.shape)

  as_floats = jax.tree.map(
      rounded, in_int8, in_full, is_leaf=lambda x: isinstance(x, dict) and "int8" in x)

  @jax.jit
  def step(layers):
    return models.decode_step(
        config, params, layers, models.init_caches(keys, values, 1, 2), jnp.array([6]),
        jnp.array([3]), tokens > 0, jnp.int32(0))[0]

  np.testing.assert_allclose(step(in_int8), step(as_floats), atol=1e-5)
  assert np.abs(step(in_full) - step(as_floats)).max() > 1e-4


def test_only_kernels_of_layers_are_quantised():
  config = tiny_families.CONFIGS["qwen3_moe"]
  params = quantize.quantize_params(
      jax.jit(models.init_params, static_argnums=0)(config, jax.random.key(0)), "int8")
  quantised = {path[0].key if len(path) < 3 else "/".join(part.key for part in path[1:-1])
               for path, leaf in jax.tree.leaves_with_path(params) if leaf.dtype == jnp.int8}
  assert quantised == {f"attention/{name}/kernel" for name in "qkvo"} | {
      f"experts/{name}_kernel" for name in ("gate", "up", "down")}


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_gradients_keep_no_kernel_in_floats(family):
  """What the backward pass needs of a quantised kernel is the quantised kernel."""
  config = dataclasses.replace(
      tiny_families.CONFIGS[family], num_layers=8, mlp_width=512, width=128)
  params = jax.jit(models.init_params, static_argnums=0)(config, jax.random.key(0))
  tokens = jnp.ones((1, 2), jnp.int32)

  def temporary_bytes(params):
    loss = lambda embed, params: jnp.sum(models.forward(
        config, params | {"embed": embed}, tokens, tokens))
    compiled = jax.jit(jax.grad(loss)).lower(params["embed"], params).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  layer = sum(x.nbytes for x in jax.tree.leaves(params["layers"])) / config.num_layers
  assert temporary_bytes(quantize.quantize_params(params, "nf4")) < 3 * layer
