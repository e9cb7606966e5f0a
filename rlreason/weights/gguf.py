"""Reads GGUF files (llama.cpp): configuration and parameters, dequantised. Nothing is written.

The tokenizer of a file is rebuilt by `tokenizers/gguf.py`.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import gguf
import numpy as np

from rlreason.models import gguf_fields, rope_fields
from rlreason.models.config import ModelConfig
from rlreason.weights import names

_ROPE_FACTORS = "rope_freqs.weight"  # not a weight: the divisors of Llama 3 RoPE scaling
def open_model(
    reader: gguf.GGUFReader, metadata: Mapping[str, Any], where: str
) -> tuple[ModelConfig, dict[str, names.Entry], Callable[[str, slice], np.ndarray]]:
  """The model of an open GGUF file, checked as a whole before any of it is read.

  Args:
    reader: the file.
    metadata: its fields as plain values.
    where: the file's name, for messages.

  Returns:
    The configuration, the place of each tensor, and a function that reads rows of one.

  Raises:
    ValueError: an architecture, feature or quantisation that is not supported; missing or unknown
      tensors; wrong shapes.
  """
  tensors = {tensor.name: tensor for tensor in reader.tensors}
  try:
    config = gguf_fields.config_from_gguf(metadata, tensors)
    if _ROPE_FACTORS in tensors:
      factors = dequantise(tensors.pop(_ROPE_FACTORS))
      config = dataclasses.replace(
          config, rope_scaling=rope_fields.llama3_scaling_of(factors, config))
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from error
  entries = names.gguf_entries(
      config, interleaved_rope=metadata["general.architecture"] in ("llama", "smollm3"))
  names.check_names(tensors, entries, where)
  for name, entry in entries.items():
    # GGUF lists the fastest axis first.
    names.check_shape(reversed(tensors[name].shape.tolist()), name, entry, where)
    if not can_dequantise(tensors[name].tensor_type):
      raise ValueError(f"{where}: {name} is stored as {tensors[name].tensor_type.name}, which the "
                       "gguf package cannot turn into numbers; convert it to Q8_0, Q4_K or F16")
  return config, entries, lambda name, rows: dequantise(tensors[name], rows)


def can_dequantise(kind: gguf.GGMLQuantizationType) -> bool:
  """Whether the gguf package knows how to turn a type into numbers: tried on one block of zeros."""
  _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
  try:
    gguf.quants.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
  except NotImplementedError:
    return False
  return True


def dequantise(tensor: gguf.ReaderTensor, rows: slice = slice(None)) -> np.ndarray:
  """Values of a tensor, f32 `[out, in]`, or of some of its rows."""
  return gguf.quants.dequantize(tensor.data[rows], tensor.tensor_type)
