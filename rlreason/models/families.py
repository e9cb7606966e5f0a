"""Which published models `ModelConfig` covers, and how their config files say so.

Read: a Hugging Face `config.json` and the metadata of a GGUF file. Written: `config.json`. A
feature the transformer here does not have is refused by name, never dropped. Not here: the names
of the tensors (`weights/names.py`).
"""

from collections.abc import Collection, Mapping
import math
from typing import Any, Literal

import numpy as np

from rlreason.models.config import Llama3RopeScaling, ModelConfig

Family = Literal["llama", "qwen2", "qwen3"]

_ARCHITECTURES: dict[Family, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# Fields that must hold one of these values, or be absent: the transformer here has nothing else.
_FIXED_FIELDS = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1.0,),
    "use_sliding_window": (False,),
    "quantization_config": (None,),
}

_ROPE_TYPES = ("default", "llama3")


def family_of(config: ModelConfig) -> Family:
  """The family that has exactly these features.

  Raises:
    ValueError: no family has both a bias on q, k, v and a norm on q, k.
  """
  if config.qkv_bias and config.qk_norm:
    raise ValueError(
        "qkv_bias and qk_norm: got True and True, allowed: at most one of them (qwen2 has the "
        "bias, qwen3 the norm, llama neither)")
  if config.qkv_bias:
    return "qwen2"
  return "qwen3" if config.qk_norm else "llama"


def config_from_hf(config: Mapping[str, Any]) -> ModelConfig:
  """Reads the content of a `config.json`.

  Both spellings of RoPE are read: `rope_theta` with `rope_scaling`, and `rope_parameters` of
  transformers 5. Types (`torch_dtype`) are not: `weights.load_model` is told them.

  Raises:
    ValueError: a family or feature that is not supported, or a missing field; names it and what is
      allowed.
  """
  family = _choose_family("model_type", config.get("model_type"))
  for name, allowed in _FIXED_FIELDS.items():
    if config.get(name, allowed[0]) not in allowed:
      raise ValueError(f"config.json {name}: got {config[name]!r}, allowed: {_show(allowed)}")
  if set(config.get("layer_types") or ()) - {"full_attention"}:
    raise ValueError(
        f"config.json layer_types: got {sorted(set(config['layer_types']))}, "
        "allowed: full_attention")
  heads, width = _required(config, "num_attention_heads"), _required(config, "hidden_size")
  # Only qwen3 has head sizes that do not follow from the width, so there it must be written.
  head_dim = config.get("head_dim")
  if head_dim is None:
    head_dim = _required(config, "head_dim") if family == "qwen3" else width // heads
  theta, scaling = _rope(config)
  return ModelConfig(
      vocab_size=_required(config, "vocab_size"),
      width=width,
      num_layers=_required(config, "num_hidden_layers"),
      num_heads=heads,
      num_kv_heads=config.get("num_key_value_heads") or heads,
      head_dim=head_dim,
      mlp_width=_required(config, "intermediate_size"),
      rope_theta=theta,
      rope_scaling=scaling,
      norm_eps=_required(config, "rms_norm_eps"),
      tie_embeddings=bool(config.get("tie_word_embeddings", False)),
      qkv_bias=family == "qwen2",
      qk_norm=family == "qwen3",
      max_positions=_required(config, "max_position_embeddings"),
  )


def config_to_hf(
    config: ModelConfig, *, eos_ids: Collection[int] = (), bos_id: int | None = None,
    pad_id: int | None = None,
) -> dict[str, Any]:
  """The content of the `config.json` that `config_from_hf` and transformers read back.

  Args:
    config: the model; `param_dtype` becomes `torch_dtype`, the compute type is not written.
    eos_ids: ids that end a completion; one is written as a number, several as a list.
    bos_id: id of the begin token, if there is one.
    pad_id: id of the padding token, if there is one.
  """
  family = family_of(config)
  fields = {
      "architectures": [_ARCHITECTURES[family]],
      "model_type": family,
      "vocab_size": config.vocab_size,
      "hidden_size": config.width,
      "intermediate_size": config.mlp_width,
      "num_hidden_layers": config.num_layers,
      "num_attention_heads": config.num_heads,
      "num_key_value_heads": config.num_kv_heads,
      "head_dim": config.head_dim,
      "hidden_act": "silu",
      "max_position_embeddings": config.max_positions,
      "rms_norm_eps": config.norm_eps,
      "rope_theta": config.rope_theta,
      "rope_scaling": None,
      "tie_word_embeddings": config.tie_embeddings,
      "attention_dropout": 0.0,
      "torch_dtype": config.param_dtype,
      "eos_token_id": one_or_list(eos_ids),
      "bos_token_id": bos_id,
      "pad_token_id": pad_id,
      "use_cache": True,
  }
  if family != "qwen2":
    fields["attention_bias"] = False
  if family == "llama":
    fields["mlp_bias"] = False
  else:
    fields["use_sliding_window"] = False
  if config.rope_scaling is not None:
    scaling = config.rope_scaling
    fields["rope_scaling"] = {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_positions,
    }
  return fields


def one_or_list(ids: Collection[int]) -> int | list[int] | None:
  """How config files write end tokens: None, one id, or a list of several."""
  ids = list(ids)
  return None if not ids else ids[0] if len(ids) == 1 else ids


def config_from_gguf(metadata: Mapping[str, Any], tensor_names: Collection[str]) -> ModelConfig:
  """Reads the metadata of a GGUF file.

  Llama 3 RoPE scaling is not in the metadata but in the tensor `rope_freqs.weight`:
  `rope_scaling_from_factors`.

  Args:
    metadata: field name to value.
    tensor_names: the names of the file's tensors: without `output.weight` the embeddings are tied.

  Raises:
    ValueError: as `config_from_hf`.
  """
  family = _choose_family("general.architecture", metadata.get("general.architecture"))
  required = lambda name: _required(metadata, f"{family}.{name}", "GGUF")
  scaling = metadata.get(f"{family}.rope.scaling.type", "none")
  if scaling != "none":
    raise ValueError(f"GGUF {family}.rope.scaling.type: got {scaling!r}, allowed: none")
  if metadata.get(f"{family}.expert_count", 0):
    raise ValueError(f"GGUF {family}.expert_count: got {metadata[f'{family}.expert_count']}, "
                     "allowed: 0 (no mixture of experts)")
  heads, width = required("attention.head_count"), required("embedding_length")
  head_dim = metadata.get(f"{family}.attention.key_length", width // heads)
  rotary = metadata.get(f"{family}.rope.dimension_count", head_dim)
  if rotary != head_dim:
    raise ValueError(
        f"GGUF {family}.rope.dimension_count: got {rotary}, allowed: the head size {head_dim}")
  tokens = metadata.get("tokenizer.ggml.tokens", ())
  return ModelConfig(
      vocab_size=metadata.get(f"{family}.vocab_size") or len(tokens),
      width=width,
      num_layers=required("block_count"),
      num_heads=heads,
      num_kv_heads=metadata.get(f"{family}.attention.head_count_kv", heads),
      head_dim=head_dim,
      mlp_width=required("feed_forward_length"),
      rope_theta=_shortest_float(metadata.get(f"{family}.rope.freq_base", 10000.0)),
      norm_eps=_shortest_float(required("attention.layer_norm_rms_epsilon")),
      tie_embeddings="output.weight" not in tensor_names,
      qkv_bias=family == "qwen2",
      qk_norm=family == "qwen3",
      max_positions=required("context_length"),
  )


def rope_scaling_from_factors(factors: np.ndarray, config: ModelConfig) -> Llama3RopeScaling:
  """The Llama 3 scaling whose divisors of the rotary frequencies are `factors`, f32[h / 2].

  GGUF files keep only these divisors. The slowest pair is divided by the whole `factor`; all
  published Llama 3 models share the other constants, and the result is checked against the tensor.

  Raises:
    ValueError: the divisors are not those of a published Llama 3 model.
  """
  scaling = Llama3RopeScaling(
      factor=_shortest_float(float(np.max(factors))), low_freq_factor=1.0, high_freq_factor=4.0,
      original_max_positions=8192)
  exponents = np.arange(0, config.head_dim, 2) / config.head_dim
  turns = scaling.original_max_positions / (2 * math.pi) * config.rope_theta ** -exponents
  span = scaling.high_freq_factor - scaling.low_freq_factor
  kept = np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
  expected = 1.0 / ((1 - kept) / scaling.factor + kept)
  if np.shape(factors) != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
    raise ValueError(
        f"GGUF rope_freqs.weight: got {np.asarray(factors).tolist()}, allowed: the divisors of "
        f"Llama 3 scaling, {expected.tolist()}")
  return scaling


def _choose_family(field: str, name: Any) -> Family:
  if name not in _ARCHITECTURES:
    raise ValueError(f"{field}: got {name!r}, allowed: {_show(_ARCHITECTURES)}")
  return name


def _rope(config: Mapping[str, Any]) -> tuple[float, Llama3RopeScaling | None]:
  """Base and scaling of RoPE from either spelling."""
  parameters = dict(config.get("rope_scaling") or {}) | dict(config.get("rope_parameters") or {})
  theta = float(parameters.get("rope_theta") or config.get("rope_theta") or 10000.0)
  kind = parameters.get("rope_type", parameters.get("type", "default"))
  if kind not in _ROPE_TYPES:
    raise ValueError(f"config.json rope_scaling: got {kind!r}, allowed: {_show(_ROPE_TYPES)}")
  if parameters.get("partial_rotary_factor", 1.0) != 1.0:
    raise ValueError("config.json partial_rotary_factor: got "
                     f"{parameters['partial_rotary_factor']}, allowed: 1.0")
  if kind == "default":
    return theta, None
  required = lambda name: _required(parameters, name, "config.json rope_scaling")
  return theta, Llama3RopeScaling(
      factor=float(required("factor")),
      low_freq_factor=float(required("low_freq_factor")),
      high_freq_factor=float(required("high_freq_factor")),
      original_max_positions=int(required("original_max_position_embeddings")),
  )


def _required(fields: Mapping[str, Any], name: str, where: str = "config.json") -> Any:
  if fields.get(name) is None:
    raise ValueError(f"{where} {name}: missing; it holds {_show(sorted(fields))}")
  return fields[name]


def _shortest_float(value: float) -> float:
  """The decimal number an f32 was written for: 1e-05 and not 9.999999747378752e-06."""
  return float(str(np.float32(value)))


def _show(values: Collection[Any]) -> str:
  return ", ".join(map(str, values))
