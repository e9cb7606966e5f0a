"""Trunks with a scalar head: reward models of transformers, and language models to start from."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from rlreason import models, weights
from rlreason.tokenizers import WordTokenizer
from tests import tiny_families

CONFIG = dataclasses.replace(tiny_families.CONFIGS["qwen2"], tie_embeddings=False)


def make_params():
  random = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: random.standard_normal(x.shape).astype(np.float32),
      models.abstract_params(CONFIG))


@pytest.fixture(name="folder")
def folder_fixture(tmp_path):
  """A language model with an output matrix of its own."""
  words = [f"w{i}" for i in range(9)]
  weights.save_model(tmp_path / "model", CONFIG, make_params(), WordTokenizer.from_words(words))
  return tmp_path / "model"


def make_reward_model(folder, score):
  """As transformers writes a model for sequence classification."""
  file = folder / "model.safetensors"
  tensors = safetensors_numpy.load_file(file)
  tensors.pop("lm_head.weight", None)
  safetensors_numpy.save_file(tensors | {"score.weight": score}, file)
  config = json.loads((folder / "config.json").read_text())
  config["architectures"] = ["Qwen2ForSequenceClassification"]
  (folder / "config.json").write_text(json.dumps(config))


def test_a_reward_model_brings_its_head(folder):
  score = np.random.default_rng(1).standard_normal((1, CONFIG.width)).astype(np.float32)
  make_reward_model(folder, score)
  config, params, _ = weights.load_scalar_model(folder)
  np.testing.assert_array_equal(params["value_head"]["kernel"], score[0])
  assert params["value_head"]["bias"] == 0
  assert config == dataclasses.replace(CONFIG, tie_embeddings=True)
  trunk = {name: node for name, node in make_params().items() if name != "lm_head"}
  jax.tree.map(np.testing.assert_array_equal, params["trunk"], trunk)


def test_a_language_model_gets_a_head_of_zeros_and_leaves_its_output_matrix(folder):
  config, params, _ = weights.load_scalar_model(folder)
  assert not np.any(params["value_head"]["kernel"])
  assert jax.tree.structure(params["trunk"]) == jax.tree.structure(models.abstract_params(config))


def test_several_labels_and_other_tensors_are_refused(folder):
  make_reward_model(folder, np.zeros((2, CONFIG.width), np.float32))
  with pytest.raises(ValueError, match="score.weight: got the shape .2, .* a head of one label"):
    weights.load_scalar_model(folder)
  with pytest.raises(ValueError, match="missing tensors .*lm_head.* unknown tensors .*score"):
    weights.load_model(folder)


@pytest.mark.parametrize("tensors, message", [
    ({"score.weight": np.zeros((1, CONFIG.width), np.int32)}, "score.weight is stored as I32"),
    ({"score.bias": np.zeros((), np.float32)}, r"score.bias: got the shape \(\), allowed: \(1,\)"),
    ({"score.bias": np.zeros(1)}, "score.bias is stored as F64, allowed: F32")])
def test_a_head_that_cannot_be_read_is_refused(folder, tensors, message):
  make_reward_model(folder, np.zeros((1, CONFIG.width), np.float32))
  file = folder / "model.safetensors"
  safetensors_numpy.save_file(safetensors_numpy.load_file(file) | tensors, file)
  with pytest.raises(ValueError, match=message):
    weights.load_scalar_model(folder)


def test_what_is_saved_is_loaded_again_with_its_bias(folder, tmp_path):
  config, params, tokenizer = weights.load_scalar_model(folder)
  random = np.random.default_rng(2)
  head = {"kernel": random.standard_normal(config.width).astype(np.float32),
          "bias": np.float32(0.25)}
  params = params | {"value_head": head}
  weights.save_scalar_model(tmp_path / "saved", config, params, tokenizer)
  again_config, again, _ = weights.load_scalar_model(tmp_path / "saved")
  assert again_config == config
  jax.tree.map(np.testing.assert_array_equal, again, params)
  fields = json.loads((tmp_path / "saved" / "config.json").read_text())
  assert fields["architectures"] == ["Qwen2ForSequenceClassification"]
  assert fields["id2label"] == {"0": "reward"}
  stored = safetensors_numpy.load_file(tmp_path / "saved" / "model.safetensors")
  assert stored["score.weight"].shape == (1, config.width) and "lm_head.weight" not in stored


def make_process_model(folder, score, bias=None):
  """As transformers writes a model for token classification."""
  make_reward_model(folder, score)
  file = folder / "model.safetensors"
  if bias is not None:
    safetensors_numpy.save_file(
        safetensors_numpy.load_file(file) | {"score.bias": np.float32(bias)}, file)


def test_two_labels_are_a_score_and_three_are_classes(folder):
  score = np.random.default_rng(1).standard_normal((3, CONFIG.width)).astype(np.float32)
  make_process_model(folder, score[:2], [1.0, 4.0])
  _, params, _ = weights.load_scalar_model(folder, labels=weights.STEP_LABELS)
  np.testing.assert_allclose(params["value_head"]["kernel"], score[1] - score[0])
  assert params["value_head"]["bias"] == 3.0
  make_process_model(folder, score, [1.0, 4.0, 2.0])
  _, params, _ = weights.load_scalar_model(folder, labels=weights.STEP_LABELS)
  np.testing.assert_array_equal(params["value_head"]["kernel"], score.T)
  np.testing.assert_array_equal(params["value_head"]["bias"], [1.0, 4.0, 2.0])
  with pytest.raises(ValueError, match="score.weight: got the shape .3, .* a head of one label"):
    weights.load_scalar_model(folder)
  make_process_model(folder, np.zeros((4, CONFIG.width), np.float32))
  with pytest.raises(ValueError, match="got the shape .4, .* a head of 1, 2, 3 labels"):
    weights.open_scalar_model(folder, weights.STEP_LABELS)


@pytest.mark.parametrize("classes", [1, 3])
def test_process_models_that_are_saved_are_loaded_again(classes, folder, tmp_path):
  config, params, tokenizer = weights.load_scalar_model(folder)
  random, shape = np.random.default_rng(2), () if classes == 1 else (classes,)
  params = params | {"value_head": {
      "kernel": random.standard_normal((config.width, *shape)).astype(np.float32),
      "bias": random.standard_normal(shape).astype(np.float32)}}
  weights.save_process_model(tmp_path / "saved", config, params, tokenizer)
  again_config, again, _ = weights.load_scalar_model(
      tmp_path / "saved", labels=weights.STEP_LABELS)
  assert again_config == config
  jax.tree.map(np.testing.assert_array_equal, again, params)
  fields = json.loads((tmp_path / "saved" / "config.json").read_text())
  assert fields["architectures"] == ["Qwen2ForTokenClassification"]
  assert list(fields["id2label"].values()) == (
      ["wrong", "right"] if classes == 1 else ["wrong", "neutral", "right"])
