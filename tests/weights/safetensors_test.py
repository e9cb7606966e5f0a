"""Safetensors folders: shards, and files that are not what they should be."""

import json
import weakref

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy, safe_open

from rlreason.weights import safetensors

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4, dtype=ml_dtypes.bfloat16),
    "c": np.array([[1.5]], np.float16),
}
TENSORS = {name: safetensors.Stored(safetensors.KINDS[str(array.dtype)], array.shape)
           for name, array in ARRAYS.items()}  # 24, 8, 2 bytes


def _write(folder, limit=10**9):
  safetensors.write(folder, TENSORS, lambda name: [ARRAYS[name]], max_shard_bytes=limit)


def _files(folder):
  return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("limit, shards", [(10**9, 1), (34, 1), (32, 2), (1, 3)])
def test_round_trip_keeps_every_bit(tmp_path, limit, shards):
  _write(tmp_path, limit)
  assert len([name for name in _files(tmp_path) if name.endswith(".safetensors")]) == shards
  with safetensors.Checkpoint(tmp_path) as checkpoint:
    assert sorted(checkpoint.names) == ["a", "b", "c"]
    assert [checkpoint.stored_type(name) for name in "abc"] == ["F32", "BF16", "F16"]
    for name, array in ARRAYS.items():
      assert checkpoint.shape(name) == array.shape
      got = checkpoint.read(name)
      assert got.dtype == array.dtype and got.tobytes() == array.tobytes()


def test_shards_and_index(tmp_path):
  _write(tmp_path, 24)
  assert _files(tmp_path) == [
      "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
      "model.safetensors.index.json"]
  index = json.loads((tmp_path / safetensors.INDEX).read_text())
  assert index["metadata"]["total_size"] == 34
  assert index["weight_map"]["a"] == "model-00001-of-00002.safetensors"
  assert index["weight_map"]["b"] == index["weight_map"]["c"] == "model-00002-of-00002.safetensors"


def test_old_weights_do_not_stay(tmp_path):
  _write(tmp_path, 1)
  _write(tmp_path)
  assert _files(tmp_path) == ["model.safetensors"]
  _write(tmp_path, 1)
  assert "model.safetensors" not in _files(tmp_path)


def test_files_are_as_the_package_writes_them(tmp_path):
  _write(tmp_path)
  theirs = safetensors_numpy.save(ARRAYS, {"format": "pt"})
  assert (tmp_path / safetensors.SINGLE).read_bytes() == theirs


def test_pieces_are_written_one_after_the_other(tmp_path):
  """When one is asked for, no more is held than the one before."""
  large = np.arange(2**16, dtype=np.float32)
  alive = []

  def read(name):
    del name
    for low in range(0, len(large), 2**12):
      assert len([piece for piece in alive if piece() is not None]) <= 1
      piece = large[low:low + 2**12].copy()
      alive.append(weakref.ref(piece))
      yield piece
      del piece

  tensors = {"x": safetensors.Stored("F32", large.shape)}
  safetensors.write(tmp_path, tensors, read, max_shard_bytes=10**9)
  np.testing.assert_array_equal(safetensors_numpy.load_file(
      tmp_path / safetensors.SINGLE)["x"], large)


def test_an_interrupted_file_never_has_its_name(tmp_path):
  def read(name):
    assert not [file for file in _files(tmp_path) if file.endswith(".safetensors")]
    yield ARRAYS[name]
    if name == "b":
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    safetensors.write(tmp_path, TENSORS, read, max_shard_bytes=10**9)
  assert _files(tmp_path) == []
  with pytest.raises(ValueError, match="a: got 12 bytes, allowed: those of"):
    safetensors.write(tmp_path, TENSORS, lambda name: [ARRAYS[name][:1]], max_shard_bytes=10**9)
  assert _files(tmp_path) == []


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncated_file_is_named(tmp_path, keep):
  _write(tmp_path)
  path = tmp_path / safetensors.SINGLE
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(ValueError, match="model.safetensors: not a whole safetensors file"):
    safetensors.Checkpoint(tmp_path)


def test_missing_files_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="looked for model.safetensors and"):
    safetensors.Checkpoint(tmp_path)
  _write(tmp_path, 1)
  (tmp_path / "model-00002-of-00003.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match="model-00002-of-00003.safetensors not found"):
    safetensors.Checkpoint(tmp_path)


def test_index_must_agree_with_its_shards(tmp_path):
  _write(tmp_path, 1)
  index = json.loads((tmp_path / safetensors.INDEX).read_text())
  index["weight_map"]["d"] = "model-00002-of-00003.safetensors"
  (tmp_path / safetensors.INDEX).write_text(json.dumps(index))
  with pytest.raises(ValueError, match=r"only in the index: \['d'\]"):
    safetensors.Checkpoint(tmp_path)


@pytest.mark.parametrize("index", ["{", '{"weight_map": {"a": "of_another_model.safetensors"}}'])
def test_beside_a_single_file_the_index_says_nothing(tmp_path, index):
  # What transformers does: the single file is looked for first.
  _write(tmp_path)
  (tmp_path / safetensors.INDEX).write_text(index)
  with safetensors.Checkpoint(tmp_path) as checkpoint:
    assert sorted(checkpoint.names) == ["a", "b", "c"]


@pytest.mark.parametrize("content, message", [
    ("{", "not an index"), ("{}", "not an index"), ('{"weight_map": [1]}', "not an index"),
    ('{"weight_map": {"a": "../secret.safetensors"}}', "beside the index"),
    ('{"weight_map": {"a": "model.bin"}}', "beside the index")])
def test_damaged_index(tmp_path, content, message):
  (tmp_path / safetensors.INDEX).write_text(content)
  with pytest.raises(ValueError, match=message):
    safetensors.Checkpoint(tmp_path)


def test_what_the_package_says_of_a_damaged_file_is_one_line(tmp_path):
  header = json.dumps({"a\nb": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}).encode()
  path = tmp_path / "model.safetensors"
  path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
  with pytest.raises(ValueError) as error:
    with safetensors.damage_named(path), safe_open(path, framework="numpy"):
      pass
  assert "not a whole safetensors file" in str(error.value) and "\n" not in str(error.value)
