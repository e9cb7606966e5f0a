"""Rewards of transformers' models for sequence and token classification, of every family."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers

from rlreason import losses, models, weights
from rlreason.models import families
from rlreason.tokenizers import WordTokenizer
from tests.parity.logits_test import CONFIGS

NAMES = ("llama_untied", "mistral", "qwen2_tied", "qwen3", "qwen3_moe", "gemma2", "gemma3",
         "smollm3")
# Those that transformers has for token classification.
STEP_NAMES = ("llama_untied", "mistral", "qwen2_tied", "qwen3", "qwen3_moe", "gemma2", "smollm3")
PAD = 0


@pytest.mark.parametrize("name", NAMES)
def test_rewards_are_those_of_transformers(name, tmp_path):
  config = CONFIGS[name]
  fields = config.to_dict() | dict(num_labels=1, pad_token_id=PAD)
  torch.manual_seed(0)
  reference = transformers.AutoModelForSequenceClassification.from_config(
      type(config)(**fields)).eval()
  reference.save_pretrained(tmp_path)
  WordTokenizer.from_words([f"w{i}" for i in range(40)]).save(tmp_path)
  tokens = np.random.default_rng(0).integers(5, 44, (3, 12)).astype(np.int32)
  mask = np.arange(12) < np.array([[12], [7], [1]])
  tokens[~mask] = PAD
  with torch.no_grad():
    expected = reference(
        torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int))).logits[:, 0].numpy()
  ours, params, _ = weights.load_scalar_model(tmp_path)
  hidden = models.forward(ours, params["trunk"], tokens, mask)
  got = models.reward_of_rows(params["value_head"], hidden, mask)
  assert np.ptp(expected) > 0.01
  np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_transformers_reads_what_is_saved(name, tmp_path):
  """All its rewards are lower by the bias, which it does not have."""
  reference = CONFIGS[name]
  reference.save_pretrained(tmp_path / "config")
  config = families.config_from_hf(json.loads((tmp_path / "config/config.json").read_text()))
  random = np.random.default_rng(0)
  tree = {"trunk": models.abstract_params(config),
          "value_head": {"kernel": np.zeros(config.width), "bias": np.zeros(())}}
  params = jax.tree.map(lambda x: 0.3 * random.standard_normal(x.shape, np.float32), tree)
  tokenizer = WordTokenizer.from_words([f"w{i}" for i in range(40)])
  weights.save_scalar_model(tmp_path / "saved", config, params, tokenizer)
  theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
      tmp_path / "saved", dtype=torch.float32).eval()
  tokens = random.integers(5, 44, (3, 12)).astype(np.int32)
  mask = np.arange(12) < np.array([[12], [7], [1]])
  tokens[~mask] = tokenizer.pad_id
  with torch.no_grad():
    got = theirs(
        torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int))).logits[:, 0].numpy()
  hidden = models.forward(config, params["trunk"], tokens, mask)
  expected = models.reward_of_rows(params["value_head"], hidden, mask)
  assert np.ptp(expected) > 0.01
  np.testing.assert_allclose(got + params["value_head"]["bias"], expected, atol=1e-4)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("name", STEP_NAMES)
def test_transformers_reads_process_reward_models(name, classes, tmp_path):
  """The softmax of its labels is the sigmoid of the score, at every token."""
  reference = CONFIGS[name]
  reference.save_pretrained(tmp_path / "config")
  config = families.config_from_hf(json.loads((tmp_path / "config/config.json").read_text()))
  random, shape = np.random.default_rng(0), () if classes == 1 else (classes,)
  tree = {"trunk": models.abstract_params(config), "value_head": {
      "kernel": np.zeros((config.width, *shape)), "bias": np.zeros(shape)}}
  params = jax.tree.map(lambda x: 0.3 * random.standard_normal(x.shape, np.float32), tree)
  tokenizer = WordTokenizer.from_words([f"w{i}" for i in range(40)])
  weights.save_process_model(tmp_path / "saved", config, params, tokenizer)
  theirs = transformers.AutoModelForTokenClassification.from_pretrained(
      tmp_path / "saved", dtype=torch.float32).eval()
  tokens = random.integers(5, 44, (3, 12)).astype(np.int32)
  with torch.no_grad():
    got = torch.softmax(theirs(torch.tensor(tokens)).logits, dim=-1).numpy()
  hidden = models.forward(config, params["trunk"], tokens, np.ones(tokens.shape, bool))
  scores = losses.step_log_odds(models.apply_value_head(params["value_head"], hidden), classes)
  assert np.ptp(scores) > 0.01
  np.testing.assert_allclose(1 - got[..., 0], jax.nn.sigmoid(scores), atol=1e-4)
  _, again, _ = weights.load_scalar_model(tmp_path / "saved", labels=weights.STEP_LABELS)
  jax.tree.map(np.testing.assert_array_equal, again["value_head"], params["value_head"])
