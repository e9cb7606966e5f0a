"""Reads and writes LoRA adapters in PEFT's format: adapter_config.json and safetensors."""

from collections.abc import Collection, Mapping
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

from absl import logging
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from rlreason import files, hub
from rlreason.models import LoRAConfig, ModelConfig
from rlreason.models.config import LORA_TARGETS
from rlreason.models.fields import MAX_WHOLE, short, show
from rlreason.tokenizers.hf import read_json
from rlreason.tokenizers.load import check_texts
from rlreason.types import Params
from rlreason.weights import names, safetensors
from rlreason.weights.safetensors import Stored, write_file

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SUFFIX = "_proj"  # of a projection's name in files
# Fields that change the computation of an adapter, with the values for which it equals ours.
_PLAIN = {
    "bias": ("none",), "use_dora": (False,), "fan_in_fan_out": (False,), "rank_pattern": ({},),
    "alpha_pattern": ({},), "modules_to_save": (None, []), "layers_to_transform": (None, []),
    "layer_replication": (None, []), "use_qalora": (False,), "target_parameters": (None, []),
    # Others (pissa, olora, corda, ...) start by changing the base.
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva")}
# Fields that are read below, or do not affect a trained adapter. Other fields might, and must be
# empty.
_READ = ("peft_type", "r", "lora_alpha", "use_rslora", "target_modules")
_HARMLESS = (
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config",
    "inference_mode", "layers_pattern", "lora_dropout", "megatron_core", "peft_version",
    "qalora_group_size", "revision", "runtime_config", "task_type")
_ALL_LINEAR = "all-linear"


def save_adapters(
    folder: str | os.PathLike, config: ModelConfig, adapters: Params, *, base: str = ""
) -> None:
  """Writes adapters, which `peft` loads onto the Hugging Face folder of their base.

  Args:
    folder: made if missing.
    config: the model, with `lora`.
    adapters: the trained part of a policy (`models.lora.split`).
    base: name or path of their model.

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
    config: of their model.

  Returns:
    The configuration with their `lora`, and the adapters, f32, to `models.lora.join` with the
    model's parameters.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is damaged, or the adapters have another type or belong to another model.
  """
  folder = pathlib.Path(folder)
  check_texts(folder)
  if not folder.is_dir() and hub.hint(folder):
    raise FileNotFoundError(f"no adapters at {folder}{hub.hint(folder)}")
  for name in (_CONFIG, _WEIGHTS):
    if not (folder / name).is_file():
      raise FileNotFoundError(f"{folder / name} not found; expected a folder that PEFT wrote, with "
                              "safetensors")
  fields, path = read_json(folder / _CONFIG), folder / _WEIGHTS
  with safetensors.damage_named(path), safe_open(path, framework="numpy") as file:
    try:
      config = dataclasses.replace(config, lora=_read_config(fields, config, file.keys()))
    except ValueError as error:
      raise ValueError(f"{folder / _CONFIG}: {error}") from error
    entries = names.adapter_entries(config)
    arrays = _read_tensors(file, entries, str(path))
  parts = {}  # path -> the entries of each layer
  for name, entry in entries.items():
    parts.setdefault(entry.path, []).append(entry.from_file(arrays[name].astype(np.float32)))
  adapters = {}
  for path, layers in parts.items():
    node = functools.reduce(lambda node, part: node.setdefault(part, {}), path[:-1], adapters)
    node[path[-1]] = jnp.asarray(np.stack(layers))
  return config, adapters


def _read_tensors(
    file: safe_open, entries: Mapping[str, names.Entry], where: str
) -> dict[str, np.ndarray]:
  """The arrays of all entries, checked before any of them is read."""
  names.check_names(file.keys(), entries, where)
  for name, entry in entries.items():
    tensor = file.get_slice(name)
    names.check_shape(tensor.get_shape(), name, entry, where)
    safetensors.check_kind(tensor.get_dtype(), name, where)
  arrays = {name: file.get_tensor(name) for name in entries}
  broken = [name for name, array in arrays.items() if not safetensors.is_finite(array)]
  if broken:
    logging.warning("%s: NaN or infinite values in %d of %d tensors: %s", where, len(broken),
                    len(arrays), show(broken[:5]))
  return arrays


def _read_config(
    fields: Mapping[str, Any], config: ModelConfig, tensors: Collection[str]
) -> LoRAConfig:
  """Reads adapter_config.json of adapters whose file has the `tensors`."""
  if fields.get("peft_type") != "LORA":
    raise ValueError(f"peft_type: got {fields.get('peft_type')!r}, allowed: 'LORA'")
  for name, value in fields.items():
    plain = _PLAIN.get(name, ())
    if name not in (*_READ, *_HARMLESS) and value not in (*plain, None) and (plain or value):
      raise ValueError(f"{name}: got {short(value)}, allowed: {plain[0] if plain else 'nothing'!r}")
  rank, alpha = fields.get("r"), fields.get("lora_alpha")
  if type(rank) is not int or not 0 < rank <= MAX_WHOLE or type(alpha) not in (int, float) or (
      not 0 < alpha <= MAX_WHOLE):
    raise ValueError(f"r, lora_alpha: got {short(rank)}, {short(alpha)}, allowed: an integer above "
                     "0 and a number above 0")
  if fields.get("use_rslora"):
    alpha *= rank ** 0.5  # scaled by alpha / sqrt(r)
  return LoRAConfig(rank=rank, alpha=float(alpha),
                    targets=_read_targets(fields.get("target_modules"), config, tensors))


def _read_targets(
    found: Any, config: ModelConfig, tensors: Collection[str]
) -> tuple[str, ...]:
  """The projections that `target_modules` names: by suffixes, by full paths, or by a pattern.

  A pattern is not evaluated, because a downloaded one may take forever: its matches are the
  projections with tensors in the file.
  """
  if isinstance(found, str) and found:
    parts = {part for name in tensors for part in name.split(".")}
    every = found.lower() == _ALL_LINEAR and not config.num_experts
    return tuple(target for target in LORA_TARGETS if every or target + _SUFFIX in parts)
  if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
    raise ValueError(f"target_modules: got {found!r}, allowed: a list of names, or a pattern")
  modules = {}  # projection -> its path in each layer
  for path in names.projection_paths(config):
    modules.setdefault(path.rpartition(".")[2], []).append(path)
  is_of = lambda name, path: f".{path}".endswith(f".{name}")
  unknown = sorted(name for name in found
                   if not any(is_of(name, path) for paths in modules.values() for path in paths))
  if unknown:
    raise ValueError(f"target_modules: got {unknown}, allowed: of {list(modules)}, or their paths")
  chosen = []
  for module, paths in modules.items():
    missing = [path for path in paths if not any(is_of(name, path) for name in found)]
    if missing and len(missing) < len(paths):
      raise ValueError(f"target_modules: got {module} without {missing[0]}, allowed: all layers")
    chosen += [] if missing else [module.removesuffix(_SUFFIX)]
  return tuple(target for target in LORA_TARGETS if target in chosen)
