"""Adapter folders: round trip, other spellings, and what is refused. Against `peft`: parity/."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from rlreason import weights
from rlreason.models import LoRAConfig, abstract_params, lora
from tests import tiny_families
from tests.fuzz import formats

CONFIG = dataclasses.replace(
    tiny_families.CONFIGS["qwen2"], lora=LoRAConfig(rank=3, alpha=6.0, targets=("q", "o", "down")))


@pytest.fixture(name="folder")
def folder_fixture(tmp_path):
  weights.save_adapters(tmp_path / "adapters", CONFIG, make_adapters(), base="models/base")
  return tmp_path / "adapters"


def make_adapters():
  random = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: random.standard_normal(x.shape).astype(np.float32),
      lora.split(abstract_params(CONFIG))[0])


def load(folder):
  return weights.load_adapters(folder, dataclasses.replace(CONFIG, lora=None))


def change(folder, **fields):
  file = folder / "adapter_config.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_what_is_saved_is_loaded_to_the_bit(folder):
  config, adapters = load(folder)
  assert config == CONFIG
  jax.tree.map(np.testing.assert_array_equal, adapters, make_adapters())


def test_the_layout_is_that_of_peft(folder):
  tensors = safetensors_numpy.load_file(folder / "adapter_model.safetensors")
  stem = "base_model.model.model.layers.1.self_attn.{}.weight"
  assert len(tensors) == 3 * 2 * CONFIG.num_layers
  heads = CONFIG.num_heads * CONFIG.head_dim
  q_b = tensors[stem.format("q_proj.lora_B")]
  assert q_b.shape == (heads, 3)
  assert tensors[stem.format("q_proj.lora_A")].shape == (3, CONFIG.width)
  o_a = tensors[stem.format("o_proj.lora_A")]
  assert o_a.shape == (3, heads)
  ours = make_adapters()["layers"]["attention"]
  np.testing.assert_array_equal(q_b.T.reshape(3, CONFIG.num_heads, -1), ours["q"]["lora_b"][1])
  np.testing.assert_array_equal(
      o_a.T.reshape(CONFIG.num_heads, CONFIG.head_dim, 3), ours["o"]["lora_a"][1])
  fields = json.loads((folder / "adapter_config.json").read_text())
  assert fields["target_modules"] == ["q_proj", "o_proj", "down_proj"]
  assert (fields["r"], fields["lora_alpha"], fields["base_model_name_or_path"]) == (
      3, 6.0, "models/base")


def test_rank_stabilised_adapters_have_their_scale(folder):
  change(folder, use_rslora=True)
  assert load(folder)[0].lora.scale == pytest.approx(6.0 / 3 ** 0.5)


@pytest.mark.parametrize("targets", [
    r".*\.(q_proj|o_proj|down_proj)", r"(.*.*.*.*.*.*)*x",  # which nobody may try to match
    ["self_attn.q_proj", "model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj",
     "model.layers.2.self_attn.o_proj", "mlp.down_proj"]])
def test_targets_by_pattern_and_by_path(folder, targets):
  change(folder, target_modules=targets)
  assert load(folder)[0] == CONFIG


def test_fields_that_mean_nothing_are_read_over(folder):
  change(folder, peft_version="0.99", revision="main", lora_dropout=0.1, task_type="CAUSAL_LM",
         megatron_core="megatron.core", qalora_group_size=16, auto_mapping={"parent_library": "x"},
         of_next_year=None, of_that_year={}, and_of_that=False)
  assert load(folder)[0] == CONFIG


def test_all_linear_is_every_projection(tmp_path):
  every = dataclasses.replace(CONFIG, lora=LoRAConfig(rank=3, alpha=6.0))
  adapters = jax.tree.map(
      lambda x: np.ones(x.shape, np.float32), lora.split(abstract_params(every))[0])
  weights.save_adapters(tmp_path, every, adapters)
  change(tmp_path, target_modules="all-linear")
  assert load(tmp_path)[0] == every


@pytest.mark.parametrize("fields, message", [
    (dict(peft_type="IA3"), "peft_type: got 'IA3', allowed: 'LORA'"),
    (dict(use_dora=True), "use_dora: got True, allowed: False"),
    (dict(bias="all"), "bias: got 'all', allowed: 'none'"),
    (dict(rank_pattern={"q_proj": 8}), "rank_pattern: got"),
    (dict(modules_to_save=["lm_head"]), "modules_to_save: got"),
    (dict(target_modules=["q_proj", "embed_tokens"]), "target_modules: got .*embed_tokens"),
    (dict(target_modules="all-linear"), "missing tensors .*gate_proj"),
    (dict(target_modules=""), "target_modules: got ''"),
    (dict(target_modules=["layers.1.self_attn.q_proj", "o_proj", "down_proj"]),
     "target_modules: got q_proj without model.layers.0.self_attn.q_proj, allowed: all layers"),
    (dict(target_modules=["model.layers.9.self_attn.q_proj"]), "target_modules: got .*layers.9"),
    (dict(exclude_modules=["k_proj"]), r"exclude_modules: got \['k_proj'\], allowed: 'nothing'"),
    (dict(alora_invocation_tokens=[5]), "alora_invocation_tokens: got"),
    (dict(trainable_token_indices=[5]), "trainable_token_indices: got"),
    (dict(lora_bias=True), "lora_bias: got True"),
    (dict(of_next_year={"scale": 2}), "of_next_year: got"),
    (dict(r="3"), "r, lora_alpha: got '3'"),
    (dict(r=0), "r, lora_alpha: got 0"),
    (dict(r=-1, use_rslora=True), "r, lora_alpha: got -1"),
    (dict(lora_alpha=True), "r, lora_alpha: got 3, True"),
    (dict(target_modules=[["q_proj"]]), "target_modules: got"),
    (dict(lora_alpha=float("inf")), "r, lora_alpha: got 3, inf"),
    (dict(lora_alpha=float("nan")), "r, lora_alpha: got 3, nan"),
    (dict(lora_alpha=10**400), "r, lora_alpha: got 3, 1000"),
    (dict(r=10**400, use_rslora=True), "r, lora_alpha: got 1000"),
    (dict(r=10**6), r"lora_A.weight: got the shape \(3, .*allowed: \(1000000"),
    (dict(modules_to_save="x" * 10**6), "modules_to_save: got 'xxx.{1,200}, allowed: None"),
    (dict(init_lora_weights="pissa"), "init_lora_weights: got 'pissa'"),
    (dict(r=4), r"lora_A.weight: got the shape \(3, .*allowed: \(4"),
    (dict(target_modules=["q_proj"]), "unknown tensors"),
    (dict(target_modules=["q_proj", "o_proj", "down_proj", "up_proj"]), "missing tensors")])
def test_adapters_that_are_not_ours_are_refused(folder, fields, message):
  change(folder, **fields)
  with pytest.raises(ValueError, match=message) as error:
    load(folder)
  assert str(folder) in str(error.value)


def test_damaged_and_missing_files_are_named(folder):
  file = folder / "adapter_model.safetensors"
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(ValueError, match="adapter_model.safetensors: .*cut short"):
    load(folder)
  file.unlink()
  with pytest.raises(FileNotFoundError, match="adapter_model.safetensors not found"):
    load(folder)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "I32", "U8", "BOOL"])
def test_types_that_are_no_weights_are_refused(folder, kind):
  file = folder / "adapter_model.safetensors"
  header, data = formats.read_safetensors(file.read_bytes())
  name = next(name for name in header if name.endswith("q_proj.lora_A.weight"))
  start, stop = header[name]["data_offsets"]
  values = int(np.prod(header[name]["shape"]))
  header[name]["dtype"] = kind
  if kind != "I32":  # a byte each: the others move up
    header[name]["data_offsets"] = [start, start + values]
    data = data[:start + values] + data[stop:]
    for other, tensor in header.items():
      if other not in (name, "__metadata__") and tensor["data_offsets"][0] >= stop:
        tensor["data_offsets"] = [place - 3 * values for place in tensor["data_offsets"]]
  file.write_bytes(formats.write_safetensors(json.dumps(header).encode(), data))
  with pytest.raises(ValueError, match=f"q_proj.lora_A.weight is stored as {kind}, allowed: F32"):
    load(folder)


def test_bfloat16_and_half_adapters_are_read(folder):
  file = folder / "adapter_model.safetensors"
  tensors = safetensors_numpy.load_file(file)
  for dtype in (np.float16, ml_dtypes.bfloat16):
    stored = {name: array.astype(dtype) for name, array in tensors.items()}
    safetensors_numpy.save_file(stored, file)
    _, adapters = load(folder)
    wanted = make_adapters()["layers"]["mlp"]["down"]["lora_a"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(adapters["layers"]["mlp"]["down"]["lora_a"], wanted)


def test_values_that_are_not_finite_are_named(folder, caplog):
  file = folder / "adapter_model.safetensors"
  tensors = safetensors_numpy.load_file(file)
  name = sorted(tensors)[3]
  tensors[name][0, 1] = np.inf
  safetensors_numpy.save_file(tensors, file)
  with caplog.at_level("WARNING"):
    load(folder)
  assert f"NaN or infinite values in 1 of {len(tensors)} tensors: {name}" in caplog.text


def test_adapters_of_another_model_are_refused(folder):
  other = dataclasses.replace(CONFIG, num_layers=CONFIG.num_layers + 1)
  with pytest.raises(ValueError, match="adapter_model.safetensors: missing tensors"):
    weights.load_adapters(folder, other)
