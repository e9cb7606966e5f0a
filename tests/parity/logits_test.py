"""Randomly initialised models of transformers and the transformer here give the same logits."""

import tempfile

import numpy as np
import pytest
import torch
import transformers

from rlreason import weights
from rlreason.tokenizers import WordTokenizer
from tests.parity.compare import greedy_completions, our_logits, reference_logits

SMALL = dict(vocab_size=53, num_hidden_layers=3, intermediate_size=70, max_position_embeddings=128,
             initializer_range=0.3)


def _model(family, queries, kv_heads, width, **fields):
  kind = transformers.CONFIG_MAPPING[family]
  heads = dict(
      num_attention_heads=queries, num_key_value_heads=kv_heads, hidden_size=width)
  ends = dict(bos_token_id=None, eos_token_id=1, pad_token_id=None)
  return kind(**SMALL | ends | heads | fields)


def _rope(**fields):
  return dict(rope_parameters=dict(rope_theta=1000.0) | fields)


_YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
_GEMMA2 = dict(head_dim=12, query_pre_attn_scalar=20, sliding_window=7, attn_logit_softcapping=3.0,
               final_logit_softcapping=5.0, num_hidden_layers=4)
_GEMMA3 = dict(head_dim=12, query_pre_attn_scalar=12, sliding_window=7, num_hidden_layers=7,
               rope_parameters={
                   "full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1e4),
                   "sliding_attention": dict(rope_type="default", rope_theta=100.0)})
_MOE = dict(head_dim=8, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24)
CONFIGS = {
    "llama_untied": _model("llama", 4, 2, 48, tie_word_embeddings=False),
    "llama_one_kv_head": _model("llama", 5, 1, 50, tie_word_embeddings=True, rms_norm_eps=1e-3),
    "llama_all_kv_heads": _model("llama", 3, 3, 30),
    "llama_head_dim": _model("llama", 4, 2, 40, head_dim=6),
    "llama_3": _model("llama", 2, 1, 32, **_rope(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32)),
    "llama_linear_rope": _model("llama", 2, 1, 32, **_rope(rope_type="linear", factor=3.0)),
    "llama_dynamic_rope": _model("llama", 2, 1, 32, **_rope(rope_type="dynamic", factor=3.0)),
    "llama_yarn": _model("llama", 2, 1, 32, **_rope(**_YARN)),
    "smollm2_like": _model("llama", 9, 3, 36, tie_word_embeddings=True,
                           **_rope(rope_type="default", rope_theta=1e5)),
    "mistral": _model("mistral", 4, 2, 40, sliding_window=11),
    "mistral_without_window": _model("mistral", 3, 1, 36, head_dim=8, sliding_window=None),
    "qwen2_tied": _model("qwen2", 6, 2, 48, tie_word_embeddings=True),
    "qwen2_untied": _model("qwen2", 7, 1, 42, **_rope(rope_type="default", rope_theta=1e6)),
    "qwen2_windows": _model("qwen2", 4, 2, 40, use_sliding_window=True, sliding_window=9,
                            max_window_layers=1, initializer_range=0.2,
                            **_rope(**_YARN, beta_fast=4.0)),
    "qwen3": _model("qwen3", 4, 2, 40, head_dim=16, tie_word_embeddings=True),
    "qwen3_untied": _model("qwen3", 3, 1, 40, head_dim=8, **_rope(
        **_YARN, attention_factor=0.7, truncate=False)),
    "qwen3_moe": _model("qwen3_moe", 4, 2, 40, **_MOE, norm_topk_prob=True),
    "qwen3_moe_unnormalised": _model("qwen3_moe", 2, 1, 40, **_MOE, tie_word_embeddings=True),
    "gemma2": _model("gemma2", 4, 2, 40, **_GEMMA2),
    "gemma2_one_kv_head": _model("gemma2", 3, 1, 36, **_GEMMA2 | dict(
        attn_logit_softcapping=None, sliding_window=50)),
    "gemma3": _model("gemma3_text", 4, 1, 40, **_GEMMA3),
    "gemma3_two_kv_heads": _model("gemma3_text", 4, 2, 40, **_GEMMA3 | dict(
        query_pre_attn_scalar=30, num_hidden_layers=3, sliding_window_pattern=2)),
    "smollm3": _model("smollm3", 4, 2, 40, num_hidden_layers=5),
    "smollm3_windows": _model("smollm3", 4, 1, 40, use_sliding_window=True, sliding_window=6,
                              no_rope_layer_interval=2, tie_word_embeddings=False),
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
  """A transformers model, and the same loaded here from the folder it was saved to."""
  config = CONFIGS[request.param]
  torch.manual_seed(0)
  reference = transformers.AutoModelForCausalLM.from_config(config).eval()
  with torch.no_grad():  # biases start at 0 and norms at 1, where mistakes do not show
    for name, parameter in reference.named_parameters():
      if name.endswith("bias") or "norm" in name:
        parameter.add_(0.3 * torch.randn_like(parameter))
  folder = tmp_path_factory.mktemp(request.param)
  reference.save_pretrained(folder)
  WordTokenizer.from_words([f"w{i}" for i in range(51)]).save(folder)
  return reference, weights.load_model(folder)


def padded(side, batch=3, length=41, vocab_size=53):
  """Random rows of unequal lengths, padded on one side."""
  random = np.random.default_rng(0)
  tokens = random.integers(0, vocab_size, (batch, length))
  pads = [0, 9, 30][:batch] if side != "none" else [0] * batch
  mask = np.ones((batch, length), bool)
  for row, pad in enumerate(pads):
    mask[row, :pad] = False
  return tokens, mask if side != "right" else mask[:, ::-1].copy()


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_logits_agree(pair, side):
  reference, (config, params, _) = pair
  tokens, mask = padded(side)
  wanted = reference_logits(reference, tokens, mask)[mask]
  got = our_logits(config, params, tokens, mask)[mask]
  assert np.abs(wanted).max() > 1  # or agreement would mean little
  np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)


def test_greedy_completions_are_equal(pair):
  reference, (config, params, _) = pair
  tokens, mask = padded("left", length=32)
  greedy_completions(reference, config, params, tokens, mask, new_tokens=20)


def test_exported_folder_gives_the_same_logits(pair, tmp_path):
  reference, (config, params, tokenizer) = pair
  weights.save_model(tmp_path, config, params, tokenizer, max_shard_bytes=30_000)
  again, report = transformers.AutoModelForCausalLM.from_pretrained(
      tmp_path, dtype=torch.float32, output_loading_info=True)
  assert not any(report.values()), report  # no missing, unexpected or mismatched keys
  assert type(again) is type(reference)
  tokens, mask = padded("left")
  np.testing.assert_array_equal(
      reference_logits(again.eval(), tokens, mask)[mask],
      reference_logits(reference, tokens, mask)[mask])


def test_dynamic_rope_is_that_of_generation_token_by_token():
  """Beyond the original length every token has a base of its own, fixed when it was generated."""
  torch.manual_seed(0)
  reference = transformers.AutoModelForCausalLM.from_config(_model(
      "llama", 2, 1, 32, max_position_embeddings=16,
      **_rope(rope_type="dynamic", factor=3.0))).eval()
  ids = torch.tensor(np.random.default_rng(0).integers(0, 53, (2, 40)))
  steps, cache = [], None
  with torch.no_grad():
    for position in range(ids.shape[1]):
      out = reference(ids[:, position:position + 1], past_key_values=cache, use_cache=True)
      cache = out.past_key_values
      steps.append(out.logits)
    whole = reference(ids).logits.numpy()
  wanted = torch.cat(steps, dim=1).numpy()
  assert np.abs(wanted - whole).max() > 0.1  # the model itself disagrees with its own cache
  with tempfile.TemporaryDirectory() as folder:
    reference.save_pretrained(folder)
    WordTokenizer.from_words([f"w{i}" for i in range(51)]).save(folder)
    config, params, _ = weights.load_model(folder)
  assert config.max_positions == 48
  got = our_logits(config, params, ids.numpy(), np.ones(ids.shape, bool))
  np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)
