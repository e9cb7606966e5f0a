"""GGUF files: every quantisation, rotary layouts, and files that are not what they should be."""

import dataclasses

import gguf
import jax
import numpy as np
import pytest

from rlreason.models import families, gguf_fields
from rlreason.models.config import LinearRopeScaling, Llama3RopeScaling, YarnRopeScaling
from rlreason.weights import load_model, stream
from rlreason.weights import gguf as ours
from tests.tiny_gguf import KINDS, TINY, gguf_tensors, random_params, write_gguf

_GEMMA = dict(families.FAMILIES["gemma2"].features)
FILES = {
    "llama": {},
    "llama_untied": {"tie_embeddings": False, "num_kv_heads": 4},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 32, "rope_scaling": YarnRopeScaling(
        2.0, 40, attention_factor=0.1 * np.log(2) + 1)},
    "qwen3moe": {"qk_norm": True, "num_experts": 3, "experts_per_token": 2},
    "gemma2": _GEMMA | {
        "sliding_window": 9, "sliding_layers": (True, False), "attention_softcap": 20.0,
        "logit_softcap": 30.0},
    "gemma3": _GEMMA | {
        "qk_norm": True, "num_layers": 6, "sliding_window": 9, "local_rope_theta": 1e4,
        "sliding_layers": (True,) * 5 + (False,), "rope_scaling": LinearRopeScaling(8.0)},
    "smollm3": {"num_layers": 4, "rope_layers": (True, True, True, False)},
}


@pytest.mark.parametrize("name", FILES)
def test_f32_file_is_read_to_the_bit(tmp_path, name):
  architecture = name.split("_")[0]
  config = dataclasses.replace(
      TINY, family=gguf_fields.ARCHITECTURES[architecture].family, **FILES[name])
  params = random_params(config)
  path = write_gguf(tmp_path / "x.gguf", config, gguf_tensors(config, params), {}, architecture)
  got_config, got, tokenizer = load_model(path)
  assert got_config == config
  # A stored value plus 1 is not bitwise exact.
  tolerance = 1e-6 if config.unit_offset_norms else 0
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=0), got, params)
  assert tokenizer.encode("abc<end>") == [8, 3, 0]


# Half a quantisation step at the largest magnitude of a block, as a share of that magnitude.
TOLERANCES = {
    KINDS.F16: 2**-11, KINDS.BF16: 2**-8, KINDS.Q8_0: 1 / 250, KINDS.Q5_0: 1 / 15,
    KINDS.Q5_1: 1 / 30, KINDS.Q4_0: 1 / 7, KINDS.Q4_1: 1 / 14,
}


@pytest.mark.parametrize("kind", TOLERANCES, ids=lambda kind: kind.name)
def test_quantised_matrices_come_back_within_a_step(tmp_path, kind):
  params = random_params(TINY)
  arrays = gguf_tensors(TINY, params)
  matrices = {name: kind for name, array in arrays.items() if array.ndim == 2}
  _, got, _ = load_model(write_gguf(tmp_path / "x.gguf", TINY, arrays, matrices))
  largest = max(np.abs(array).max() for array in arrays.values())
  for path, array in jax.tree_util.tree_leaves_with_path(params):
    wanted = np.asarray(array)
    other = got
    for part in path:
      other = other[part.key]
    np.testing.assert_allclose(other, wanted, atol=1.01 * largest * TOLERANCES[kind], rtol=0)
  assert not np.array_equal(got["layers"]["mlp"]["up"]["kernel"],
                            params["layers"]["mlp"]["up"]["kernel"])


def test_q4_k_block_by_hand():
  # 256 values in 8 groups of 32: value = d * scale * nibble - dmin * minimum. Scales and minima
  # are 6 bits; of the first four groups they are the low bits of bytes 0-3 and 4-7.
  scales, minima = [1, 2, 3, 4], [5, 6, 7, 8]
  packed = scales + minima + [0, 0, 0, 0]  # groups 4-7: scale 0, minimum 0
  nibbles = np.zeros(128, np.uint8)
  nibbles[:32] = 0x3A  # group 0: ten everywhere, group 1: three
  raw = np.concatenate([
      np.array([0.5, 0.25], np.float16).view(np.uint8), np.array(packed, np.uint8), nibbles])
  got = gguf.quants.dequantize(raw[None], KINDS.Q4_K)[0]
  np.testing.assert_array_equal(got[:32], 0.5 * 1 * 10 - 0.25 * 5)
  np.testing.assert_array_equal(got[32:64], 0.5 * 2 * 3 - 0.25 * 6)
  np.testing.assert_array_equal(got[64:96], -0.25 * 7)
  np.testing.assert_array_equal(got[128:], 0)


def test_q6_k_block_by_hand():
  # 256 values in 16 groups of 16: value = d * scale * (6 bits - 32).
  low, high = np.zeros(128, np.uint8), np.zeros(64, np.uint8)
  low[0], high[0] = 0x5, 0b10  # value 0: 0b10_0101 = 37
  scales = np.full(16, 3, np.int8)
  scales[1] = -2
  raw = np.concatenate([
      low, high, scales.view(np.uint8), np.array([0.5], np.float16).view(np.uint8)])
  got = gguf.quants.dequantize(raw[None], KINDS.Q6_K)[0]
  assert got[0] == 0.5 * 3 * (37 - 32)
  np.testing.assert_array_equal(got[1:16], 0.5 * 3 * -32)
  np.testing.assert_array_equal(got[16:32], 0.5 * -2 * -32)


BLOCKS = [kind for kind in KINDS if ours.can_dequantise(kind)]


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.name)
def test_every_kind_of_block_arrives_where_it_belongs(tmp_path, kind):
  """Random blocks of whole rows instead of one matrix, read in pieces."""
  config = dataclasses.replace(TINY, width=256, mlp_width=256, head_dim=64)
  block, size = gguf.GGML_QUANT_SIZES[kind]
  raw = np.random.default_rng(0).integers(0, 60, (256, 256 // block * size), np.uint8)
  name = "blk.1.ffn_gate.weight"
  arrays = gguf_tensors(config, random_params(config)) | {name: raw}
  reader = gguf.GGUFReader(write_gguf(tmp_path / "x.gguf", config, arrays, {name: kind}))
  metadata = {k: f.contents() for k, f in reader.fields.items()}
  config, entries, read = ours.open_model(reader, metadata, tmp_path / "x.gguf")
  params = stream.load_params(config, entries, read, np.dtype("float32"), piece_elements=5000)
  gate = params["layers"]["mlp"]["gate"]["kernel"][1]
  np.testing.assert_array_equal(gate, gguf.quants.dequantize(raw, kind).T)


@pytest.mark.parametrize("kind", [KINDS.BF16, KINDS.F16, KINDS.Q8_0, KINDS.Q4_0],
                         ids=lambda kind: kind.name)
def test_vectors_may_be_stored_as_matrices_are(tmp_path, kind):
  arrays = gguf_tensors(TINY, random_params(TINY))
  name = "blk.1.attn_norm.weight"
  _, got, _ = load_model(write_gguf(tmp_path / "x.gguf", TINY, arrays, {name: kind}))
  wanted = gguf.quants.dequantize(gguf.quants.quantize(arrays[name], kind), kind)
  np.testing.assert_array_equal(got["layers"]["attention_norm"]["scale"][1], wanted)


def test_nothing_that_users_have_is_missing():
  """Every type with a name in llama.cpp's list of quantisations."""
  assert {kind.name for kind in BLOCKS} >= {
      "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
      "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL",
      "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4"}


def test_llama_3_rope_scaling_is_recognised(tmp_path):
  arrays = gguf_tensors(TINY, random_params(TINY))
  exponents = np.arange(0, 16, 2) / 16
  turns = 8192 / (2 * np.pi) * 5e5 ** -exponents
  kept = np.clip((turns - 1) / 3, 0, 1)
  arrays["rope_freqs.weight"] = (1 / ((1 - kept) / 32 + kept)).astype(np.float32)
  config, _, _ = load_model(write_gguf(tmp_path / "x.gguf", TINY, arrays, {}))
  assert config.rope_scaling == Llama3RopeScaling(32.0, 1.0, 4.0, 8192)
  for factors in (np.full(8, 2, np.float32), np.zeros(0, np.float32), np.ones((8, 1), np.float32)):
    arrays["rope_freqs.weight"] = factors
    with pytest.raises(ValueError, match="y.gguf: GGUF rope_freqs.weight"):
      load_model(write_gguf(tmp_path / "y.gguf", TINY, arrays, {}))


def test_wrong_tensors_are_named(tmp_path):
  arrays = gguf_tensors(TINY, random_params(TINY))
  del arrays["blk.1.ffn_up.weight"]
  arrays["blk.0.extra.weight"] = np.zeros(4, np.float32)
  with pytest.raises(ValueError, match=(
      r"missing tensors \['blk.1.ffn_up.weight'\]; unknown tensors \['blk.0.extra.weight'\]")):
    load_model(write_gguf(tmp_path / "x.gguf", TINY, arrays, {}))
  arrays = gguf_tensors(TINY, random_params(TINY)) | {"output_norm.weight": np.zeros(3, np.float32)}
  with pytest.raises(ValueError, match=r"output_norm.weight: got .* \(3,\), allowed: \(64,\)"):
    load_model(write_gguf(tmp_path / "y.gguf", TINY, arrays, {}))
  kinds = {"token_embd.weight": KINDS.I32}
  with pytest.raises(ValueError, match="token_embd.weight is stored as I32, which the gguf"):
    arrays = gguf_tensors(TINY, random_params(TINY))
    load_model(write_gguf(tmp_path / "z.gguf", TINY, arrays, kinds))


@pytest.mark.parametrize("keep", [0, 3, 100, 1000, -1])
def test_truncated_file_is_named(tmp_path, keep):
  path = write_gguf(tmp_path / "x.gguf", TINY, gguf_tensors(TINY, random_params(TINY)), {})
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(ValueError, match="x.gguf: not a whole GGUF file"):
    load_model(path)


def test_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere.gguf"):
    load_model(tmp_path / "nowhere.gguf")
