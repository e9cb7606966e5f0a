"""The published model families that `ModelConfig` covers, and their `config.json`.

A family is defined by data: the fields that all its models share, those that `config.json` omits,
and their allowed values. Features that the transformer lacks raise an error that names them, and
are never dropped. Not here: GGUF metadata (`gguf_config.py`) and the names of tensors
(`weights/names.py`).
"""

from collections.abc import Collection, Mapping
import dataclasses
from typing import Any

from rlreason.models import rope_fields
from rlreason.models.config import ModelConfig
from rlreason.models.fields import check_kinds, choose, required, short, show

@dataclasses.dataclass(frozen=True)
class Family:
  """The properties that the models of one architecture share."""

  architecture: str  # the class that config.json names
  features: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the same for all models
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of omitted fields
  fixed: Mapping[str, tuple] = dataclasses.field(default_factory=dict)  # allowed values of fields
  own_fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # theirs -> ModelConfig's
  window_fields: tuple[str, ...] = ()  # those that define which layers slide


_LLAMA_LIKE = {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)}
_GEMMA = dict(
    activation="gelu_tanh", unit_offset_norms=True, post_norms=True, scale_embeddings=True)
_GEMMA_DEFAULTS = dict(
    head_dim=256, tie_word_embeddings=True, query_pre_attn_scalar=256, sliding_window=4096,
    rms_norm_eps=1e-6)
_GEMMA_FIXED = {
    "hidden_activation": ("gelu_pytorch_tanh",), "attention_bias": (False,),
    "use_bidirectional_attention": (False,)}

_GEMMA_CAPS = {
    "attn_logit_softcapping": "attention_softcap", "final_logit_softcapping": "logit_softcap"}
_QWEN_WINDOWS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")

FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaForCausalLM", fixed=_LLAMA_LIKE | {"use_sliding_window": (False,)}),
    "mistral": Family(
        "MistralForCausalLM", fixed={"hidden_act": ("silu",)}, window_fields=("sliding_window",)),
    "qwen2": Family(
        "Qwen2ForCausalLM", features={"qkv_bias": True}, fixed={"hidden_act": ("silu",)},
        window_fields=_QWEN_WINDOWS),
    "qwen3": Family(
        "Qwen3ForCausalLM", features={"qk_norm": True}, fixed=_LLAMA_LIKE,
        window_fields=_QWEN_WINDOWS),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM", features={"qk_norm": True},
        defaults={"norm_topk_prob": False, "router_aux_loss_coef": 0.001},
        fixed=_LLAMA_LIKE | {"decoder_sparse_step": (1,), "mlp_only_layers": ([],)},
        own_fields={
            "num_experts": "num_experts", "num_experts_per_tok": "experts_per_token",
            "norm_topk_prob": "normalize_experts", "router_aux_loss_coef": "balance_coef"},
        window_fields=("sliding_window", "use_sliding_window")),
    "gemma2": Family(
        "Gemma2ForCausalLM", features=_GEMMA,
        defaults=_GEMMA_DEFAULTS | {
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        fixed=_GEMMA_FIXED, own_fields=_GEMMA_CAPS,
        window_fields=("sliding_window", "layer_types")),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", features=_GEMMA | {"qk_norm": True},
        defaults=_GEMMA_DEFAULTS | {
            "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6,
            "attn_logit_softcapping": None, "final_logit_softcapping": None},
        fixed=_GEMMA_FIXED, own_fields=_GEMMA_CAPS,
        window_fields=("sliding_window", "layer_types")),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        defaults={"tie_word_embeddings": True, "rope_theta": 2e6, "no_rope_layer_interval": 4,
                  "rms_norm_eps": 1e-6},
        fixed=_LLAMA_LIKE,
        window_fields=("sliding_window", "use_sliding_window", "layer_types")),
}

_OTHER_NAMES = {"num_local_experts": "num_experts"}  # of transformers 5
# Here an explicit null differs from an absent field.
_MAY_BE_NONE = ("attn_logit_softcapping", "final_logit_softcapping", "sliding_window")
# Fields of a ModelConfig set by the user or the tokenizer, not by the model.
_NOT_WRITTEN = ("dtype", "param_dtype", "remat", "unroll", "attention", "num_tokens")

# Fields that have the same value in all families.
_ALWAYS_FIXED = {"partial_rotary_factor": (1.0,), "quantization_config": (None,)}
# They may be written as integers, which need not fit those of the device.
_FLOATS = ("rms_norm_eps", "attn_logit_softcapping", "final_logit_softcapping",
           "router_aux_loss_coef")
_FULL, _SLIDING = "full_attention", "sliding_attention"
_KINDS = {
    **dict.fromkeys(
        ("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size",
         "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
         "max_position_embeddings", "sliding_window", "max_window_layers", "num_experts",
         "num_experts_per_tok"), "whole number"),
    **dict.fromkeys(
        ("sliding_window_pattern", "no_rope_layer_interval"), "whole number above 0"),
    **dict.fromkeys(
        ("rms_norm_eps", "rope_theta", "rope_local_base_freq", "query_pre_attn_scalar",
         "attn_logit_softcapping", "final_logit_softcapping"), "positive number"),
    "router_aux_loss_coef": "number of 0 or more",
    **dict.fromkeys(
        ("tie_word_embeddings", "use_sliding_window", "norm_topk_prob"), "truth value"),
    **dict.fromkeys(("layer_types", "no_rope_layers"), "list"),
    **dict.fromkeys(("rope_scaling", "rope_parameters"), "object"),
}


def config_from_hf(fields: Mapping[str, Any]) -> ModelConfig:
  """Reads the content of a `config.json`.

  Both spellings of RoPE are read: `rope_theta` with `rope_scaling`, and `rope_parameters` of
  transformers 5. Types (`torch_dtype`) are not: they are arguments of `weights.load_model`.

  Raises:
    ValueError: a family or feature is not supported, or a field is missing or has another type;
      names it and the allowed values.
  """
  check_kinds(fields, {"model_type": "text"})
  name = choose("model_type", fields.get("model_type"), FAMILIES)
  family = FAMILIES[name]
  fields = {**family.defaults, **{_OTHER_NAMES.get(key, key): value for key, value in fields.items()
                                  if value is not None or key in _MAY_BE_NONE}}
  check_kinds(fields, _KINDS)
  fields |= {key: float(fields[key]) for key in _FLOATS if fields.get(key) is not None}
  for key, allowed in (_ALWAYS_FIXED | dict(family.fixed)).items():
    if fields.get(key, allowed[0]) not in allowed:
      raise ValueError(f"config.json {key}: got {short(fields[key])}, allowed: {show(allowed)}")
  heads, width = required(fields, "num_attention_heads"), required(fields, "hidden_size")
  # Models with a norm over each head have head sizes that do not follow from the width.
  head_dim = required(fields, "head_dim") if "qk_norm" in family.features else (
      fields.get("head_dim") or width // max(1, heads))
  rope = rope_fields.from_hf(fields)
  score_width = fields.get("query_pre_attn_scalar", head_dim)
  return ModelConfig(
      family=name,
      vocab_size=required(fields, "vocab_size"),
      width=width,
      num_layers=required(fields, "num_hidden_layers"),
      num_heads=heads,
      num_kv_heads=fields.get("num_key_value_heads") or heads,
      head_dim=head_dim,
      mlp_width=required(fields, _mlp_field(family)),
      rope_theta=rope.theta,
      rope_scaling=rope.scaling,
      local_rope_theta=rope.local_theta,
      rope_layers=_rope_layers(name, fields),
      score_width=None if score_width == head_dim else score_width,
      norm_eps=required(fields, "rms_norm_eps"),
      tie_embeddings=bool(fields.get("tie_word_embeddings", False)),
      max_positions=rope.max_positions,
      **_sliding(name, fields),
      **family.features,
      **{ours: fields[theirs] if theirs in _MAY_BE_NONE else required(fields, theirs)
         for theirs, ours in family.own_fields.items()},
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

  Raises:
    ValueError: the model has a feature that its family lacks, or lacks one that it has.
  """
  family = FAMILIES[config.family]
  activation = "gelu_pytorch_tanh" if config.activation == "gelu_tanh" else "silu"
  fields = {
      "architectures": [family.architecture],
      "model_type": config.family,
      "vocab_size": config.vocab_size,
      "hidden_size": config.width,
      "intermediate_size": config.mlp_width,
      _mlp_field(family): config.mlp_width,
      "num_hidden_layers": config.num_layers,
      "num_attention_heads": config.num_heads,
      "num_key_value_heads": config.num_kv_heads,
      "head_dim": config.head_dim,
      "hidden_activation" if "hidden_activation" in family.fixed else "hidden_act": activation,
      "rms_norm_eps": config.norm_eps,
      **rope_fields.to_hf(config),
      "tie_word_embeddings": config.tie_embeddings,
      "attention_dropout": 0.0,
      "torch_dtype": config.param_dtype,
      "eos_token_id": one_or_list(eos_ids),
      "bos_token_id": bos_id,
      "pad_token_id": pad_id,
      "use_cache": True,
      **{name: False for name in ("attention_bias", "mlp_bias") if name in family.fixed},
      **{theirs: getattr(config, ours) for theirs, ours in family.own_fields.items()},
      **_sliding_fields(config),
  }
  if "query_pre_attn_scalar" in family.defaults:
    fields["query_pre_attn_scalar"] = config.score_width or config.head_dim
  if config.rope_layers:
    fields["no_rope_layers"] = [int(has_rope) for has_rope in config.rope_layers]
  _check_written(fields, config)
  return fields


def one_or_list(ids: Collection[int]) -> int | list[int] | None:
  """How config files write end tokens: None, one id, or a list of several."""
  ids = list(ids)
  return None if not ids else ids[0] if len(ids) == 1 else ids


def _check_written(fields: Mapping[str, Any], config: ModelConfig):
  """Raises if the file would not describe the model completely."""
  again = dataclasses.asdict(config_from_hf(fields))
  wanted = dataclasses.asdict(config)
  lost = [name for name in wanted if wanted[name] != again[name] and name not in _NOT_WRITTEN]
  if lost:
    raise ValueError(
        f"family: got {config.family!r} with " + ", ".join(
            f"{name}={wanted[name]!r}" for name in lost) +
        ", allowed: " + ", ".join(f"{again[name]!r}" for name in lost))


def _mlp_field(family: Family) -> str:
  return "moe_intermediate_size" if "num_experts" in family.own_fields else "intermediate_size"


def _sliding(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
  """`sliding_window` and `sliding_layers` of a ModelConfig."""
  window, layers = fields.get("sliding_window"), required(fields, "num_hidden_layers")
  known, types = FAMILIES[name].window_fields, fields.get("layer_types")
  for kind in types or ():
    choose("config.json layer_types", kind, (_FULL, _SLIDING) if known else (_FULL,))
  is_off = "use_sliding_window" in known and not fields.get("use_sliding_window")
  if not known or is_off or window is None:
    return {}
  if types is not None:
    slides = tuple(kind == _SLIDING for kind in types)
  elif name in ("gemma2", "gemma3_text"):
    pattern = fields.get("sliding_window_pattern", 2)
    slides = tuple((i + 1) % pattern != 0 for i in range(layers))
  elif name in ("qwen2", "qwen3"):
    slides = tuple(i >= required(fields, "max_window_layers") for i in range(layers))
  elif name == "smollm3":
    slides = tuple(not has_rope for has_rope in _rope_layers(name, fields))
  else:
    slides = (True,) * layers
  if not any(slides):
    return {}
  return {"sliding_window": window, "sliding_layers": () if all(slides) else slides}


def _rope_layers(name: str, fields: Mapping[str, Any]) -> tuple[bool, ...]:
  if name != "smollm3":
    return ()
  layers = required(fields, "num_hidden_layers")
  rotates = fields.get("no_rope_layers")  # 1 where there is RoPE
  if rotates is None:
    interval = fields["no_rope_layer_interval"]
    rotates = [(i + 1) % interval for i in range(layers)]
  return () if all(rotates) else tuple(map(bool, rotates))


def _sliding_fields(config: ModelConfig) -> dict[str, Any]:
  """The fields of a `config.json` that define which layers slide."""
  types = [_FULL if kind.window is None else _SLIDING for kind in config.layer_kinds]
  fields = {"sliding_window": config.sliding_window, "layer_types": types,
            "use_sliding_window": config.sliding_window is not None, "max_window_layers": 0}
  return {name: fields[name] for name in FAMILIES[config.family].window_fields}
