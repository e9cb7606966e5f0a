"""The real model, exported from its GGUF file: transformers reads it and says the same.

Its parameters are half a gigabyte, so that never two models are in memory, theirs and ours.
"""

import pathlib
from typing import NamedTuple

import numpy as np
import pytest
import safetensors
import torch
import transformers
from transformers import modeling_gguf_pytorch_utils

from rlreason import tokenizers, weights
from tests import compiler
from tests.parity.compare import (
    assert_same_completions, our_completions, our_logits, reference_logits)
from tests.parity.prompts import PROMPTS

MESSAGES = [
    [{"role": "user", "content": "What is 7 + 8?"}],
    [{"role": "user", "content": "Name three colours of the rainbow, and say why it is curved."}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
     {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Who are you?"}],
]
NEW_TOKENS = 20


class Ours(NamedTuple):
  """What is said here, and the folder to which the model was exported."""

  folder: pathlib.Path
  tokenizer: tokenizers.Tokenizer
  prompts: tuple[np.ndarray, np.ndarray]  # tokens and mask, padded on the left
  logits: np.ndarray  # f32[B, T, V]
  completions: list[np.ndarray]


def _chat_prompts(tokenizer):
  rows = [tokenizers.encode_prompt(tokenizer, messages) for messages in MESSAGES]
  rows += [tokenizers.encode_prompt(tokenizer, [{"role": "user", "content": text}])
           for text in PROMPTS]
  length = max(map(len, rows)) + 3
  tokens = np.full((len(rows), length), tokenizer.pad_id, np.int32)
  mask = np.zeros((len(rows), length), bool)
  for i, row in enumerate(rows):
    tokens[i, length - len(row):], mask[i, length - len(row):] = row, True
  return tokens, mask


@pytest.fixture(name="ours", scope="module")
def _ours(tmp_path_factory):
  compiler.forget()
  config, params, tokenizer = weights.load_model(weights.find_smollm2())
  folder = tmp_path_factory.mktemp("smollm2")
  weights.save_model(folder, config, params, tokenizer)
  prompts = _chat_prompts(tokenizer)
  completions = our_completions(
      config, params, *prompts, new_tokens=NEW_TOKENS, stop_ids=tokenizer.eos_ids)
  ours = Ours(folder, tokenizer, prompts, our_logits(config, params, *prompts), completions)
  del params
  compiler.forget()
  return ours


def test_gguf_reader_of_transformers_gives_the_same_tensors(ours):
  with torch.device("meta"):  # for its names
    reference = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(ours.folder))
  theirs = modeling_gguf_pytorch_utils.load_gguf_checkpoint(
      str(weights.find_smollm2()), return_tensors=True, model_to_load=reference)["tensors"]
  assert set(reference.state_dict()) - set(theirs) == {"lm_head.weight"}  # tied
  with safetensors.safe_open(ours.folder / "model.safetensors", "pt") as saved:
    assert set(saved.keys()) == set(theirs)
    for name, tensor in theirs.items():
      assert torch.equal(tensor, saved.get_tensor(name)), name


@pytest.fixture(name="reference", scope="module")
def _reference(ours):
  return transformers.AutoModelForCausalLM.from_pretrained(
      ours.folder, dtype=torch.float32).eval()


def test_logits_agree(ours, reference):
  largest = 0.0
  for tokens, mask, got in zip(*ours.prompts, ours.logits, strict=True):
    wanted = reference_logits(reference, tokens[None], mask[None])[0][mask]
    largest = max(largest, np.abs(wanted).max())
    np.testing.assert_allclose(got[mask], wanted, atol=5e-4, rtol=0)
  assert largest > 10


def test_greedy_completions_are_equal(ours, reference):
  assert_same_completions(
      reference, ours.completions, *ours.prompts, new_tokens=NEW_TOKENS,
      stop_ids=ours.tokenizer.eos_ids)
