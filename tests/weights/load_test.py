"""Whole Hugging Face folders, written and read."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from rlreason import models, weights
from rlreason.models.config import ModelConfig
from rlreason.tokenizers import WordTokenizer
from rlreason.weights import safetensors
from tests.tiny_families import CONFIGS
from tests.tracking_test import recorded

TINY = ModelConfig(
    vocab_size=9, width=10, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=6, mlp_width=20,
    max_positions=77)
VARIANTS = {name: dataclasses.replace(config, vocab_size=9) for name, config in CONFIGS.items()}
TOKENIZER = WordTokenizer.from_words("abcdef")


@functools.cache
def _params(config):
  """Random everywhere, norms and biases too; host arrays."""
  random = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: random.normal(size=x.shape).astype(x.dtype), models.abstract_params(config))


def _assert_same(got, wanted):
  assert jax.tree.structure(got) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    assert a.dtype == b.dtype
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("limit", [10**9, 700])
def test_round_trip_keeps_every_bit(tmp_path, config, dtype, limit):
  config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
  params = _params(config)
  weights.save_model(tmp_path, config, params, TOKENIZER, max_shard_bytes=limit)
  assert (tmp_path / "model.safetensors").exists() == (limit > 700)
  got_config, got, tokenizer = weights.load_model(tmp_path, dtype=dtype)
  assert got_config == config
  _assert_same(got, params)
  assert tokenizer.encode("a c<eos>") == [2, 4, 1] and tokenizer.eos_ids == (1,)


@pytest.mark.parametrize("limit", [10**9, 700])
def test_loading_and_writing_tell_how_many_bytes_are_done(tmp_path, limit):
  folder, copy = tmp_path / "model", tmp_path / "copy"
  size = 4 * sum(x.size for x in jax.tree.leaves(_params(TINY)))
  with recorded() as recorder:
    weights.save_model(folder, TINY, _params(TINY), TOKENIZER, max_shard_bytes=limit)
    weights.load_model(folder)
    weights.load_model(folder, dtype="bfloat16")
    weights.convert(folder, copy, dtype="float16", max_shard_bytes=limit)
  assert [(name, total, unit, sum(done)) for name, total, unit, done in recorder.works] == [
      ("writing model", size, "B", size), ("loading model", size, "B", size),
      ("loading model", size // 2, "B", size // 2), ("writing copy", size // 2, "B", size // 2)]


@pytest.mark.parametrize("value, dtype", [
    (np.nan, "float32"), (np.inf, "bfloat16"), (-np.inf, "float16")])
def test_values_that_are_not_finite_are_named_once(tmp_path, caplog, value, dtype):
  weights.save_model(tmp_path, TINY, _params(TINY), TOKENIZER, dtype=dtype)
  tensors = safetensors_numpy.load_file(tmp_path / "model.safetensors")
  for name, place in (("model.norm.weight", 3), ("model.layers.1.mlp.up_proj.weight", (7, 2))):
    tensors[name][place] = value
  safetensors_numpy.save_file(tensors, tmp_path / "model.safetensors")
  with caplog.at_level("WARNING"):
    weights.load_model(tmp_path)
  (record,) = caplog.records
  assert record.getMessage().startswith(f"{tmp_path}: NaN or infinite values in 2 of 29 tensors")
  assert record.getMessage().endswith(": model.layers.1.mlp.up_proj.weight, model.norm.weight")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, ">f4"])
def test_large_and_small_values_are_finite(dtype):
  limits = ml_dtypes.finfo(dtype)
  values = np.array([limits.max, limits.min, limits.tiny, limits.smallest_subnormal, 0], dtype)
  assert safetensors.is_finite(values) and safetensors.is_finite(values[:0])
  for value in (np.nan, np.inf, -np.inf):
    assert not safetensors.is_finite(np.array([1, value, 2], dtype))


def test_written_files(tmp_path):
  weights.save_model(tmp_path / "new" / "folder", TINY, _params(TINY), TOKENIZER)
  files = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
  assert files == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                   "tokenizer_config.json", "special_tokens_map.json"}
  read = lambda name: json.loads((tmp_path / "new" / "folder" / name).read_text())
  assert read("generation_config.json") == {
      "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
  assert read("config.json")["torch_dtype"] == "float32"
  assert read("config.json")["eos_token_id"] == 1


def test_types(tmp_path):
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _params(TINY))
  weights.save_model(tmp_path, TINY, params, TOKENIZER)
  config, got, _ = weights.load_model(tmp_path)  # float32 by default
  assert (config.param_dtype, config.dtype) == ("float32", "float32")
  _assert_same(got, jax.tree.map(lambda x: x.astype(jnp.float32), params))
  config, got, _ = weights.load_model(tmp_path, dtype=None, compute_dtype="float32")
  assert (config.param_dtype, config.dtype) == ("bfloat16", "float32")
  _assert_same(got, params)
  with pytest.raises(ValueError, match="dtype: got 'float16', allowed: float32, bfloat16"):
    weights.load_model(tmp_path, dtype="float16")


def test_parameters_go_where_they_are_told(tmp_path):
  weights.save_model(tmp_path, TINY, _params(TINY), TOKENIZER)
  device = jax.devices()[-1]
  _, params, _ = weights.load_model(tmp_path, sharding=device)
  assert {leaf.device for leaf in jax.tree.leaves(params)} == {device}


def test_convert_to_a_type(tmp_path):
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _params(TINY))
  weights.save_model(tmp_path / "a", TINY, params, TOKENIZER)
  weights.convert(tmp_path / "a", tmp_path / "b", dtype="float32")
  assert weights.load_model(tmp_path / "b", dtype=None)[0].param_dtype == "float32"
  assert json.loads((tmp_path / "b" / "config.json").read_text())["torch_dtype"] == "float32"
  weights.convert(tmp_path / "b", tmp_path / "c", dtype="bfloat16")
  _assert_same(weights.load_model(tmp_path / "c", dtype=None)[1], params)
  with pytest.raises(ValueError, match="destination: got the source"):
    weights.convert(tmp_path / "a", tmp_path / "b" / ".." / "a")
  with pytest.raises(ValueError, match="dtype: got 'int8', allowed: float32, float16, bfloat16"):
    weights.convert(tmp_path / "a", tmp_path / "d", dtype="int8")
  large = jax.tree.map(lambda x: x * 1e5, params)
  with pytest.raises(ValueError, match="got values beyond 65504, .*, the largest of float16"):
    weights.save_model(tmp_path / "d", TINY, large, TOKENIZER, dtype="float16")
  assert {path.name for path in (tmp_path / "d").iterdir()} == set()


def _stored(folder):
  """Every tensor of a folder: name -> (type, shape, bytes), read by the safetensors package."""
  found = {}
  for path in folder.glob("*.safetensors"):
    found |= {name: (array.dtype, array.shape, array.tobytes())
              for name, array in safetensors_numpy.load_file(path).items()}
  return found


def _as_stored(folder, types, limit=10**9):
  """Writes a folder anew with the types that `types` cycles through, as a publisher might."""
  random = np.random.default_rng(1)
  with safetensors.Checkpoint(folder) as checkpoint:
    arrays = {name: random.normal(size=checkpoint.shape(name)).astype(types[i % len(types)])
              for i, name in enumerate(checkpoint.names)}
  tensors = {name: safetensors.Stored(safetensors.KINDS[str(array.dtype)], array.shape)
             for name, array in arrays.items()}
  safetensors.write(folder, tensors, lambda name: [arrays[name]], max_shard_bytes=limit)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("types", [["float32"], ["float16"], ["bfloat16"], [
    "float32", "bfloat16", "float16"]], ids="-".join)
def test_convert_keeps_every_bit_of_every_type(tmp_path, config, types):
  weights.save_model(tmp_path / "a", config, _params(config), TOKENIZER)
  limit = 700 if len(types) > 1 else 10**9
  _as_stored(tmp_path / "a", types, limit)
  wanted = _stored(tmp_path / "a")
  for name, limit in (("one", 10**9), ("shards", 700)):
    weights.convert(tmp_path / "a", tmp_path / name, max_shard_bytes=limit)
    assert _stored(tmp_path / name) == wanted
    assert (tmp_path / name / "model.safetensors").exists() == (name == "one")
  read = lambda name: (tmp_path / name / "config.json").read_text()
  assert json.loads(read("shards")) == json.loads(read("a"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_loaded_and_saved_weights_keep_every_bit(tmp_path, dtype):
  weights.save_model(tmp_path / "a", TINY, _params(TINY), TOKENIZER)
  _as_stored(tmp_path / "a", [dtype])
  weights.save_model(tmp_path / "b", *weights.load_model(tmp_path / "a", dtype=None), dtype=dtype)
  assert _stored(tmp_path / "b") == _stored(tmp_path / "a")
  assert json.loads((tmp_path / "b" / "config.json").read_text())["torch_dtype"] == dtype


def test_convert_keeps_the_files_of_a_folder(tmp_path):
  source, copy = tmp_path / "a", tmp_path / "b"
  weights.save_model(source, TINY, _params(TINY), TOKENIZER)
  kept = {
      "generation_config.json": {"eos_token_id": [1, 3], "temperature": 0.6, "top_p": 0.95},
      "special_tokens_map.json": {"eos_token": {"content": "<eos>", "lstrip": False}},
      "added_tokens.json": {"<eos>": 1}}
  for name, fields in kept.items():
    (source / name).write_text(json.dumps(fields))
  (source / "chat_template.jinja").write_text("{{ messages[0].content }}")
  (source / "tokenizer.model").write_bytes(b"as it is")
  (source / "modeling_own.py").write_text("raise SystemExit")
  code = {"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}
  _configure(source, **code, initializer_range=0.3)
  _configure(source, "tokenizer_config.json", **code, model_max_length=77)
  weights.convert(source, copy)
  for name in (*kept, "chat_template.jinja", "tokenizer.model", "tokenizer.json"):
    assert (copy / name).read_bytes() == (source / name).read_bytes(), name
  for name in ("config.json", "tokenizer_config.json"):
    fields = json.loads((source / name).read_text())
    del fields["auto_map"]
    assert json.loads((copy / name).read_text()) == fields
  assert not (copy / "modeling_own.py").exists()
  assert weights.load_model(copy)[2].chat_template == "{{ messages[0].content }}"


@pytest.fixture(name="folder")
def _folder(tmp_path):
  weights.save_model(tmp_path, TINY, _params(TINY), TOKENIZER)
  return tmp_path


def _edit(folder, **changes):
  """Adds tensors to model.safetensors, or removes those that are None."""
  path = folder / "model.safetensors"
  arrays = safetensors_numpy.load_file(path) | changes
  arrays = {name: array for name, array in arrays.items() if array is not None}
  safetensors_numpy.save_file(arrays, path, metadata={"format": "pt"})


def _configure(folder, file="config.json", **changes):
  path = folder / file
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_missing_and_unknown_tensors_are_listed(folder):
  _edit(folder, **{"model.norm.weight": None, "model.layers.2.mlp.up_proj.weight": None,
                   "model.layers.0.self_attn.q_proj.bias": np.zeros(24, np.float32)})
  with pytest.raises(ValueError, match=(
      r"missing tensors \['model.layers.2.mlp.up_proj.weight', 'model.norm.weight'\]; "
      r"unknown tensors \['model.layers.0.self_attn.q_proj.bias'\]")):
    weights.load_model(folder)


def test_wrong_shapes_and_types_are_named(folder):
  name = "model.layers.1.self_attn.k_proj.weight"
  _edit(folder, **{name: np.zeros((10, 12), np.float32)})  # transposed
  with pytest.raises(ValueError, match=rf"{name}: got the shape \(10, 12\), allowed: \(12, 10\)"):
    weights.load_model(folder)
  _edit(folder, **{name: np.zeros((12, 10), np.int8)})
  with pytest.raises(ValueError, match=f"{name} is stored as I8, allowed: F32, F16, BF16"):
    weights.load_model(folder)
  _edit(folder, **{name: np.ones((12, 10), np.float16)})
  _, params, _ = weights.load_model(folder)
  assert params["layers"]["attention"]["k"]["kernel"][1].sum() == 120


def test_old_rotary_buffers_are_ignored(folder):
  _edit(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32)})
  _assert_same(weights.load_model(folder)[1], _params(TINY))


@pytest.mark.parametrize("buffer, message", [
    (np.ones(3), "inv_freq is stored as F64, allowed: F32"),
    (np.ones((), np.float32), r"inv_freq: got the shape \(\), allowed: one axis")])
def test_buffers_that_cannot_be_copied_are_refused(folder, tmp_path, buffer, message):
  _edit(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": buffer})
  with pytest.raises(ValueError, match=message):
    weights.convert(folder, tmp_path / "copy")
  assert not (tmp_path / "copy").exists()


def test_tied_output_matrix_that_is_stored_as_well(folder):
  embedding = np.asarray(_params(TINY)["embed"]["embedding"])
  _edit(folder, **{"lm_head.weight": embedding})
  _assert_same(weights.load_model(folder)[1], _params(TINY))
  _edit(folder, **{"lm_head.weight": embedding + 1})
  with pytest.raises(ValueError, match="lm_head.weight differs from model.embed_tokens.weight"):
    weights.load_model(folder)
  _configure(folder, tie_word_embeddings=False)
  np.testing.assert_array_equal(
      weights.load_model(folder)[1]["lm_head"]["kernel"], embedding.T + 1)


def test_untied_model_needs_its_output_matrix(folder):
  _configure(folder, tie_word_embeddings=False)
  with pytest.raises(ValueError, match=r"missing tensors \['lm_head.weight'\]"):
    weights.load_model(folder)


def test_pickles_are_refused(folder):
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
  with pytest.raises(ValueError, match="pytorch_model.bin is a pickled checkpoint"):
    weights.load_model(folder)
  with pytest.raises(ValueError, match="model.pt is a pickled checkpoint"):
    weights.load_model(folder / "model.pt")


def test_missing_and_unsupported_files_are_named(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match="no model at .*nowhere; expected a folder"):
    weights.load_model(tmp_path / "nowhere")
  _configure(folder, model_type="mamba")
  with pytest.raises(ValueError, match="model_type: got 'mamba', allowed: llama, mistral, qwen2"):
    weights.load_model(folder)
  (folder / "config.json").unlink()
  with pytest.raises(FileNotFoundError, match="config.json not found"):
    weights.load_model(folder)


def test_tokenizer_may_have_more_tokens_than_the_embedding_rows(folder):
  WordTokenizer.from_words("abcdefgh").save(folder)
  config, _, tokenizer = weights.load_model(folder)
  assert (config.vocab_size, tokenizer.vocab_size, tokenizer.num_rows) == (9, 10, 9)
  assert tokenizer.encode("a g") == [2, 8]
  with pytest.raises(ValueError, match=(
      r"text: got 'a h' with the token 'h' \(id 9\), allowed: tokens .*, ids below 9")):
    tokenizer.encode("a h")


def test_a_model_is_written_however_it_is_computed_and_whatever_its_tokenizer_leaves_out(tmp_path):
  """An embedding of a round size, a kind of attention: of the tokenizer and of the run."""
  model = dataclasses.replace(
      TINY, num_tokens=8, attention="xla", remat="dots", unroll=3, dtype="bfloat16")
  weights.save_model(tmp_path, model, _params(TINY), TOKENIZER)
  config, params, _ = weights.load_model(tmp_path)
  assert config == TINY
  _assert_same(params, _params(TINY))


def test_end_and_padding_tokens_have_rows(folder):
  tokenizer = WordTokenizer.from_words("abcdefghi")
  dataclasses.replace(tokenizer, eos_ids=(10, 3, 1), pad_id=9).save(folder)
  _, _, tokenizer = weights.load_model(folder)
  assert (tokenizer.eos_ids, tokenizer.pad_id) == ((3, 1), 3)
  dataclasses.replace(tokenizer, eos_ids=(10,)).save(folder)
  for name in ("generation_config.json", "config.json"):
    _configure(folder, name, eos_token_id=None)
  with pytest.raises(ValueError, match=r"end tokens: got the ids \(10,\), allowed: .* below 9"):
    weights.load_model(folder)


def test_wrong_parameters_are_not_written(tmp_path):
  params = _params(TINY) | {"value_head": {"kernel": np.zeros(3)}}
  del params["final_norm"]
  with pytest.raises(ValueError, match=(
      r"missing \['final_norm/scale'\]; unknown \['value_head/kernel'\]")):
    weights.save_model(tmp_path, TINY, params, TOKENIZER)
  params = _params(TINY) | {"final_norm": {"scale": np.zeros(3, ml_dtypes.bfloat16)}}
  with pytest.raises(ValueError, match="final_norm/scale: got the shape .*, allowed: "):
    weights.save_model(tmp_path, TINY, params, TOKENIZER)
  assert not (tmp_path / "config.json").exists()  # an unfinished folder does not look finished
