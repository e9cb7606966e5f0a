"""Config files of published models, read and written."""

import dataclasses

import numpy as np
import pytest

from rlreason.models import families
from rlreason.models.config import (
    DynamicRopeScaling, LayerKind, LinearRopeScaling, Llama3RopeScaling, ModelConfig,
    YarnRopeScaling)
from tests.tiny_families import CONFIGS

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
TINY = CONFIGS["llama"]
def test_reads_llama_31():
  config = families.config_from_hf(LLAMA_31_8B)
  assert config == ModelConfig(
      vocab_size=128256, width=4096, num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128,
      mlp_width=14336, rope_theta=500000.0, rope_scaling=SCALING, norm_eps=1e-5,
      tie_embeddings=False, max_positions=131072)


def test_whole_numbers_where_floats_are_meant_are_floats():
  """They need not fit an integer of the device."""
  config = families.config_from_hf(LLAMA_31_8B | {"rms_norm_eps": 2**64})
  assert type(config.norm_eps) is float and config.norm_eps == 2.0**64


def test_reads_qwen_25():
  config = families.config_from_hf(QWEN_25_32B)
  assert config.family == "qwen2" and config.qkv_bias and not config.qk_norm
  assert config.rope_scaling is None and config.sliding_window is None
  assert (config.head_dim, config.num_kv_heads, config.rope_theta) == (128, 8, 1e6)


def test_reads_the_rope_parameters_of_transformers_5():
  config = {k: v for k, v in LLAMA_31_8B.items() if k not in ("rope_theta", "rope_scaling")}
  config["rope_parameters"] = dict(LLAMA_31_8B["rope_scaling"], rope_theta=500000.0)
  assert families.config_from_hf(config) == families.config_from_hf(LLAMA_31_8B)


def test_reads_gemma_3_with_the_fields_of_its_first_release():
  config = families.config_from_hf({
      "model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 1152, "head_dim": 256,
      "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 1,
      "intermediate_size": 6912, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
      "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
      "rope_theta": 1000000, "rope_local_base_freq": 10000, "sliding_window": 512,
      "sliding_window_pattern": 6, "attn_logit_softcapping": None,
      "final_logit_softcapping": None})
  assert config.tie_embeddings and config.score_width is None and config.logit_softcap is None
  assert config.sliding_layers == (True, True, True, True, True, False, True)
  assert config.kinds == (LayerKind(512, "local"), LayerKind(None, "global"))
  assert (config.rope_theta, config.local_rope_theta) == (1e6, 1e4)


def test_reads_the_two_bases_of_transformers_5():
  fields = families.config_to_hf(CONFIGS["gemma3"])
  del fields["rope_theta"], fields["rope_local_base_freq"], fields["rope_scaling"]
  fields["rope_parameters"] = {
      "full_attention": {"rope_type": "default", "rope_theta": 1e6},
      "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
  assert families.config_from_hf(fields) == CONFIGS["gemma3"]


def test_reads_yarn_as_qwen_says_to_add_it():
  config = families.config_from_hf(QWEN_25_32B | {
      "max_position_embeddings": 32768, "rope_scaling": {
          "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}})
  assert config.max_positions == 131072
  assert config.rope_scaling == YarnRopeScaling(
      4.0, 32768, attention_factor=pytest.approx(0.1 * np.log(4) + 1))


def test_reads_which_layers_of_qwen_2_slide():
  config = families.config_from_hf(QWEN_25_32B | {
      "use_sliding_window": True, "sliding_window": 100, "max_window_layers": 60})
  assert config.sliding_layers == (False,) * 60 + (True,) * 4


SCALINGS = [None, LinearRopeScaling(2.0), DynamicRopeScaling(2.0, 77), SCALING,
            YarnRopeScaling(2.0, 40, 1.3, beta_fast=16.0, truncate=False)]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_written_config_reads_back(config, scaling):
  config = dataclasses.replace(
      config, rope_scaling=scaling, max_positions=154 if scaling is SCALINGS[2] else 90)
  fields = families.config_to_hf(config, eos_ids=(3, 5), bos_id=1, pad_id=0)
  assert families.config_from_hf(fields) == config
  assert fields["eos_token_id"] == [3, 5]
  assert fields["architectures"] == [families.FAMILIES[config.family].architecture]
  assert fields["model_type"] == config.family


@pytest.mark.parametrize("changes", [
    {"qkv_bias": True}, {"post_norms": True}, {"sliding_window": 5}, {"logit_softcap": 30.0},
    {"score_width": 5}, {"rope_layers": (True, False, True)}, {"scale_embeddings": True}])
def test_a_feature_the_family_has_not_is_not_dropped(changes):
  field = next(iter(changes))
  with pytest.raises(ValueError, match=rf"family: got 'llama' with {field}=.*, allowed: "):
    families.config_to_hf(dataclasses.replace(TINY, **changes))


@pytest.mark.parametrize("changes, message", [
    ({"model_type": "gemma3"}, r"model_type: got 'gemma3', allowed: llama, mistral, qwen2"),
    ({"hidden_act": "gelu"}, r"hidden_act: got 'gelu', allowed: silu"),
    ({"attention_bias": True}, r"attention_bias: got True, allowed: False"),
    ({"mlp_bias": True}, r"mlp_bias"),
    ({"use_sliding_window": True}, r"use_sliding_window"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types.*full_attention"),
    ({"rope_scaling": {"rope_type": "longrope"}}, r"'longrope', allowed: default, linear, dynamic"),
    ({"rope_scaling": {"type": "linear"}}, r"factor: missing"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, r"low_freq_factor: missing"),
    ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor"),
    ({"hidden_size": None}, r"hidden_size: missing"),
    ({"num_key_value_heads": 3}, r"num_kv_heads: got 3"),
    ({"quantization_config": {"bits": 4}}, r"quantization_config"),
])
def test_refuses_by_name(changes, message):
  with pytest.raises(ValueError, match=message):
    families.config_from_hf(LLAMA_31_8B | changes)
