"""LoRA adapters from and to folders as PEFT writes them: adapter_config.json and safetensors."""

from collections.abc import Mapping
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from rlreason import files
from rlreason.models import LoRAConfig, ModelConfig
from rlreason.models.config import LORA_TARGETS
from rlreason.tokenizers.hf import read_json
from rlreason.types import Params
from rlreason.weights import names
from rlreason.weights.safetensors import Stored, write_file

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SUFFIX = "_proj"  # of a projection's name in files
# Fields that change what an adapter computes, with the values under which it is what ours is.
_PLAIN = {
    "bias": ("none",), "use_dora": (False,), "fan_in_fan_out": (False,), "rank_pattern": ({},),
    "alpha_pattern": ({},), "modules_to_save": (None, []), "layers_to_transform": (None, []),
    "layer_replication": (None, []), "use_qalora": (False,), "target_parameters": (None, []),
    # Others (pissa, olora, corda, ...) start by changing the base.
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva")}


def save_adapters(
    folder: str | os.PathLike, config: ModelConfig, adapters: Params, *, base: str = ""
) -> None:
  """Writes adapters, which `peft` loads onto the Hugging Face folder of their base.

  Args:
    folder: made if it is not there.
    config: the model, with `lora`.
    adapters: the trained part of a policy (`models.lora.split`).
    base: name or path of the model they belong to.

  Raises:
    ValueError: the adapters are not those of `config`.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  entries = names.adapter_entries(config)
  lora = config.lora
  fields = {
      "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base or None,
      "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": 0.0, "bias": "none",
      "target_modules": [target + _SUFFIX for target in lora.targets], "inference_mode": True}
  stored = {name: Stored("F32", entry.file_shape) for name, entry in entries.items()}
  write_file(
      folder / _WEIGHTS, stored, lambda name: names.read_pieces(adapters, name, entries[name]))
  files.write_whole(folder / _CONFIG, json.dumps(fields, indent=2) + "\n")


def load_adapters(
    folder: str | os.PathLike, config: ModelConfig
) -> tuple[ModelConfig, Params]:
  """Reads adapters of a model.

  Args:
    folder: with adapter_config.json and adapter_model.safetensors.
    config: of the model they belong to.

  Returns:
    The configuration with their `lora`, and the adapters, f32, to `models.lora.join` with the
    model's parameters.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a damaged file, adapters of another kind or for another model.
  """
  folder = pathlib.Path(folder)
  for name in (_CONFIG, _WEIGHTS):
    if not (folder / name).is_file():
      raise FileNotFoundError(f"{folder / name} not found; expected a folder that PEFT wrote, with "
                              "safetensors")
  try:
    config = dataclasses.replace(config, lora=_read_config(read_json(folder / _CONFIG)))
  except ValueError as error:
    raise ValueError(f"{folder / _CONFIG}: {error}") from error
  entries = names.adapter_entries(config)
  where = str(folder / _WEIGHTS)
  try:
    tensors = safetensors_numpy.load_file(where)
  except safetensors.SafetensorError as error:
    raise ValueError(f"{where}: not a whole safetensors file (damaged or cut short?): {error}"
                     ) from error
  names.check_names(tensors, entries, where)
  parts = {}  # path -> what each layer has there
  for name, entry in entries.items():
    names.check_shape(tensors[name].shape, name, entry, where)
    parts.setdefault(entry.path, []).append(entry.from_file(tensors[name].astype(np.float32)))
  adapters = {}
  for path, layers in parts.items():
    node = functools.reduce(lambda node, part: node.setdefault(part, {}), path[:-1], adapters)
    node[path[-1]] = jnp.asarray(np.stack(layers))
  return config, adapters


def _read_config(fields: Mapping[str, Any]) -> LoRAConfig:
  if fields.get("peft_type") != "LORA":
    raise ValueError(f"peft_type: got {fields.get('peft_type')!r}, allowed: 'LORA'")
  for name, plain in _PLAIN.items():
    if name in fields and fields[name] not in (*plain, None):
      raise ValueError(f"{name}: got {fields[name]!r}, allowed: {plain[0]!r}")
  found = fields.get("target_modules")
  if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
    raise ValueError(f"target_modules: got {found!r}, allowed: a list of names")
  allowed = [target + _SUFFIX for target in LORA_TARGETS]
  if not set(found) <= set(allowed):
    raise ValueError(f"target_modules: got {sorted(found)}, allowed: of {allowed}")
  rank, alpha = fields.get("r"), fields.get("lora_alpha")
  if type(rank) is not int or rank < 1 or type(alpha) not in (int, float):
    raise ValueError(
        f"r, lora_alpha: got {rank!r}, {alpha!r}, allowed: an integer above 0 and a number")
  if fields.get("use_rslora"):
    alpha *= rank ** 0.5  # scaled by alpha / sqrt(r)
  targets = tuple(target for target in LORA_TARGETS if target + _SUFFIX in found)
  return LoRAConfig(rank=rank, alpha=float(alpha), targets=targets)
