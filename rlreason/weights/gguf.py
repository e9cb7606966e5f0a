"""Reads GGUF files (llama.cpp): configuration and parameters, dequantised. Nothing is written.

The tokenizer of a file is rebuilt by `tokenizers/gguf.py`.
"""

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Any, NamedTuple

import gguf
import numpy as np

from rlreason.models import gguf_fields, rope_fields
from rlreason.models.config import ModelConfig
from rlreason.weights import names

Read = Callable[[str, slice], np.ndarray]

_ROPE_FACTORS = "rope_freqs.weight"  # not a weight: the divisors of Llama 3 RoPE scaling


class _Tensor(NamedTuple):
  """The position of a tensor in its file, and the storage of its rows."""

  kind: gguf.GGMLQuantizationType
  shape: tuple[int, ...]  # of the values
  offset: int  # bytes
  row_shape: tuple[int, ...]  # as stored: bytes of blocks, or numbers
  dtype: np.dtype  # as stored


def open_model(
    reader: gguf.GGUFReader, metadata: Mapping[str, Any], path: pathlib.Path
) -> tuple[ModelConfig, dict[str, names.Entry], Read]:
  """The model of an open GGUF file, completely checked before any of it is read.

  Args:
    reader: the file; not needed afterwards.
    metadata: its fields as plain values.
    path: that of the file.

  Returns:
    The configuration, the path of each tensor in the tree, and a function that reads rows of one.

  Raises:
    ValueError: an architecture, feature or quantisation is not supported; tensors are missing,
      unknown or have wrong shapes.
  """
  tensors = {tensor.name: _tensor_of(tensor) for tensor in reader.tensors}
  try:
    gguf_fields.check_layers(metadata, len(tensors))
    config = gguf_fields.config_from_gguf(metadata, tensors)
    if _ROPE_FACTORS in tensors:
      stored = tensors.pop(_ROPE_FACTORS)
      if stored.shape != (config.head_dim // 2,) or not can_dequantise(stored.kind):
        raise ValueError(f"GGUF {_ROPE_FACTORS}: got {stored.kind.name} of shape {stored.shape}, "
                         f"allowed: F32 of shape {(config.head_dim // 2,)}")
      factors = _read(path, stored, slice(None))
      config = dataclasses.replace(
          config, rope_scaling=rope_fields.llama3_scaling_of(factors, config))
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  entries = names.gguf_entries(
      config, interleaved_rope=metadata["general.architecture"] in ("llama", "smollm3"))
  names.check_names(tensors, entries, str(path))
  for name, entry in entries.items():
    names.check_shape(tensors[name].shape, name, entry, str(path))
    if not can_dequantise(tensors[name].kind):
      raise ValueError(f"{path}: {name} is stored as {tensors[name].kind.name}, which the gguf "
                       "package cannot turn into numbers; convert it to Q8_0, Q4_K or F16")
  return config, entries, lambda name, rows: _read(path, tensors[name], rows)


def can_dequantise(kind: gguf.GGMLQuantizationType) -> bool:
  """Whether the gguf package can dequantise a type: tried on one block of zeros."""
  _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
  try:
    gguf.quants.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
  except NotImplementedError:
    return False
  return True


def _tensor_of(tensor: gguf.ReaderTensor) -> _Tensor:
  # GGUF lists the fastest axis first. A vector is stored as one row, which may be in blocks too.
  stored = tensor.data.shape
  return _Tensor(tensor.tensor_type, tuple(reversed(tensor.shape.tolist())),
                 int(tensor.data_offset), stored[1:] or stored, tensor.data.dtype)


def _read(path: pathlib.Path, tensor: _Tensor, rows: slice) -> np.ndarray:
  """Values of some rows of a tensor, f32 `[rows, in]`.

  Not through the reader's memory map, whose pages would count as memory of this process.
  """
  if len(tensor.shape) == 1:
    return _read(path, tensor._replace(shape=(1, *tensor.shape)), slice(None))[0][rows]
  start, stop, _ = rows.indices(tensor.shape[0])
  row_bytes = int(np.prod(tensor.row_shape)) * tensor.dtype.itemsize
  stored = np.fromfile(path, np.uint8, (stop - start) * row_bytes,
                       offset=tensor.offset + start * row_bytes)
  stored = stored.view(tensor.dtype).reshape(stop - start, *tensor.row_shape)
  return gguf.quants.dequantize(stored, tensor.kind)
