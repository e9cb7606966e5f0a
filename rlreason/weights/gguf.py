"""Reads GGUF files (llama.cpp): configuration and parameters, dequantised. Nothing is written.

The tokenizer of a file is rebuilt by `tokenizers/gguf.py`.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import gguf
import numpy as np

from rlreason.models import families
from rlreason.models.config import ModelConfig
from rlreason.types import Params
from rlreason.weights import names

_ROPE_FACTORS = "rope_freqs.weight"  # not a weight: the divisors of Llama 3 RoPE scaling
_TYPES = gguf.GGMLQuantizationType
QUANTIZATIONS = (
    _TYPES.F32, _TYPES.F16, _TYPES.BF16, _TYPES.Q8_0, _TYPES.Q4_0, _TYPES.Q4_1, _TYPES.Q5_0,
    _TYPES.Q5_1, _TYPES.Q2_K, _TYPES.Q3_K, _TYPES.Q4_K, _TYPES.Q5_K, _TYPES.Q6_K)


def read_model(
    reader: gguf.GGUFReader, metadata: Mapping[str, Any], dtype: np.dtype, where: str
) -> tuple[ModelConfig, Params]:
  """The model of an open GGUF file.

  Args:
    reader: the file.
    metadata: its fields as plain values.
    dtype: of the parameters.
    where: the file's name, for messages.

  Returns:
    The configuration and a nested dict of host arrays.

  Raises:
    ValueError: an architecture, feature or quantisation that is not supported; missing or unknown
      tensors; wrong shapes.
  """
  tensors = {tensor.name: tensor for tensor in reader.tensors}
  try:
    config = families.config_from_gguf(metadata, tensors)
    if _ROPE_FACTORS in tensors:
      factors = dequantise(tensors.pop(_ROPE_FACTORS))
      config = dataclasses.replace(
          config, rope_scaling=families.rope_scaling_from_factors(factors, config))
  except ValueError as error:
    raise ValueError(f"{where}: {error}") from error
  entries = names.gguf_entries(
      config, interleaved_rope=metadata["general.architecture"] == "llama")
  names.check_names(tensors, entries, where)
  for name, entry in entries.items():
    # GGUF lists the fastest axis first.
    names.check_shape(reversed(tensors[name].shape.tolist()), name, entry, where)
    if tensors[name].tensor_type not in QUANTIZATIONS:
      raise ValueError(f"{where}: {name} is stored as {tensors[name].tensor_type.name}, allowed: "
                       f"{', '.join(kind.name for kind in QUANTIZATIONS)}")
  return config, names.build_tree(
      config, entries, lambda name: dequantise(tensors[name]), dtype)


def dequantise(tensor: gguf.ReaderTensor) -> np.ndarray:
  """The values of a tensor, f32 `[out, in]`."""
  return gguf.quants.dequantize(tensor.data, tensor.tensor_type)
