"""Safetensors checkpoints of a Hugging Face folder: one file, or shards with an index."""

from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import json
import math
import os
import pathlib
import struct
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from rlreason.files import naming, write_whole
from rlreason.models.fields import short
from rlreason.tokenizers.hf import read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARDS = "model-*-of-*.safetensors"
# transformers refuses files that do not state the framework for which they were written.
_METADATA = {"format": "pt"}
_MAX_MAPPED_BYTES = 2**25
_DTYPES = {"F32": np.dtype("float32"), "F16": np.dtype("float16"),
           "BF16": np.dtype(ml_dtypes.bfloat16)}
_EXPONENTS = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}
KINDS = {str(dtype): kind for kind, dtype in _DTYPES.items()}  # float32 -> F32, ...


class Stored(NamedTuple):
  """A tensor as stored in a file."""

  kind: str  # F32, F16 or BF16
  shape: tuple[int, ...]

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * _DTYPES[self.kind].itemsize


def check_kind(kind: str, name: str, where: str) -> None:
  """Raises ValueError unless tensor `name` has a supported type."""
  if kind not in _DTYPES:
    raise ValueError(f"{where}: {name} is stored as {kind}, allowed: {', '.join(_DTYPES)}")


def is_finite(array: np.ndarray) -> bool:
  """Whether no number of floats [...] is NaN or infinite: in one pass over their bits."""
  exponents = _EXPONENTS.get(str(array.dtype))  # all of these bits set: not finite
  if exponents is None:  # of another byte order
    return bool(np.all(np.isfinite(array)))
  bits = array.view(f"u{array.itemsize}")
  return bool(np.max(bits & bits.dtype.type(exponents), initial=0) < exponents)


@contextlib.contextmanager
def damage_named(path: pathlib.Path) -> Iterator[None]:
  """Converts the package's error for a damaged file to a ValueError that names the file."""
  try:
    yield
  except BaseException as error:
    # A panic of the package's Rust is not an Exception, and its class cannot be imported.
    if not isinstance(error, safetensors.SafetensorError) and (
        type(error).__name__ != "PanicException"):
      raise
    reason = " ".join(str(error).split())  # names in the file may hold line breaks
    raise ValueError(
        f"{path}: not a whole safetensors file (damaged or cut short?): {reason}") from error


class Checkpoint:
  """The tensors of a folder, read one at a time; a context manager.

  Attributes:
    folder: its path.
    names: every tensor name.
  """

  def __init__(self, folder: str | os.PathLike):
    """Opens the files.

    Raises:
      FileNotFoundError: no safetensors file, or a shard of the index is missing.
      ValueError: a file is damaged, or an index does not agree with its shards; names the file.
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
    """The array of a tensor, `shape(name)`, or [rows, ...] of it, in the type of the file.

    bfloat16 comes as the type of ml_dtypes.
    """
    return self._files[name].read(name, rows)

  def _open(self, path: pathlib.Path, expected: frozenset[str] | None) -> None:
    if not path.is_file():
      raise FileNotFoundError(f"{path} not found; {self.folder / INDEX} names it")
    with damage_named(path):
      file = _File(path)
    self._files.update({name: file for name in file.tensors.keys()})
    found = frozenset(file.tensors.keys())
    if expected is not None and found != expected:
      raise ValueError(
          f"{path}: {self.folder / INDEX} says other tensors; only in the index: "
          f"{sorted(expected - found)}; only in the file: {sorted(found - expected)}")


class _File:
  """One open file, whose pages do not accumulate in memory."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._open()

  def _open(self) -> None:
    self.tensors, self._bytes_read = safetensors.safe_open(self._path, framework="numpy"), 0
    self.tensors.__enter__()

  def close(self) -> None:
    self.tensors.__exit__(None, None, None)

  def read(self, name: str, rows: slice) -> np.ndarray:
    # Pages read from a mapped file count as memory of this process until it is closed.
    if self._bytes_read > _MAX_MAPPED_BYTES:
      self.close()
      self._open()
    with damage_named(self._path):
      array = self.tensors.get_slice(name)[rows]
    self._bytes_read += array.nbytes
    return array


def has_checkpoint(folder: pathlib.Path) -> bool:
  """Whether a folder holds safetensors weights under the usual names."""
  return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def write(
    folder: str | os.PathLike, tensors: Mapping[str, Stored],
    read: Callable[[str], Iterable[np.ndarray]], *, max_shard_bytes: int,
) -> None:
  """Writes tensors to a folder, sharded with an index when they are too large for one file.

  Existing weights in the folder are removed. A file gets its name only when it is complete.

  Args:
    folder: exists.
    tensors: the tensors to write, by name, in the order of writing.
    read: the array of a tensor name, in pieces [rows, ...] along its first axis, each written, as
      the type in `tensors`, when it comes.
    max_shard_bytes: most bytes of tensors in one file; a larger tensor has a separate file.

  Raises:
    ValueError: a value does not fit float16, or pieces do not make up a tensor.
  """
  folder = pathlib.Path(folder)
  for old in (folder / SINGLE, folder / INDEX, *folder.glob(_SHARDS)):
    old.unlink(missing_ok=True)
  shards = _split(tensors, max_shard_bytes)
  weight_map = {}
  for number, names in enumerate(shards, 1):
    name = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
    write_file(folder / name, {name: tensors[name] for name in names}, read)
    weight_map.update(dict.fromkeys(names, name))
  if len(shards) > 1:
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_whole(folder / INDEX, json.dumps(index, indent=2) + "\n")


def write_file(
    path: pathlib.Path, tensors: Mapping[str, Stored], read: Callable[[str], Iterable[np.ndarray]]
) -> None:
  """Writes one file of `write` atomically.

  The package's own writer needs all tensors in memory at once; the format does not.
  """
  # Wide types first, as in the package: a tensor starts at a multiple of its type's size.
  names = sorted(tensors, key=lambda name: -_DTYPES[tensors[name].kind].itemsize)
  header, end = {"__metadata__": _METADATA}, 0
  for name in names:
    kind, shape = tensors[name]
    start, end = end, end + tensors[name].nbytes
    header[name] = {"dtype": kind, "shape": shape, "data_offsets": (start, end)}
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  unfinished = path.with_name(f"{path.name}.unfinished")
  try:
    with naming(path), unfinished.open("wb") as file:
      file.write(struct.pack("<Q", len(text)) + text)
      for name in names:
        start = file.tell()
        for piece in read(name):
          piece = np.ascontiguousarray(_as_kind(piece, tensors[name].kind, name))
          file.write(piece.reshape(-1).view(np.uint8))
        if file.tell() - start != tensors[name].nbytes:
          raise ValueError(
              f"{name}: got {file.tell() - start} bytes, allowed: those of {tensors[name]}")
      file.flush()
      os.fsync(file.fileno())
    unfinished.replace(path)
  finally:
    unfinished.unlink(missing_ok=True)


def _as_kind(array: np.ndarray, kind: str, name: str) -> np.ndarray:
  with np.errstate(over="ignore"):  # checked below, also for bfloat16, which does not warn
    cast = array.astype(_DTYPES[kind], copy=False)
  if kind == "F16" and cast is not array and np.any(np.isinf(cast) & np.isfinite(array)):
    raise ValueError(
        f"{name}: got values beyond 65504, allowed: up to that, the largest of float16")
  return cast


def _files_of(folder: pathlib.Path) -> dict[str, frozenset[str] | None]:
  """File name -> the tensors it must hold; None without an index.

  With a single file, an index next to it and its shards are ignored, as in transformers.
  """
  if (folder / SINGLE).is_file():
    return {SINGLE: None}
  if not (folder / INDEX).is_file():
    raise FileNotFoundError(f"no weights in {folder}; looked for {SINGLE} and {INDEX}")
  try:
    weight_map = read_json(folder / INDEX)["weight_map"]
    files = sorted(set(weight_map.values()))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"{folder / INDEX}: not an index of safetensors shards: {error!r}") from error
  for name in files:
    # An index may be downloaded: it must not point outside its folder.
    if not (isinstance(name, str) and pathlib.PurePath(name).name == name
            and name.endswith(".safetensors")):
      raise ValueError(f"{folder / INDEX}: got the file {short(name)}, allowed: names of "
                       ".safetensors files beside the index")
  return {
      name: frozenset(tensor for tensor, file in weight_map.items() if file == name)
      for name in files}


def _split(tensors: Mapping[str, Stored], max_shard_bytes: int) -> list[list[str]]:
  """Fills shards in order."""
  shards: list[list[str]] = [[]]
  space = max_shard_bytes
  for name, tensor in tensors.items():
    if tensor.nbytes > space and shards[-1]:
      shards.append([])
      space = max_shard_bytes
    shards[-1].append(name)
    space -= tensor.nbytes
  return shards
