"""Damaged and mismatched files: refused by name, before a parameter is made, and no code is run."""

import json
import os
import pathlib
import pickle
import struct

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from rlreason import main, weights
from rlreason.models.config import ModelConfig
from rlreason.tokenizers import WordTokenizer
from rlreason.tokenizers.load import load_tokenizer
from rlreason.weights import safetensors, stream
from tests.fuzz import formats
from tests.fuzz.formats import Typed
from tests.tiny_gguf import TINY as TINY_GGUF
from tests.tiny_gguf import gguf_tensors, random_params, write_gguf

TINY = ModelConfig(
    vocab_size=9, width=10, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=6, mlp_width=20,
    max_positions=77)
Q = "model.layers.0.self_attn.q_proj.weight"
SHARD = "model-00002-of-"
CONFIG, TOKENIZER, SETTINGS = "config.json", "tokenizer.json", "tokenizer_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def _nothing_is_built(monkeypatch):
  def fail(*_, **__):
    raise AssertionError("parameters are made of a file that is not whole")

  monkeypatch.setattr(stream, "load_params", fail)
  for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
               "TF_CPP_MIN_LOG_LEVEL"):  # which the command line sets
    monkeypatch.setenv(name, "")


def _folder(path, sharded=False):
  weights.save_model(path, TINY, random_params(TINY), WordTokenizer.from_words("abcdef"),
                     max_shard_bytes=2000 if sharded else 10**9)
  return path


def _assert_refused(capsys, path, *expected):
  """By the library with a message that names `expected`; by the commands in one line."""
  with pytest.raises((ValueError, FileNotFoundError)) as caught:
    weights.load_model(path)
  for text in (str(path), *expected):
    assert text in str(caught.value)
  assert "\n" not in str(caught.value)
  copy = path.with_name("refused")
  for argv in (["convert", f"--source={path}", f"--destination={copy}"],
               ["sample", f"--model={path}", "--prompt=a"]):
    code = main.main(argv)
    out, err = capsys.readouterr()
    assert (code, out) == (main.EXIT_USER, "")
    assert err.startswith("rlreason: ") and err.count("\n") == 1
    assert all(text in err for text in (path.name, *expected))
  assert not copy.exists()


def _write(name, content):
  """Damage: a file holds something else."""
  def damage(folder):
    path = folder / name
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
  return damage


def _cut(name, share=0.5):
  """Damage: a file ends early."""
  def damage(folder):
    (path,) = folder.glob(name + "*")
    data = path.read_bytes()
    path.write_bytes(data[:int(share * len(data))])
  return damage


def _set(name, **fields):
  """Damage: a JSON file says something else; None removes a field."""
  def damage(folder):
    values = json.loads((folder / name).read_text()) | fields
    (folder / name).write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
  return damage


def _header(edit, length=None):
  """Damage: the header of the single file is edited, its data left alone."""
  def damage(folder):
    data = (folder / SINGLE).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    text = edit(header)
    text = json.dumps(header).encode() if text is None else text
    (folder / SINGLE).write_bytes(
        struct.pack("<Q", length or len(text)) + text + data[8 + size:])
  return damage


def _tensor(**arrays):
  """Damage: tensors are replaced."""
  def damage(folder):
    arrays_now = safetensors_numpy.load_file(folder / SINGLE) | arrays
    safetensors_numpy.save_file(arrays_now, folder / SINGLE)
  return damage


NOT_WHOLE = (SINGLE, "not a whole safetensors file")
SINGLE_FILE = {
    "empty": (_write(SINGLE, b""), *NOT_WHOLE),
    "no header": (_cut(SINGLE, 0.01), *NOT_WHOLE),
    "truncated": (_cut(SINGLE, 0.99), *NOT_WHOLE),
    "header too long": (_header(lambda h: None, length=2**62), *NOT_WHOLE),
    "header beyond the file": (_header(lambda h: None, length=10**6), *NOT_WHOLE),
    "header no JSON": (_header(lambda h: b"{garbage"), *NOT_WHOLE),
    "unknown type": (_header(lambda h: h[Q].update(dtype="F33")), *NOT_WHOLE),
    "overlap": (_header(lambda h: h[Q].update(
        data_offsets=h["model.norm.weight"]["data_offsets"])), *NOT_WHOLE),
    "outside": (_header(lambda h: h[Q].update(data_offsets=[10**6, 10**6 + 960])), *NOT_WHOLE),
    "shape and size differ": (_header(lambda h: h[Q].update(shape=[24, 11])), *NOT_WHOLE),
    "integers": (_tensor(**{Q: np.zeros((24, 10), np.int8)}), Q, "is stored as I8"),
    "doubles": (_tensor(**{Q: np.zeros((24, 10))}), Q, "is stored as F64"),
    "transposed": (_tensor(**{Q: np.zeros((10, 24), np.float32)}), Q,
                   "got the shape (10, 24), allowed: (24, 10)"),
    "other width": (_set(CONFIG, hidden_size=12), "got the shape (9, 10), allowed: (9, 12)"),
    "fewer layers": (_set(CONFIG, num_hidden_layers=1), "unknown tensors ['model.layers.1."),
    "more layers": (_set(CONFIG, num_hidden_layers=3), "missing tensors ['model.layers.2."),
    "no weights": (lambda folder: (folder / SINGLE).unlink(), "looked for " + SINGLE),
    "config truncated": (_cut(CONFIG), CONFIG, "not JSON"),
    "config binary": (_write(CONFIG, b"\xff\xfe\x00"), CONFIG, "not JSON"),
    "config nested": (_write(CONFIG, "[" * 10**5), CONFIG, "not JSON"),
    "config a list": (_write(CONFIG, "[]"), CONFIG, "got a list, allowed: an object"),
    "config without width": (_set(CONFIG, hidden_size=None), CONFIG, "hidden_size: missing"),
    "config of text": (_set(CONFIG, hidden_size="10"), CONFIG,
                       "hidden_size: got '10', allowed: a whole number"),
    "config of fractions": (_set(CONFIG, num_hidden_layers=1.5), CONFIG,
                            "num_hidden_layers: got 1.5, allowed: a whole number"),
    "config without heads": (_set(CONFIG, num_attention_heads=0), "num_heads: got 0"),
    "config of odd RoPE": (_set(CONFIG, rope_scaling={"rope_type": "linear", "factor": "2"}),
                           CONFIG, "rope_scaling factor: got '2', allowed: a positive number"),
    "config of no family": (_set(CONFIG, model_type=["llama"]), CONFIG, "model_type: got"),
    "a million layers": (
        _set(CONFIG, num_hidden_layers=10**6), "num_hidden_layers, num_experts: got [1000000]",
        "allowed: a product of at most 20, the tensors of the files"),
    "a million experts": (
        _set(CONFIG, num_experts=10**6), "num_hidden_layers, num_experts: got [2, 1000000]"),
    "more layers of experts than tensors": (
        _set(CONFIG, num_local_experts=11), "got [2, 11], allowed: a product of at most 20, the"),
    "config of a huge integer": (
        _set(CONFIG, hidden_size=10**400), CONFIG, "hidden_size: got 1000", "a whole number"),
    "config of a huge base": (
        _set(CONFIG, rope_theta=10**400), CONFIG, "rope_theta: got 1000", "a positive number"),
    "config of infinity": (
        _set(CONFIG, rms_norm_eps=float("inf")), CONFIG, "rms_norm_eps: got inf"),
    "config of a number that is 0 in f32": (
        _set(CONFIG, rms_norm_eps=1e-60), CONFIG, "rms_norm_eps: got 1e-60"),
    "config of a zero period": (
        _set(CONFIG, no_rope_layer_interval=0), CONFIG,
        "no_rope_layer_interval: got 0, allowed: a whole number above 0"),
    "config of another zero period": (
        _set(CONFIG, sliding_window_pattern=0), CONFIG, "sliding_window_pattern: got 0"),
    "config nested in a field": (
        _write(CONFIG, '{"rope_scaling": ' + "[" * 3000 + "]" * 3000 + "}"), CONFIG, "not JSON"),
    "config nested less": (
        _write(CONFIG, '{"rope_scaling": ' + "[" * 100 + "]" * 100 + "}"), CONFIG,
        "not JSON: nested more than 100 deep"),
    "config of half a character": (
        _set(CONFIG, architectures=["\ud83d"]), CONFIG, "not JSON", "surrogates not allowed"),
    "config of a long text": (
        _set(CONFIG, hidden_act="x" * 10**6), CONFIG, "hidden_act: got 'xxx",
        "xxx', allowed: silu"),
    "config of 100 MB": (
        lambda folder: os.truncate(folder / CONFIG, 10**8), CONFIG,
        "got 100000000 bytes, allowed: up to 67108864"),
    "tokenizer of 10 GB": (
        lambda folder: os.truncate(folder / TOKENIZER, 10**10), TOKENIZER,
        "got 10000000000 bytes, allowed: up to 268435456"),
    "template of 5 MB": (
        _write("chat_template.jinja", "x" * 5 * 10**6), "chat_template.jinja",
        "got 5000000 bytes, allowed: up to 4194304"),
    "RoPE of too many positions": (
        _set(CONFIG, rope_scaling={"rope_type": "dynamic", "factor": 1e30}),
        "positions, allowed: up to"),
    "RoPE whose frequencies do not range": (
        _set(CONFIG, rope_scaling={
            "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
            "original_max_position_embeddings": 64}),
        "rope_scaling high_freq_factor: got 4.0, allowed: above 4.0"),
    "RoPE scaled by the logarithm of 1": (
        _set(CONFIG, rope_theta=1.0, rope_scaling={"rope_type": "yarn", "factor": 8}),
        "rope_theta, head_dim: got 1.0, 6"),
    "8-bit floats in place of others": (
        _header(lambda h: h[Q].update(dtype="F8_E4M3", shape=[24, 40])), Q,
        "got the shape (24, 40)"),
    "template of half a character": (
        _set(SETTINGS, chat_template="\ud83d"), SETTINGS, "surrogates not allowed"),
    "tokenizer truncated": (_cut(TOKENIZER), TOKENIZER, "not a tokenizer.json"),
    "tokenizer of a version of two lines": (
        _set(TOKENIZER, version="a\nb"), TOKENIZER, "json: Unknown tokenizer version"),
    "tokenizer missing": (lambda folder: (folder / TOKENIZER).unlink(), "looked for " + TOKENIZER),
    "tokenizer.model damaged": (
        lambda folder: (_write("tokenizer.model", b"\x0a\xff\xff")(folder),
                        (folder / TOKENIZER).unlink()),
        "tokenizer.model", "not a sentencepiece model"),
    "settings truncated": (_cut(SETTINGS), SETTINGS, "not JSON"),
    "template a number": (_set(SETTINGS, chat_template=3), "chat_template: got 3"),
    "end token unknown": (_set(SETTINGS, eos_token="zzz"), "got ['zzz']"),
    "end token a text": (_set(CONFIG, eos_token_id="1"), "eos_ids: got ['1']"),
}
SHARDS = {
    "shard truncated": (_cut(SHARD, 0.9), SHARD, "not a whole safetensors file"),
    "shard missing": (lambda folder: next(folder.glob(SHARD + "*")).unlink(), SHARD, "not found"),
    "index truncated": (_cut(INDEX), INDEX, "not an index"),
    "index of other tensors": (lambda folder: _set(INDEX, weight_map={
        Q: next(folder.glob(SHARD + "*")).name})(folder), SHARD, "only in the file"),
    "index of numbers": (_set(INDEX, weight_map={Q: 3}), INDEX, "got the file 3"),
    "index nested": (_write(INDEX, '{"weight_map": ' + "[" * 3000 + "]" * 3000 + "}"),
                     INDEX, "not JSON"),
    "index leads out": (_set(INDEX, weight_map={Q: "../copy/model.safetensors"}),
                        INDEX, "beside the index"),
    "index leads to a pickle": (_set(INDEX, weight_map={Q: "model.bin"}), INDEX,
                                "beside the index"),
}


@pytest.mark.parametrize("damage", SINGLE_FILE.values(), ids=SINGLE_FILE)
def test_folder(tmp_path, capsys, damage):
  damage, *expected = damage
  folder = _folder(tmp_path / "model")
  damage(folder)
  _assert_refused(capsys, folder, *expected)


@pytest.mark.parametrize("damage", SHARDS.values(), ids=SHARDS)
def test_shards(tmp_path, capsys, damage):
  damage, *expected = damage
  folder = _folder(tmp_path / "model", sharded=True)
  damage(folder)
  _assert_refused(capsys, folder, *expected)


def _info(data, name):
  """Where the description of a tensor lies behind its name: axes, sizes, type, offset."""
  return data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)


def _patch(find, content, skip=0):
  """Damage: other bytes at, or so many behind, a place: a number, or bytes that are searched."""
  def damage(data):
    place = (find if isinstance(find, int) else data.index(find)) + skip
    return data[:place] + content + data[place + len(content):]
  return damage


def _patch_info(name, skip, content):
  return lambda data: _patch(_info(data, name), content, skip)(data)


UP = b"blk.1.ffn_up.weight"
CUT_SHORT = "not a whole GGUF file"
GGUF = {
    "empty": (lambda data: b"", CUT_SHORT),
    "magic": (_patch(0, b"GGML"), "GGUF magic invalid"),
    "version": (_patch(4, struct.pack("<I", 9)), "version 9"),
    "metadata truncated": (lambda data: data[:data.index(b"tokenizer.ggml.tokens") + 50],
                           CUT_SHORT, "beyond its end"),
    "tensors truncated": (lambda data: data[:-64], CUT_SHORT, "beyond its end"),
    "a length of 2^60": (
        _patch(b"tokenizer.ggml.token_type", struct.pack("<Q", 2**60), 33), "beyond its end"),
    "2^60 tensors": (_patch(8, struct.pack("<Q", 2**60)), CUT_SHORT),
    "offset outside": (_patch_info(UP, 24, struct.pack("<Q", 2**40)), "beyond its end"),
    "unknown type": (_patch_info(UP, 20, struct.pack("<I", 99)),
                     "is not a valid GGMLQuantizationType"),
    "shape": (_patch_info(UP, 4, struct.pack("<QQ", 32, 128)),
              "blk.1.ffn_up.weight: got the shape (128, 32), allowed: (64, 64)"),
    "text not UTF-8": (_patch(b"<end>", b"\xff"), "tokenizer.ggml.tokens: damaged text"),
    "architecture": (_patch(b"llama", b"mamba"), "general.architecture: got 'mamba'"),
    "a field of another type": (
        _patch(b"llama.block_count", struct.pack("<I", 6), 17), "block_count: got",
        "allowed: a whole number"),
    "no block count": (_patch(b"llama.block_count", b"x"), "llama.block_count: missing"),
    "no vocabulary": (_patch(b"tokenizer.ggml.tokens", b"x"), "tokenizer.ggml.tokens: missing"),
    "tokenizer": (_patch(b"gpt2", b"bert"), "tokenizer.ggml.model: got 'bert'"),
}


def _fields(**changes):
  """Damage: metadata say something else."""
  def damage(data):
    file = formats.read_gguf(data)
    changed = {key.replace("__", ".").encode(): value for key, value in changes.items()}
    assert set(changed) <= {name for name, _ in file.fields}
    return formats.write_gguf(file._replace(
        fields=[(name, changed.get(name, value)) for name, value in file.fields]))
  return damage


GGUF |= {
    "a million layers": (
        _fields(llama__block_count=Typed(formats.UINT32, 10**6)),
        "llama.block_count: got 1000000, allowed: at most 20, the tensors"),
    "arrays 3,000 deep": (
        _fields(llama__block_count=Typed(formats.ARRAY, formats.nested_array(3000))),
        CUT_SHORT, "an array within an array"),
    "3 million texts": (
        _fields(tokenizer__ggml__tokens=Typed(formats.ARRAY, struct.pack("<IQ", 8, 3 * 10**6))),
        CUT_SHORT, "got 3000000 texts in an array, allowed: up to 2097152"),
    "2^40 numbers": (
        _fields(tokenizer__ggml__token_type=Typed(formats.ARRAY, struct.pack("<IQ", 4, 2**40))),
        CUT_SHORT, "beyond its end"),
    "2^20 fields": (_patch(16, struct.pack("<Q", 2**20)), CUT_SHORT, "got 1048576 fields"),
    "an infinite base": (
        _fields(llama__rope__freq_base=Typed(formats.FLOAT32, float("inf"))),
        "llama.rope.freq_base: got inf, allowed: a positive number"),
    "positions beyond 31 bits": (
        _fields(llama__context_length=Typed(formats.UINT64, 2**63)),
        "llama.context_length: got 9223372036854775808, allowed: a whole number"),
}


@pytest.mark.parametrize("damage", GGUF.values(), ids=GGUF)
def test_gguf(tmp_path, capsys, damage):
  damage, *expected = damage
  path = tmp_path / "model.gguf"
  write_gguf(path, TINY_GGUF, gguf_tensors(TINY_GGUF, random_params(TINY_GGUF)), {})
  path.write_bytes(damage(path.read_bytes()))
  _assert_refused(capsys, path, *expected)


@pytest.mark.parametrize("name", ["chat_template.jinja", "merges.txt", CONFIG, TOKENIZER])
def test_links_out_of_the_folder_are_not_followed(tmp_path, capsys, name):
  folder, private = _folder(tmp_path / "model"), tmp_path / "private"
  if (folder / name).exists():
    (folder / name).rename(private)
  else:
    private.write_text("password")
  (folder / name).symlink_to("../private")
  _assert_refused(capsys, folder, name, f"a link to {private}", "copy the file")
  with pytest.raises(ValueError, match="a link to"):
    load_tokenizer(folder)


def test_the_links_of_a_cache_are_followed(tmp_path, monkeypatch):
  """Every file of a snapshot is a link there; and a folder may itself be one."""
  monkeypatch.undo()
  blobs = tmp_path / "models--a--b" / "blobs"
  snapshot = blobs.parent / "snapshots" / "0123"
  blobs.parent.mkdir()
  _folder(blobs)
  (blobs / "chat_template.jinja").write_text("{{ messages }}")
  snapshot.mkdir(parents=True)
  for number, file in enumerate(sorted(blobs.iterdir())):
    (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    file.rename(blobs / str(number))
  (tmp_path / "mine").symlink_to(snapshot)
  for path in (snapshot, tmp_path / "mine"):
    _, _, tokenizer = weights.load_model(path)
    assert tokenizer.chat_template == "{{ messages }}"
  weights.convert(snapshot, tmp_path / "copy")
  assert not any(path.is_symlink() for path in (tmp_path / "copy").iterdir())


def test_weights_may_lie_elsewhere(tmp_path, monkeypatch):
  monkeypatch.undo()
  folder = _folder(tmp_path / "model")
  (folder / SINGLE).rename(tmp_path / "weights")
  (folder / SINGLE).symlink_to(tmp_path / "weights")
  (folder / "tokenizer_config.json").rename(folder / "settings.json")
  (folder / "tokenizer_config.json").symlink_to("settings.json")
  weights.load_model(folder)


def test_a_panic_of_the_package_is_a_message(tmp_path, monkeypatch):
  class PanicException(BaseException):
    pass

  def panic(*_, **__):
    raise PanicException("index out of range")

  folder = _folder(tmp_path / "model")
  monkeypatch.setattr(safetensors, "_File", panic)
  with pytest.raises(ValueError, match=f"{SINGLE}: not a whole safetensors file.*out of range"):
    weights.load_model(folder)


class _Trap:
  """Leaves a trace when it is unpickled."""

  def __init__(self, trace):
    self.trace = trace

  def __reduce__(self):
    return pathlib.Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickles_are_not_opened(tmp_path, capsys, name):
  folder, trace = _folder(tmp_path / "model"), tmp_path / "trace"
  (folder / SINGLE).unlink()
  (folder / name).write_bytes(pickle.dumps(_Trap(trace)))
  _assert_refused(capsys, folder, name, "is a pickled checkpoint")
  _assert_refused(capsys, folder / name, "is a pickled checkpoint")
  assert not trace.exists()


def test_code_of_a_checkpoint_is_not_run(tmp_path, capsys, monkeypatch):
  folder, trace = _folder(tmp_path / "model"), tmp_path / "trace"
  for name in ("modeling_own", "configuration_own", "tokenization_own"):
    (folder / f"{name}.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\n")
  code = {"auto_map": {"AutoConfig": "configuration_own.Own", "AutoTokenizer": [
      "tokenization_own.Own", None], "AutoModelForCausalLM": "modeling_own.Own"}}
  _set(SETTINGS, tokenizer_class="Own", **code)(folder)
  _set(CONFIG, trust_remote_code=True, **code)(folder)
  monkeypatch.undo()  # a known model_type is loaded for what it is
  weights.load_model(folder)
  weights.convert(folder, tmp_path / "copy")
  assert not list((tmp_path / "copy").glob("*.py"))
  assert "auto_map" not in (tmp_path / "copy" / CONFIG).read_text()
  _set(CONFIG, model_type="own")(folder.rename(tmp_path / "own"))
  _assert_refused(capsys, tmp_path / "own", "model_type: got 'own', allowed: llama")
  assert not trace.exists()
