"""Config files of published models, read and written."""

import dataclasses

import numpy as np
import pytest

from rlreason.models import families
from rlreason.models.config import Llama3RopeScaling, ModelConfig

# The fields that matter of meta-llama/Llama-3.1-8B's config.json.
LLAMA_31_8B = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 128000,
    "eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
QWEN_25_32B = {
    "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 5120, "intermediate_size": 27648,
    "max_position_embeddings": 131072, "max_window_layers": 64, "num_attention_heads": 40,
    "num_hidden_layers": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": False,
    "use_sliding_window": False, "vocab_size": 152064,
}
SCALING = Llama3RopeScaling(8.0, 1.0, 4.0, 8192)
TINY = ModelConfig(
    vocab_size=17, width=12, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=6, mlp_width=20,
    rope_theta=5e5, norm_eps=1e-6, max_positions=77)


def test_reads_llama_31():
  config = families.config_from_hf(LLAMA_31_8B)
  assert config == ModelConfig(
      vocab_size=128256, width=4096, num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128,
      mlp_width=14336, rope_theta=500000.0, rope_scaling=SCALING, norm_eps=1e-5,
      tie_embeddings=False, max_positions=131072)


def test_reads_qwen_25():
  config = families.config_from_hf(QWEN_25_32B)
  assert config.qkv_bias and not config.qk_norm and config.rope_scaling is None
  assert (config.head_dim, config.num_kv_heads, config.rope_theta) == (128, 8, 1e6)


def test_reads_the_rope_parameters_of_transformers_5():
  config = {k: v for k, v in LLAMA_31_8B.items() if k not in ("rope_theta", "rope_scaling")}
  config["rope_parameters"] = dict(LLAMA_31_8B["rope_scaling"], rope_theta=500000.0)
  assert families.config_from_hf(config) == families.config_from_hf(LLAMA_31_8B)


@pytest.mark.parametrize("changes", [
    {}, {"rope_scaling": SCALING}, {"qkv_bias": True, "tie_embeddings": False}, {"qk_norm": True}])
def test_written_config_reads_back(changes):
  config = dataclasses.replace(TINY, **changes)
  fields = families.config_to_hf(config, eos_ids=(3, 5), bos_id=1, pad_id=0)
  assert families.config_from_hf(fields) == config
  assert fields["eos_token_id"] == [3, 5]
  family = {"qkv_bias": "Qwen2", "qk_norm": "Qwen3"}.get(next(iter(changes), ""), "Llama")
  assert fields["architectures"] == [f"{family}ForCausalLM"]


def test_bias_and_norm_together_belong_to_no_family():
  with pytest.raises(ValueError, match="qkv_bias and qk_norm"):
    families.config_to_hf(dataclasses.replace(TINY, qkv_bias=True, qk_norm=True))


@pytest.mark.parametrize("changes, message", [
    ({"model_type": "gemma3"}, r"model_type: got 'gemma3', allowed: llama, qwen2, qwen3"),
    ({"hidden_act": "gelu"}, r"hidden_act: got 'gelu', allowed: silu"),
    ({"attention_bias": True}, r"attention_bias: got True, allowed: False"),
    ({"mlp_bias": True}, r"mlp_bias"),
    ({"use_sliding_window": True}, r"use_sliding_window"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types.*full_attention"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, r"'yarn', allowed: default, llama3"),
    ({"rope_scaling": {"type": "linear", "factor": 4.0}}, r"'linear', allowed"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, r"low_freq_factor: missing"),
    ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor"),
    ({"hidden_size": None}, r"hidden_size: missing"),
    ({"num_key_value_heads": 3}, r"num_kv_heads: got 3"),
    ({"quantization_config": {"bits": 4}}, r"quantization_config"),
])
def test_refuses_by_name(changes, message):
  with pytest.raises(ValueError, match=message):
    families.config_from_hf(LLAMA_31_8B | changes)


def _gguf_metadata(**changes):
  fields = {
      "block_count": 3, "context_length": 77, "embedding_length": 12, "feed_forward_length": 20,
      "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 6,
      "attention.layer_norm_rms_epsilon": float(np.float32(1e-6)), "rope.freq_base": 5e5,
      "vocab_size": 17} | changes
  return {"general.architecture": "llama"} | {f"llama.{k}": v for k, v in fields.items()}


def test_reads_gguf_metadata():
  assert families.config_from_gguf(_gguf_metadata(), ()) == TINY
  assert not families.config_from_gguf(_gguf_metadata(), ("output.weight",)).tie_embeddings


@pytest.mark.parametrize("changes, message", [
    ({"rope.scaling.type": "yarn"}, "rope.scaling.type: got 'yarn', allowed: none"),
    ({"expert_count": 8}, "expert_count"),
    ({"rope.dimension_count": 4}, "rope.dimension_count: got 4, allowed: the head size 6"),
    ({"block_count": None}, "llama.block_count: missing"),
])
def test_refuses_gguf_metadata_by_name(changes, message):
  with pytest.raises(ValueError, match=message):
    families.config_from_gguf(_gguf_metadata(**changes), ())


def test_refuses_gguf_architectures():
  with pytest.raises(ValueError, match="got 'gemma3', allowed: llama, qwen2, qwen3"):
    families.config_from_gguf({"general.architecture": "gemma3"}, ())


def test_rope_factors_name_their_scaling():
  # Head size 4, base 5e5: pair 0 turns 8192 / 2 pi = 1304 times (kept), pair 1 8192 / (2 pi 707) =
  # 1.84 times, between 1 and 4: kept share 0.281, divisor 1 / (0.719 / 8 + 0.281) = 2.694.
  config = dataclasses.replace(TINY, head_dim=4)
  with pytest.raises(ValueError, match="rope_freqs.weight"):
    families.rope_scaling_from_factors(np.array([1.0, 2.694]), config)  # nothing is divided by 8
  # Head size 6: pair 2 turns 8192 / (2 pi 5e5 ** (4 / 6)) = 0.207 times: divided by all of 8.
  turns = 8192 / (2 * np.pi * 5e5 ** (2 / 6))
  assert turns > 4  # so pair 1 is kept
  assert families.rope_scaling_from_factors(np.array([1.0, 1.0, 8.0]), TINY) == SCALING
