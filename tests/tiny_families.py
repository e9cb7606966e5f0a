"""A tiny configuration of every family, with sizes that do not divide one another."""

import dataclasses

from rlreason.models.config import Llama3RopeScaling, ModelConfig, YarnRopeScaling
from rlreason.models.families import FAMILIES

LLAMA = ModelConfig(
    vocab_size=17, width=12, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=6, mlp_width=20,
    max_positions=77)


def _of(family, **fields):
  return dataclasses.replace(
      LLAMA, family=family, **{**FAMILIES[family].features, **fields})


# Windows are shorter than the rows of the tests that use these.
CONFIGS = {
    "llama": LLAMA,
    "llama3": _of("llama", rope_scaling=Llama3RopeScaling(8.0, 1.0, 4.0, 64)),
    "mistral": _of("mistral", sliding_window=3),
    "qwen2": _of("qwen2", tie_embeddings=False),
    "qwen3": _of("qwen3", num_kv_heads=1, rope_scaling=YarnRopeScaling(2.0, 16, 1.1)),
    "qwen3_moe": _of("qwen3_moe", num_experts=5, experts_per_token=2, balance_coef=0.01),
    "gemma2": _of(
        "gemma2", norm_eps=1e-6, sliding_window=3, sliding_layers=(True, False, True),
        score_width=10, attention_softcap=2.0, logit_softcap=3.0),
    "gemma3": _of(
        "gemma3_text", norm_eps=1e-6, rope_theta=1e6, local_rope_theta=1e4, sliding_window=2,
        sliding_layers=(True, True, False), num_kv_heads=1),
    "smollm3": _of("smollm3", rope_layers=(True, False, True)),
}
