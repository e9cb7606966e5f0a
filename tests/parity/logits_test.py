"""Randomly initialised models of transformers and the transformer here give the same logits."""

import numpy as np
import pytest
import torch
import transformers

from rlreason import weights
from rlreason.tokenizers import WordTokenizer
from tests.parity.compare import our_logits, reference_logits

SMALL = dict(vocab_size=53, num_hidden_layers=3, intermediate_size=70, max_position_embeddings=128,
             initializer_range=0.3)
LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=1000.0, factor=8.0, low_freq_factor=1.0,
                   high_freq_factor=4.0, original_max_position_embeddings=32)


def _llama(**fields):
  return transformers.LlamaConfig(**SMALL | dict(bos_token_id=None, eos_token_id=1) | fields)


def _qwen2(**fields):
  return transformers.Qwen2Config(**SMALL | dict(eos_token_id=1) | fields)


def _qwen3(**fields):
  return transformers.Qwen3Config(**SMALL | dict(eos_token_id=1) | fields)


heads = lambda queries, kv, width, **more: dict(
    num_attention_heads=queries, num_key_value_heads=kv, hidden_size=width, **more)
CONFIGS = {
    "llama_untied": _llama(**heads(4, 2, 48), tie_word_embeddings=False),
    "llama_one_kv_head": _llama(**heads(5, 1, 50), tie_word_embeddings=True, rms_norm_eps=1e-3),
    "llama_all_kv_heads": _llama(**heads(3, 3, 30)),
    "llama_head_dim": _llama(**heads(4, 2, 40, head_dim=6)),
    "llama_rope_scaling": _llama(**heads(2, 1, 32), rope_parameters=LLAMA3_ROPE),
    "smollm2_like": _llama(**heads(9, 3, 36), tie_word_embeddings=True,
                           rope_parameters=dict(rope_type="default", rope_theta=1e5)),
    "qwen2_tied": _qwen2(**heads(6, 2, 48), tie_word_embeddings=True),
    "qwen2_untied": _qwen2(**heads(7, 1, 42), tie_word_embeddings=False,
                           rope_parameters=dict(rope_type="default", rope_theta=1e6)),
    "qwen3": _qwen3(**heads(4, 2, 40, head_dim=16), tie_word_embeddings=True),
    "qwen3_untied": _qwen3(**heads(3, 1, 40, head_dim=8), tie_word_embeddings=False),
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
