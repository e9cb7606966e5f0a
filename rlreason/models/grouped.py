"""Products of sorted rows, each group of which has a kernel of its own.

On a TPU they are the Pallas kernels that ship with JAX (megablox), whose work is that of the rows
that are in a group. XLA has such a kernel for `ragged_dot` too, but computes the gradient of the
kernels, and both products on other devices, densely: every row with every group.
"""

import contextlib
import importlib

import jax
import jax.numpy as jnp

from rlreason.parallel import rules

_ROWS = (512, 256, 128)  # of a tile; the largest that divides the rows is used
_FEATURES = 1024  # most features of a tile, of which several must fit on the chip
_OUTER_INPUTS = 512  # the same, of the result of `outer`, which is f32


def tile() -> int:
  """Rows have to be a multiple of it."""
  return _ROWS[-1] if rules.platform() == "tpu" else 1


def multiply(
    rows: jax.Array, kernels: jax.Array, sizes: jax.Array, *, is_transposed: bool = False,
    interpret: bool = False,
) -> jax.Array:
  """Each row times the kernel of its group.

  Args:
    rows: [M, I], those of a group contiguous, in the order of groups.
    kernels: [E, I, O], or if `is_transposed` [E, O, I].
    sizes: i32[E], rows of each group; M or less in total.
    is_transposed: whether the kernel is read with its outputs first.
    interpret: whether to run the kernel for TPUs elsewhere, slowly.

  Returns:
    [M, O] of the type of the rows; arbitrary, or NaN, for rows that are in no group.
  """
  if not interpret and rules.platform() != "tpu":
    kernels = kernels.swapaxes(1, 2) if is_transposed else kernels
    return jax.lax.ragged_dot(rows, kernels, sizes)
  outputs = kernels.shape[1 if is_transposed else 2]
  tiling = _rows(rows), min(rows.shape[1], _FEATURES), min(outputs, _FEATURES)
  with _precision(rows):
    return _megablox().gmm(
        rows, kernels, sizes, rows.dtype, tiling, transpose_rhs=is_transposed, interpret=interpret)


def outer(
    rows: jax.Array, gradients: jax.Array, sizes: jax.Array, *, interpret: bool = False
) -> jax.Array:
  """The gradient of `multiply`'s kernels: for each group, the sum of its rows' outer products.

  Args:
    rows: [M, I], as in `multiply`.
    gradients: [M, O], of its result.
    sizes: i32[E].
    interpret: as in `multiply`.

  Returns:
    f32[E, I, O]; 0 for a group without rows.
  """
  if not interpret and rules.platform() != "tpu":
    numbers = jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())), lhs_ragged_dimensions=[0],
        rhs_group_dimensions=[])
    return jax.lax.ragged_dot_general(
        rows, gradients, sizes, numbers, preferred_element_type=jnp.float32)
  tiling = (_rows(rows), min(rows.shape[1], _OUTER_INPUTS), min(gradients.shape[1], _FEATURES))
  with _precision(rows):
    return _megablox().tgmm(
        rows.T, gradients, sizes, jnp.float32, tiling, interpret=interpret)


def _rows(rows: jax.Array) -> int:
  return next(size for size in _ROWS if rows.shape[0] % size == 0)


def _precision(rows: jax.Array):
  """The compiler refuses products of bf16 in a kernel that ask for the precision of f32."""
  if rows.dtype == jnp.bfloat16:
    return jax.default_matmul_precision("bfloat16")
  return contextlib.nullcontext()


def _megablox():
  # Imported here, so that nothing else depends on an experimental module; the package's own `gmm`
  # is a function that hides it, without an f32 gradient.
  return importlib.import_module("jax.experimental.pallas.ops.tpu.megablox.gmm")
