"""The real model, exported from its GGUF file: transformers reads it and says the same."""

import numpy as np
import pytest
import torch
import transformers
from transformers import modeling_gguf_pytorch_utils

from rlreason import tokenizers, weights
from tests.parity.compare import greedy_completions, our_logits, reference_logits
from tests.parity.prompts import PROMPTS

MESSAGES = [
    [{"role": "user", "content": "What is 7 + 8?"}],
    [{"role": "user", "content": "Name three colours of the rainbow, and say why it is curved."}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
     {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Who are you?"}],
]
NEW_TOKENS = 20


@pytest.fixture(name="model", scope="module")
def _model():
  return weights.load_model(weights.find_smollm2())


@pytest.fixture(name="folder", scope="module")
def _folder(model, tmp_path_factory):
  folder = tmp_path_factory.mktemp("smollm2")
  weights.save_model(folder, *model)
  return folder


@pytest.fixture(name="reference", scope="module")
def _reference(folder):
  return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(name="prompts", scope="module")
def _prompts(model):
  """Chat prompts, padded on the left: tokens and mask."""
  _, _, tokenizer = model
  rows = [tokenizers.encode_prompt(tokenizer, messages) for messages in MESSAGES]
  rows += [tokenizers.encode_prompt(tokenizer, [{"role": "user", "content": text}])
           for text in PROMPTS]
  length = max(map(len, rows)) + 3
  tokens = np.full((len(rows), length), tokenizer.pad_id, np.int32)
  mask = np.zeros((len(rows), length), bool)
  for i, row in enumerate(rows):
    tokens[i, length - len(row):], mask[i, length - len(row):] = row, True
  return tokens, mask


def test_logits_agree(model, reference, prompts):
  config, params, _ = model
  tokens, mask = prompts
  got = our_logits(config, params, tokens, mask)[mask]
  wanted = reference_logits(reference, tokens, mask)[mask]
  assert np.abs(wanted).max() > 10
  np.testing.assert_allclose(got, wanted, atol=5e-4, rtol=0)


def test_greedy_completions_are_equal(model, reference, prompts):
  config, params, tokenizer = model
  tokens, mask = prompts
  greedy_completions(
      reference, config, params, tokens, mask, new_tokens=NEW_TOKENS, stop_ids=tokenizer.eos_ids)


def test_gguf_reader_of_transformers_gives_the_same_tensors(reference):
  theirs = modeling_gguf_pytorch_utils.load_gguf_checkpoint(
      str(weights.find_smollm2()), return_tensors=True, model_to_load=reference)["tensors"]
  ours = reference.state_dict()
  assert set(ours) - set(theirs) == {"lm_head.weight"}  # tied
  for name, tensor in theirs.items():
    np.testing.assert_array_equal(np.asarray(tensor), ours[name].numpy(), err_msg=name)
