"""Safetensors checkpoints of a Hugging Face folder: one file, or shards with an index."""

from collections.abc import Callable, Mapping
import json
import os
import pathlib
from typing import Any

import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARDS = "model-*-of-*.safetensors"
# transformers refuses files that do not say for which framework they were written.
_METADATA = {"format": "pt"}
_MAX_MAPPED_BYTES = 2**25


class Checkpoint:
  """The tensors of a folder, read one at a time; a context manager.

  Attributes:
    folder: where it lies.
    names: every tensor name.
  """

  def __init__(self, folder: str | os.PathLike):
    """Opens the files.

    Raises:
      FileNotFoundError: no safetensors file, or a shard of the index is not there.
      ValueError: a damaged file, or an index that does not agree with its shards; names the file.
    """
    self.folder = pathlib.Path(folder)
    self._files: dict[str, _File] = {}  # by tensor name
    try:
      for name, tensors in _files_of(self.folder).items():
        self._open(self.folder / name, tensors)
    except BaseException:
      self.close()
      raise
    self.names = tuple(self._files)

  def __enter__(self) -> "Checkpoint":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    for file in set(self._files.values()):
      file.close()

  def shape(self, name: str) -> tuple[int, ...]:
    return tuple(self._files[name].tensors.get_slice(name).get_shape())

  def stored_type(self, name: str) -> str:
    """The type in the file, as safetensors writes it: F32, BF16, ..."""
    return self._files[name].tensors.get_slice(name).get_dtype()

  def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
    """The array of a tensor, or rows of it; bfloat16 comes as the type of ml_dtypes."""
    return self._files[name].read(name, rows)

  def _open(self, path: pathlib.Path, expected: frozenset[str] | None) -> None:
    if not path.is_file():
      raise FileNotFoundError(f"{path} not found; {self.folder / INDEX} names it")
    try:
      file = _File(path)
    except safetensors.SafetensorError as error:
      raise ValueError(f"{path}: not a whole safetensors file (damaged or cut short?): {error}"
                       ) from error
    found = frozenset(file.tensors.keys())
    self._files.update({name: file for name in found})
    if expected is not None and found != expected:
      raise ValueError(
          f"{path}: {self.folder / INDEX} says other tensors; only in the index: "
          f"{sorted(expected - found)}; only in the file: {sorted(found - expected)}")


class _File:
  """One open file, whose pages do not pile up in memory."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._open()

  def _open(self) -> None:
    self.tensors, self._bytes_read = safetensors.safe_open(self._path, framework="numpy"), 0
    self.tensors.__enter__()

  def close(self) -> None:
    self.tensors.__exit__(None, None, None)

  def read(self, name: str, rows: slice) -> np.ndarray:
    # What was read of a mapped file counts as memory of this process until it is closed.
    if self._bytes_read > _MAX_MAPPED_BYTES:
      self.close()
      self._open()
    array = self.tensors.get_slice(name)[rows]
    self._bytes_read += array.nbytes
    return array


def has_checkpoint(folder: pathlib.Path) -> bool:
  """Whether a folder holds safetensors weights under the usual names."""
  return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def write(
    folder: str | os.PathLike, sizes: Mapping[str, int], read: Callable[[str], np.ndarray], *,
    max_shard_bytes: int,
) -> None:
  """Writes tensors to a folder, sharded with an index when they are too large for one file.

  Weights that were in the folder before are removed.

  Args:
    folder: exists.
    sizes: tensor name to bytes, in the order of writing.
    read: the array of a tensor name.
    max_shard_bytes: most bytes of tensors in one file; a larger tensor has a file of its own.
  """
  folder = pathlib.Path(folder)
  for old in (folder / SINGLE, folder / INDEX, *folder.glob(_SHARDS)):
    old.unlink(missing_ok=True)
  shards = _split(sizes, max_shard_bytes)
  weight_map = {}
  for number, names in enumerate(shards, 1):
    name = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
    (folder / name).touch()
    mode = (folder / name).stat().st_mode
    safetensors_numpy.save_file({n: read(n) for n in names}, folder / name, metadata=_METADATA)
    (folder / name).chmod(mode)  # the package makes files that only their owner can read
    weight_map.update(dict.fromkeys(names, name))
  if len(shards) > 1:
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _files_of(folder: pathlib.Path) -> dict[str, frozenset[str] | None]:
  """File name to the tensors it must hold; None where no index says so."""
  if not (folder / INDEX).is_file():
    if not (folder / SINGLE).is_file():
      raise FileNotFoundError(f"no weights in {folder}; looked for {SINGLE} and {INDEX}")
    return {SINGLE: None}
  try:
    weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    files = sorted(set(weight_map.values()))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"{folder / INDEX}: not an index of safetensors shards: {error!r}") from error
  for name in files:
    # An index comes with a download: it must not point outside its folder.
    if pathlib.PurePath(name).name != name or not name.endswith(".safetensors"):
      raise ValueError(f"{folder / INDEX}: got the file {name!r}, allowed: names of .safetensors "
                       "files beside the index")
  return {
      name: frozenset(tensor for tensor, file in weight_map.items() if file == name)
      for name in files}


def _split(sizes: Mapping[str, int], max_shard_bytes: int) -> list[list[str]]:
  """Fills shards in order."""
  shards: list[list[str]] = [[]]
  room = max_shard_bytes
  for name, size in sizes.items():
    if size > room and shards[-1]:
      shards.append([])
      room = max_shard_bytes
    shards[-1].append(name)
    room -= size
  return shards
