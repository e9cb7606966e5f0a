"""Parameters arrive with their shardings, on one device and on a mesh, piece by piece."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models
from rlreason.models import quantize
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.weights import names, stream
from tests.tiny_families import CONFIGS

# Axes that a mesh of 2 x 2 x 2 divides, and some that it does not.
CONFIG = dataclasses.replace(CONFIGS["qwen3_moe"], num_experts=4, vocab_size=18)


def _files(config, dtype):
  """What a checkpoint in `dtype` holds, and the parameters it was made of."""
  random = np.random.default_rng(0)
  params = jax.tree.map(
      lambda leaf: random.standard_normal(leaf.shape).astype(dtype),
      models.abstract_params(config))
  entries = names.hf_entries(config)
  files = {name: next(names.read_pieces(params, name, entry)) for name, entry in entries.items()}
  return files, params


ONE = ParallelConfig(data=1)
MESH, PMAP = ParallelConfig(data=2, fsdp=2, tensor=2), ParallelConfig(mode="pmap")
STORED = ("float16", "bfloat16", "float32")


# A device casts its pieces alone: every pair of types on one, and each of both sides on many.
@pytest.mark.parametrize("parallel, stored, dtype", [
    *((ONE, stored, dtype) for stored in STORED for dtype in ("bfloat16", "float32")),
    (MESH, "float16", "float32"), (MESH, "float32", "bfloat16"), (MESH, "bfloat16", "bfloat16"),
    (PMAP, "float16", "bfloat16"), (PMAP, "bfloat16", "float32"), (PMAP, "float32", "float32")],
    ids=lambda value: value if isinstance(value, str) else f"{value.mode}{value.data}")
def test_parameters_are_where_the_layout_wants_them(stored, dtype, parallel):
  files, params = _files(CONFIG, jnp.dtype(stored))
  layout = make_layout(parallel)
  boxed = models.abstract_boxed_params(CONFIG)
  got = stream.load_params(
      CONFIG, names.hf_entries(CONFIG), lambda name, rows: files[name][rows], jnp.dtype(dtype),
      layout.param_shardings(boxed), piece_elements=40)
  placed = layout.put_params(jax.tree.map(lambda x: jnp.asarray(x, dtype), params), boxed)
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(placed), strict=True):
    assert one.dtype == other.dtype and one.sharding.is_equivalent_to(other.sharding, one.ndim)
    assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
  for name, entry in names.hf_entries(CONFIG).items():  # and back
    pieces = list(names.read_pieces(got, name, entry, max_elements=72))
    assert max(piece.size for piece in pieces) <= 72
    wanted = files[name].astype(dtype)
    assert b"".join(piece.tobytes() for piece in pieces) == wanted.tobytes()


@pytest.mark.parametrize("kind", quantize.KINDS)
@pytest.mark.parametrize("parallel", [ONE, MESH, PMAP], ids=["one", "mesh", "pmap"])
def test_kernels_are_quantised_on_their_way(kind, parallel):
  files, params = _files(CONFIG, jnp.dtype("float32"))
  places = make_layout(parallel).param_shardings(models.abstract_boxed_params(CONFIG))
  got = stream.load_params(
      CONFIG, names.hf_entries(CONFIG), lambda name, rows: files[name][rows],
      jnp.dtype("float32"), places, quantize=kind, piece_elements=40)
  expected = jax.jit(quantize.quantize_params, static_argnums=1)(params, kind)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)
  assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, expected)
  if parallel.tensor > 1:  # as the kernel would be, where its axes are divided
    values = got["layers"]["attention"]["q"]["kernel"][kind]
    assert values.sharding.shard_shape(values.shape) == (
        values.shape[0], values.shape[1] // 2, values.shape[2] // 2, values.shape[3])


def test_a_loaded_parameter_can_be_donated():
  files, params = _files(CONFIG, jnp.dtype("bfloat16"))
  got = stream.load_params(
      CONFIG, names.hf_entries(CONFIG), lambda name, rows: files[name][rows],
      jnp.dtype("bfloat16"))
  double = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0)(got)
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 2 * b), double, params)


def test_no_more_than_a_piece_is_read_at_once():
  files, _ = _files(CONFIG, jnp.dtype("float32"))
  sizes = []

  def read(name, rows):
    sizes.append(files[name][rows].size)
    return files[name][rows]

  stream.load_params(
      CONFIG, names.hf_entries(CONFIG), read, jnp.dtype("float32"), piece_elements=72)
  assert max(sizes) == 72 and sum(sizes) == sum(array.size for array in files.values())
