"""The metadata of GGUF files, read as configurations."""

import dataclasses

import numpy as np
import pytest

from rlreason.models import gguf_fields, rope_fields
from rlreason.models.config import (
    LinearRopeScaling, Llama3RopeScaling, ModelConfig, YarnRopeScaling)

SCALING = Llama3RopeScaling(8.0, 1.0, 4.0, 8192)
TINY = ModelConfig(
    vocab_size=17, width=12, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=6, mlp_width=20,
    rope_theta=5e5, norm_eps=1e-6, max_positions=77)


def _metadata(architecture="llama", **changes):
  fields = {
      "block_count": 3, "context_length": 77, "embedding_length": 12, "feed_forward_length": 20,
      "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 6,
      "attention.layer_norm_rms_epsilon": float(np.float32(1e-6)), "rope.freq_base": 5e5,
      "vocab_size": 17} | changes
  return {"general.architecture": architecture} | {
      f"{architecture}.{name}": value for name, value in fields.items()}


def test_reads_metadata():
  assert gguf_fields.config_from_gguf(_metadata(), ()) == TINY
  assert not gguf_fields.config_from_gguf(_metadata(), ("output.weight",)).tie_embeddings


@pytest.mark.parametrize("changes, message", [
    ({"rope.scaling.type": "longrope"}, "rope.scaling.type: got 'longrope', allowed: none"),
    ({"rope.scaling.type": "yarn"}, "rope.scaling.original_context_length: missing"),
    ({"expert_count": 8}, "expert_count"),
    ({"rope.dimension_count": 4}, "rope.dimension_count: got 4, allowed: the head size 6"),
    ({"block_count": None}, "llama.block_count: missing"),
])
def test_refuses_gguf_metadata_by_name(changes, message):
  with pytest.raises(ValueError, match=message):
    gguf_fields.config_from_gguf(_metadata(**changes), ())


def test_refuses_gguf_architectures():
  with pytest.raises(ValueError, match="got 'mamba', allowed: llama, qwen2, qwen3, qwen3moe"):
    gguf_fields.config_from_gguf({"general.architecture": "mamba"}, ())


def test_reads_scalings():
  read = lambda **fields: gguf_fields.config_from_gguf(_metadata(**{
      f"rope.scaling.{name}": value for name, value in fields.items()}), ()).rope_scaling
  assert read(type="linear", factor=4.0) == LinearRopeScaling(4.0)
  assert read(type="yarn", factor=4.0, original_context_length=19) == YarnRopeScaling(
      4.0, 19, attention_factor=pytest.approx(0.1 * np.log(4) + 1))


def test_what_the_files_of_gemma_do_not_say():
  config = gguf_fields.config_from_gguf(_metadata(
      "gemma3", block_count=12, **{"attention.sliding_window": 9, "rope.freq_base": 1e6}), ())
  assert config.sliding_layers == ((True,) * 5 + (False,)) * 2 and config.sliding_window == 9
  assert (config.local_rope_theta, config.qk_norm, config.score_width) == (1e4, True, None)
  # The 27B models, known by their layers, divide scores by the root of width / heads.
  config = gguf_fields.config_from_gguf(_metadata("gemma2", block_count=46), ())
  assert (config.score_width, config.attention_softcap, config.logit_softcap) == (3, 50.0, 30.0)
  config = gguf_fields.config_from_gguf(_metadata("smollm3", block_count=5), ())
  assert config.rope_layers == (True, True, True, False, True)


def test_rope_factors_name_their_scaling():
  # Head size 4, base 5e5: pair 0 turns 8192 / 2 pi = 1304 times (kept), pair 1 8192 / (2 pi 707) =
  # 1.84 times, between 1 and 4: kept share 0.281, divisor 1 / (0.719 / 8 + 0.281) = 2.694.
  config = dataclasses.replace(TINY, head_dim=4)
  with pytest.raises(ValueError, match="rope_freqs.weight"):
    rope_fields.llama3_scaling_of(np.array([1.0, 2.694]), config)  # nothing is divided by 8
  # Head size 6: pair 2 turns 8192 / (2 pi 5e5 ** (4 / 6)) = 0.207 times: divided by all of 8.
  turns = 8192 / (2 * np.pi * 5e5 ** (2 / 6))
  assert turns > 4  # so pair 1 is kept
  assert rope_fields.llama3_scaling_of(np.array([1.0, 1.0, 8.0]), TINY) == SCALING
