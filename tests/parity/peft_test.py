"""Adapters against `peft`: ours load there, theirs load here, and the models are the same."""

import dataclasses

import jax
import numpy as np
import peft
import pytest
import torch
import transformers

import rlreason as rr
from rlreason import models, weights
from rlreason.models import LoRAConfig, lora
from rlreason.tokenizers import WordTokenizer
from tests import tiny_families

FAMILIES = ("llama", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3", "smollm3", "mistral")


@pytest.fixture(name="base")
def base_fixture(request, tmp_path):
  """A folder with a random model, and its configuration with adapters."""
  config = tiny_families.CONFIGS[request.param]
  random = np.random.default_rng(0)
  params = jax.tree.map(
      lambda x: (0.3 * random.standard_normal(x.shape)).astype(x.dtype),
      models.abstract_params(config))
  words = [f"w{i}" for i in range(config.vocab_size - 4)]
  weights.save_model(tmp_path / "base", config, params, WordTokenizer.from_words(words))
  targets = ("q", "k", "v", "o") if config.num_experts else ("q", "o", "gate", "down")
  return tmp_path / "base", dataclasses.replace(
      config, lora=LoRAConfig(rank=3, alpha=5.0, targets=targets))


def torch_logits(model, tokens):
  with torch.no_grad():
    return model.eval()(torch.tensor(tokens)).logits.float().numpy()


def our_logits(policy, tokens):
  hidden = models.forward(policy.config, policy.params, tokens, np.ones_like(tokens))
  return models.logits(policy.config, policy.params, hidden)


@pytest.mark.parametrize("base", FAMILIES, indirect=True)
def test_our_adapters_load_into_peft(base, tmp_path):
  folder, config = base
  random = np.random.default_rng(1)
  adapters = jax.tree.map(
      lambda x: (0.3 * random.standard_normal(x.shape)).astype(np.float32),
      lora.split(models.abstract_params(config))[0])
  weights.save_adapters(tmp_path / "adapters", config, adapters, base=str(folder))
  tokens = random.integers(4, config.vocab_size, (2, 9)).astype(np.int32)
  plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
  before = torch_logits(plain, tokens)
  expected = torch_logits(peft.PeftModel.from_pretrained(plain, tmp_path / "adapters"), tokens)
  assert np.abs(expected - before).max() > 0.05
  policy = rr.load(folder, adapters=tmp_path / "adapters")
  np.testing.assert_allclose(our_logits(policy, tokens), expected, atol=1e-4)


@pytest.mark.parametrize("base", ("llama", "qwen3"), indirect=True)
@pytest.mark.parametrize("use_rslora", [False, True])
def test_adapters_of_peft_load_here_and_merge_as_there(base, use_rslora, tmp_path):
  folder, config = base
  torch.manual_seed(0)
  model = peft.get_peft_model(
      transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
      peft.LoraConfig(
          r=4, lora_alpha=7, target_modules=["q_proj", "v_proj", "up_proj"],
          use_rslora=use_rslora, init_lora_weights=False, task_type="CAUSAL_LM"))
  model.save_pretrained(tmp_path / "theirs")
  tokens = np.random.default_rng(1).integers(4, config.vocab_size, (2, 9)).astype(np.int32)
  expected = torch_logits(model, tokens)
  policy = rr.load(folder, adapters=tmp_path / "theirs")
  np.testing.assert_allclose(our_logits(policy, tokens), expected, atol=1e-4)
  rr.convert(folder, tmp_path / "merged", adapters=tmp_path / "theirs")
  merged = transformers.AutoModelForCausalLM.from_pretrained(
      tmp_path / "merged", dtype=torch.float32)
  np.testing.assert_allclose(torch_logits(merged, tokens), expected, atol=1e-4)
