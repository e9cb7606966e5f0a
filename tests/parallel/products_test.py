"""Products with parameters that devices hold parts of: their communication and their numbers."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason.models.layers import add_bias, look_up, multiply
from rlreason.parallel import ParallelConfig, make_layout, rules

AXES = ("embed", "mlp")
MESHES = {
    "one": ParallelConfig(data=1), "fsdp8": ParallelConfig(fsdp=8),
    "data2_fsdp2_tensor2": ParallelConfig(data=2, fsdp=2, tensor=2),
    "data2_fsdp4": ParallelConfig(data=2, fsdp=4),
    "data2_sequence2_tensor2": ParallelConfig(data=2, sequence=2, tensor=2),
    "fsdp2_sequence4": ParallelConfig(data=1, fsdp=2, sequence=4)}
meshes = pytest.mark.parametrize("name", MESHES)


def run(name, fn, rows, params, axes):
  """`fn(rows, params)` under the layout, with parameters sharded by their axes; its text too."""
  layout = make_layout(MESHES[name])
  mesh = jax.tree.leaves(layout.put_rows(rows))[0].sharding.mesh
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    specs = rules.spec_of(axes, params.shape)
  placed = jax.device_put(params, jax.sharding.NamedSharding(mesh, specs))
  program = layout.compile_whole(lambda rows, params: (None, fn(rows, params)))
  text = program.lower(layout.put_rows(rows), placed).compile().as_text()
  return program(layout.put_rows(rows), placed)[1], text


def make_arrays(tokens=64, inputs=16, outputs=24):
  random = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(random.standard_normal(shape), jnp.float32)
  return draw(tokens, inputs).astype(jnp.bfloat16), draw(inputs, outputs), draw(tokens, outputs)


def gradient_of(rows, kernel):
  """Of a sum of products weighted by the rows' own first value, which bf16 holds exactly."""
  loss = lambda kernel: jnp.sum((multiply(AXES, rows, kernel) * rows[:, :1]).astype(jnp.float32))
  return jax.grad(loss)(kernel)


@meshes
def test_the_gradient_of_a_kernel_is_added_up_in_f32(name):
  """In bf16 it has an error of 1 in 256 of each sum."""
  rows, kernel, _ = make_arrays(512)
  found, _ = run(name, gradient_of, rows, kernel, AXES)
  exact = np.asarray(rows, np.float64)
  expected = np.einsum("mi,m->i", exact, exact[:, 0])[:, None]
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-4)


@pytest.mark.parametrize("name", ["fsdp8", "data2_fsdp4"])
def test_a_kernel_is_gathered_and_its_gradient_scattered(name):
  rows, kernel, _ = make_arrays()

  def both(rows, kernel):
    return jax.value_and_grad(
        lambda kernel: jnp.sum(jnp.sin(multiply(AXES, rows, kernel).astype(jnp.float32))))(kernel)

  text = run(name, both, rows, kernel, AXES)[1]
  # XLA computes in f32 on the CPU, and gathers in bf16 on a TPU.
  assert re.search(r"= f32\[16,24\]\S* all-gather\(", text)
  assert re.search(r"= f32\[\d,24\]\S* reduce-scatter\(", text)
  assert not re.search(r"(collective-permute|all-to-all)\(", text)


@meshes
@pytest.mark.parametrize("tokens, inputs, outputs", [(64, 16, 24), (64, 15, 23), (6, 16, 24)])
def test_sizes_that_do_not_divide_have_the_same_numbers(name, tokens, inputs, outputs):
  rows, kernel, weights = make_arrays(tokens, inputs, outputs)

  def fn(rows, kernel):
    loss = lambda rows, kernel: jnp.sum(jnp.sin(multiply(AXES, rows, kernel)) * weights)
    return jax.value_and_grad(loss, (0, 1))(rows, kernel)

  rows = np.asarray(rows.astype(jnp.float32))
  if tokens % 8:  # such rows are gathered by the program, like a minibatch below the devices
    inner = functools.partial(fn, rows)
    found = run(name, lambda _, kernel: inner(kernel), np.zeros((8, 1)), kernel, AXES)[0]
  else:
    found = run(name, fn, rows, kernel, AXES)[0]
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  jax.tree.map(close, found, fn(rows, kernel))


@meshes
def test_gradients_of_a_table_and_a_bias_are_added_up_in_f32(name):
  tokens = np.zeros((8, 300), np.int32)  # one word, 2,400 times

  def of_table(tokens, table):
    loss = lambda table: jnp.sum(look_up(jnp.bfloat16, table, tokens).astype(jnp.float32))
    return jax.grad(loss)(table)

  found = run(name, of_table, tokens, jnp.ones((16, 8)), ("vocab", "embed"))[0]
  np.testing.assert_array_equal(found[0], 2400.0)
  np.testing.assert_array_equal(found[1:], 0.0)

  def of_bias(rows, bias):
    return jax.grad(lambda bias: jnp.sum(add_bias(rows, bias).astype(jnp.float32)))(bias)

  found = run(name, of_bias, jnp.zeros((2400, 8), jnp.bfloat16), jnp.ones(8), ("mlp",))[0]
  np.testing.assert_array_equal(found, 2400.0)
