"""Writes tiny GGUF files of every architecture, as a converter would."""

import functools

import gguf
import jax
import numpy as np

from rlreason import models
from rlreason.models.config import LinearRopeScaling, ModelConfig, YarnRopeScaling
from rlreason.weights import names

# Rows of 64 hold two blocks of 32.
TINY = ModelConfig(
    vocab_size=9, width=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, mlp_width=64,
    rope_theta=5e5, norm_eps=1e-6, max_positions=77)
KINDS = gguf.GGMLQuantizationType


def gguf_tensors(config, params):
  """The arrays of a GGUF file, as a converter writes them: interleaved rows for llama."""
  entries = names.gguf_entries(config, interleaved_rope=False)
  arrays = {
      name: next(names.read_pieces(params, name, entry)) for name, entry in entries.items()}
  if config.family in ("llama", "smollm3"):
    for name, array in arrays.items():
      heads = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}.get(
          name.split(".")[-2])
      if heads:
        array = array.reshape(heads, 2, array.shape[0] // heads // 2, -1)
        arrays[name] = array.swapaxes(1, 2).reshape(heads * config.head_dim, -1)
  return arrays


def _add_own_fields(writer, config):
  if config.num_experts:
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.experts_per_token)
    writer.add_expert_feed_forward_length(config.mlp_width)
  if config.sliding_window:
    writer.add_sliding_window(config.sliding_window)
  if config.logit_softcap:
    writer.add_attn_logit_softcapping(config.attention_softcap)
    writer.add_final_logit_softcapping(config.logit_softcap)
  if isinstance(config.rope_scaling, YarnRopeScaling):
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(config.rope_scaling.factor)
    writer.add_rope_scaling_orig_ctx_len(config.rope_scaling.original_max_positions)
  if isinstance(config.rope_scaling, LinearRopeScaling):
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(config.rope_scaling.factor)


def write_gguf(path, config, arrays, kinds, architecture="llama"):
  """Writes a whole file; `kinds` maps tensor names to quantisations, the rest is F32."""
  writer = gguf.GGUFWriter(path, architecture)
  writer.add_block_count(config.num_layers)
  writer.add_context_length(config.max_positions)
  writer.add_embedding_length(config.width)
  writer.add_feed_forward_length(config.mlp_width)
  writer.add_head_count(config.num_heads)
  writer.add_head_count_kv(config.num_kv_heads)
  writer.add_key_length(config.head_dim)
  writer.add_rope_freq_base(config.rope_theta)
  writer.add_layer_norm_rms_eps(config.norm_eps)
  _add_own_fields(writer, config)
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre("smollm")
  writer.add_token_list(["<end>", *"abcdefg", "ab"])
  writer.add_token_types([3] + [1] * 8)
  writer.add_token_merges(["a b"])
  writer.add_eos_token_id(0)
  for name, array in arrays.items():
    kind = kinds.get(name, KINDS.F32)
    if array.dtype == np.uint8:  # blocks
      writer.add_tensor(name, array, raw_dtype=kind)
    elif kind == KINDS.I32:
      writer.add_tensor(name, array.astype(np.int32))
    else:
      writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


@functools.cache
def random_params(config):
  """Random everywhere, norms and biases too; host arrays."""
  random = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: random.normal(size=x.shape).astype(x.dtype), models.abstract_params(config))
