"""Names and layouts of tensors in files."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models
from rlreason.weights import names, stream
from tests.tiny_families import CONFIGS

TINY = CONFIGS["llama"]
variants = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@functools.cache
def _params(config):
  """Random everywhere, norms and biases too; host arrays."""
  random = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: random.normal(size=x.shape).astype(x.dtype), models.abstract_params(config))


def test_layouts_by_hand():
  # (out, in) = (heads * head_dim, width) becomes [width, heads, head_dim].
  entry = names.Entry(("layers", "attention", "q", "kernel"), (2, 2, 2), in_axes=1)
  file = np.arange(8).reshape(4, 2)  # row r is output r = head * 2 + i
  assert entry.file_shape == (4, 2)
  ours = entry.from_file(file)
  assert ours[1, 0, 1] == file[1, 1] and ours[0, 1, 0] == file[2, 0]
  # (width, heads * head_dim) becomes [heads, head_dim, width].
  entry = names.Entry(("layers", "attention", "o", "kernel"), (2, 2, 3), in_axes=2)
  file = np.arange(12).reshape(3, 4)
  assert entry.file_shape == (3, 4)
  assert entry.from_file(file)[1, 0, 2] == file[2, 2]


def test_interleaved_rope_by_hand():
  # Two heads of size 4; rows named by what they hold: head, pair, member.
  rows = ["0a0", "0a1", "0b0", "0b1", "1a0", "1a1", "1b0", "1b1"]
  wanted = ["0a0", "0b0", "0a1", "0b1", "1a0", "1b0", "1a1", "1b1"]
  got = names._unpermute_rope(np.array(rows)[:, None], 2)
  assert got[:, 0].tolist() == wanted


@pytest.mark.parametrize("piece_elements", [10**9, 30])
@variants
def test_every_parameter_has_one_place(config, piece_elements):
  """Writing all tensors and reading them back gives the same tree, for both sets of names."""
  params = _params(config)
  for entries in (names.hf_entries(config), names.gguf_entries(config, interleaved_rope=False)):
    files = {name: next(names.read_pieces(params, name, entry)) for name, entry in entries.items()}
    for name, array in files.items():
      names.check_shape(array.shape, name, entries[name], "here")
    again = stream.load_params(
        config, entries, lambda name, rows: files[name][rows], jnp.dtype("float32"),
        piece_elements=piece_elements)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    # A GGUF file that holds norms plus 1 is not bitwise exact.
    tolerance = 1e-6 if config.unit_offset_norms else 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=0), again, params)


def test_layers_are_not_mixed_up():
  params = _params(TINY)
  name = "model.layers.2.mlp.up_proj.weight"
  array = next(names.read_pieces(params, name, names.hf_entries(TINY)[name]))
  np.testing.assert_array_equal(array, params["layers"]["mlp"]["up"]["kernel"][2].T)


def test_pieces_of_a_tensor_by_hand():
  # 6 outputs as 3 heads of 2, 4 inputs: a head is 8 elements.
  entry = names.Entry(("q", "kernel"), (4, 3, 2), (5,), in_axes=1, rope_heads=3)
  pieces = list(entry.pieces(17))
  assert [(rows, part.shape, part.rope_heads, start) for rows, part, start in pieces] == [
      (slice(0, 4), (4, 2, 2), 2, (5, 0, 0, 0)), (slice(4, 6), (4, 1, 2), 1, (5, 0, 2, 0))]
  experts = names.Entry(("up_kernel",), (3, 4, 6), (5,), in_axes=1, batch_axes=1)
  assert [(rows, start) for rows, _, start in experts.pieces(50)] == [
      (slice(0, 2), (5, 0, 0, 0)), (slice(2, 3), (5, 2, 0, 0))]


def test_only_q_and_k_are_permuted():
  entries = names.gguf_entries(CONFIGS["qwen2"], interleaved_rope=True)
  heads = {name: entry.rope_heads for name, entry in entries.items() if entry.rope_heads}
  assert heads == {f"blk.{i}.attn_{part}.weight": count
                   for i in range(3) for part, count in (("q", 4), ("k", 2))}
  with pytest.raises(ValueError, match="read, not written"):
    entries["blk.0.attn_q.weight"].to_file(np.zeros((12, 4, 6)))


def test_names_are_checked():
  entries = names.hf_entries(TINY)
  with pytest.raises(ValueError, match=(
      r"here: missing tensors \['model.norm.weight'\]; unknown tensors \['a', 'b'\]")):
    names.check_names([*set(entries) - {"model.norm.weight"}, "b", "a"], entries, "here")
  with pytest.raises(ValueError, match=r"here: x: got the shape \(17,\), allowed: \(12,\)"):
    names.check_shape((17,), "x", entries["model.norm.weight"], "here")


def test_parameters_are_checked():
  params, entries = _params(TINY), names.hf_entries(TINY)
  name = "model.norm.weight"
  with pytest.raises(ValueError, match="final_norm/scale: got the shape .*, allowed: "):
    next(names.read_pieces({"final_norm": {"scale": np.zeros(3)}}, name, entries[name]))
  params = {part: value for part, value in params.items() if part != "final_norm"}
  with pytest.raises(ValueError, match="params: missing final_norm/scale, which is written as"):
    next(names.read_pieces(params, name, entries[name]))
