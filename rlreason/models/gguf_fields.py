"""Reads the metadata of a GGUF file as a `ModelConfig`."""

from collections.abc import Collection, Mapping
import dataclasses
from typing import Any

from rlreason.models import rope_fields
from rlreason.models.config import ModelConfig
from rlreason.models.families import FAMILIES
from rlreason.models.fields import check_kinds, choose, required, shortest_float


@dataclasses.dataclass(frozen=True)
class _Architecture:
  """Properties of one architecture that its files do not state."""

  family: str
  rope_theta: float = 10000.0  # if the file has no base
  window_pattern: int = 0  # every n-th layer does not slide; 0 = no windows
  # Number of layers of the only model whose scores are divided by the root of width / heads.
  layers_scaled_by_width: int = 0


ARCHITECTURES: Mapping[str, _Architecture] = {
    "llama": _Architecture("llama"),
    "qwen2": _Architecture("qwen2"),
    "qwen3": _Architecture("qwen3"),
    "qwen3moe": _Architecture("qwen3_moe"),
    "gemma2": _Architecture("gemma2", window_pattern=2, layers_scaled_by_width=46),
    "gemma3": _Architecture(
        "gemma3_text", rope_theta=1e6, window_pattern=6, layers_scaled_by_width=62),
    "smollm3": _Architecture("smollm3", rope_theta=2e6),
}
_GEMMA3_LOCAL_THETA = 1e4
_SMOLLM3_ROPE_INTERVAL = 4  # every fourth layer has no rotary positions
_KINDS = {
    **dict.fromkeys(
        ("attention.head_count", "attention.head_count_kv", "attention.key_length",
         "attention.sliding_window", "block_count", "context_length", "embedding_length",
         "expert_count", "expert_used_count", "expert_feed_forward_length", "feed_forward_length",
         "rope.dimension_count", "rope.scaling.original_context_length", "vocab_size"),
        "whole number"),
    **dict.fromkeys(
        ("attention.layer_norm_rms_epsilon", "attn_logit_softcapping", "final_logit_softcapping",
         "rope.freq_base", "rope.freq_base_swa", "rope.scaling.factor",
         "rope.scaling.yarn_attn_factor", "rope.scaling.attn_factor",
         "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"), "positive number"),
    "rope.scaling.type": "text",
}


def config_from_gguf(metadata: Mapping[str, Any], tensor_names: Collection[str]) -> ModelConfig:
  """Reads the metadata of a GGUF file.

  Llama 3 RoPE scaling is not in the metadata but in the tensor `rope_freqs.weight`:
  `rope_fields.llama3_scaling_of`.

  Args:
    metadata: field name to value.
    tensor_names: the names of the file's tensors: without `output.weight` the embeddings are tied.

  Raises:
    ValueError: an architecture or feature is not supported, or a field is missing or has another
      type.
  """
  check_kinds(metadata, {"general.architecture": "text", "tokenizer.ggml.tokens": "list"}, "GGUF ")
  name = choose("general.architecture", metadata.get("general.architecture"), ARCHITECTURES)
  architecture = ARCHITECTURES[name]
  check_kinds(metadata, {f"{name}.{field}": kind for field, kind in _KINDS.items()}, "GGUF ")
  need = lambda field: required(metadata, f"{name}.{field}", "GGUF")
  get = lambda field, default=None: metadata.get(f"{name}.{field}", default)
  heads, width, layers = need("attention.head_count"), need("embedding_length"), need("block_count")
  head_dim = get("attention.key_length", width // max(1, heads))
  if get("rope.dimension_count", head_dim) != head_dim:
    raise ValueError(f"GGUF {name}.rope.dimension_count: got {get('rope.dimension_count')}, "
                     f"allowed: the head size {head_dim}")
  if get("expert_count", 0) and name != "qwen3moe":
    raise ValueError(f"GGUF {name}.expert_count: got {get('expert_count')}, "
                     "allowed: 0 (no mixture of experts)")
  rope = rope_fields.from_gguf(metadata, name, architecture.rope_theta)
  own = {}
  if name == "qwen3moe":
    own = dict(num_experts=need("expert_count"), experts_per_token=need("expert_used_count"))
  if name == "gemma2":
    own = dict(attention_softcap=get("attn_logit_softcapping", 50.0),
               logit_softcap=get("final_logit_softcapping", 30.0))
  if name == "gemma3":
    own = dict(local_rope_theta=rope.local_theta or _GEMMA3_LOCAL_THETA)
  if name == "smollm3":
    own = dict(rope_layers=_some_of(layers, _SMOLLM3_ROPE_INTERVAL))
  if architecture.layers_scaled_by_width == layers:
    own["score_width"] = width // heads
  return ModelConfig(
      family=architecture.family,
      vocab_size=get("vocab_size") or len(metadata.get("tokenizer.ggml.tokens", ())),
      width=width,
      num_layers=layers,
      num_heads=heads,
      num_kv_heads=get("attention.head_count_kv", heads),
      head_dim=head_dim,
      mlp_width=need("expert_feed_forward_length" if name == "qwen3moe" else "feed_forward_length"),
      rope_theta=rope.theta,
      rope_scaling=rope.scaling,
      norm_eps=shortest_float(need("attention.layer_norm_rms_epsilon")),
      tie_embeddings="output.weight" not in tensor_names,
      max_positions=rope.max_positions,
      **_windows(get("attention.sliding_window"), architecture.window_pattern, layers),
      **FAMILIES[architecture.family].features,
      **own,
  )


def check_layers(metadata: Mapping[str, Any], num_tensors: int):
  """Checks the number of layers before any work per layer: a file can state a million.

  Raises:
    ValueError: it states more layers than it has tensors.
  """
  field = f"{metadata.get('general.architecture')}.block_count"
  layers = metadata.get(field)
  if isinstance(layers, int) and layers > num_tensors:
    raise ValueError(
        f"GGUF {field}: got {layers}, allowed: at most {num_tensors}, the tensors of the file")


def _windows(window: int | None, pattern: int, layers: int) -> dict[str, Any]:
  if not window or not pattern:
    return {}
  return {"sliding_window": window, "sliding_layers": _some_of(layers, pattern)}


def _some_of(layers: int, pattern: int) -> tuple[bool, ...]:
  """All layers but every n-th; empty if that is all of them."""
  chosen = tuple((i + 1) % pattern != 0 for i in range(layers))
  return () if all(chosen) else chosen
