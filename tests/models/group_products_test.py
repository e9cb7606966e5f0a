"""Products of grouped rows, by XLA and by the kernel for TPUs, against a loop over groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason.models import layers

SIZES = [100, 0, 156, 60]  # of 384 rows, of which the last 68 are in no group
INPUTS, OUTPUTS = 256, 128


def arrays(dtype):
  random = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(random.standard_normal(shape), dtype)
  return draw(384, INPUTS), draw(4, INPUTS, OUTPUTS), draw(384, OUTPUTS)


def groups():
  ends = np.cumsum(SIZES)
  return [slice(end - size, end) for size, end in zip(SIZES, ends, strict=True)]


@pytest.mark.parametrize("interpret", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_rows_are_multiplied_by_the_kernel_of_their_group(interpret, dtype, is_transposed):
  rows, kernels, _ = arrays(dtype)
  given = kernels.swapaxes(1, 2) if is_transposed else kernels
  found = layers.multiply_groups(
      rows, given, jnp.array(SIZES, jnp.int32), is_transposed=is_transposed, interpret=interpret)
  assert found.dtype == rows.dtype
  for kernel, group in zip(kernels, groups(), strict=True):
    expected = np.asarray(rows[group], np.float64) @ np.asarray(kernel, np.float64)
    np.testing.assert_allclose(found[group].astype(np.float32), expected, rtol=8e-3,
                               atol=1e-4 if dtype == "float32" else 0.1)


@pytest.mark.parametrize("interpret", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_of_a_kernel_is_that_of_its_rows(interpret, dtype):
  rows, _, gradients = arrays(dtype)
  rows, gradients = (x.at[sum(SIZES):].set(jnp.nan) for x in (rows, gradients))
  found = jax.jit(lambda *args: layers.outer_groups(*args, interpret=interpret))(
      rows, gradients, jnp.array(SIZES, jnp.int32))
  assert found.dtype == jnp.float32
  for kernel, group in zip(found, groups(), strict=True):
    expected = np.asarray(rows[group], np.float64).T @ np.asarray(gradients[group], np.float64)
    np.testing.assert_allclose(kernel, expected, atol=1e-3)
