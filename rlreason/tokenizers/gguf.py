"""Tokenizers rebuilt from the metadata of a GGUF file.

Byte-level BPE ("gpt2") and sentencepiece BPE ("llama") vocabularies. llama.cpp selects the split of
a text before BPE only by a name, so only the names listed here are accepted: a wrong split silently
gives wrong ids for a few per cent of texts. Not here: the file's tensors (`weights/gguf.py`).
"""

from collections.abc import Callable, Iterable, Mapping
import os
import pathlib
from typing import Any, NamedTuple

import gguf
import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from rlreason.tokenizers import sentencepiece
from rlreason.tokenizers.chat import with_turn_end
from rlreason.tokenizers.hf import HFTokenizer, end_token_ids, no_panics

_ANY_CASE_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS_THEN = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_SYMBOLS_AND_SPACES = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split_with(digits: str) -> pre_tokenizers.PreTokenizer:
  """The split of Llama 3 and similar models, which differ in how digits are split."""
  pattern = _ANY_CASE_CONTRACTIONS + _LETTERS_THEN + digits + _SYMBOLS_AND_SPACES
  return pre_tokenizers.Sequence([
      pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _split_gpt2() -> pre_tokenizers.PreTokenizer:
  return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _split_smollm() -> pre_tokenizers.PreTokenizer:
  return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _split_gpt2()])


class _Pre(NamedTuple):
  """The behaviour of llama.cpp for a name of `tokenizer.ggml.pre`."""

  split: Callable[[], pre_tokenizers.PreTokenizer]
  takes_words: bool = False  # whole words that are tokens, even without merges to them
  begins: bool = False  # with a begin token, if the file does not state it
  composes: bool = False  # NFC, as the model's own tokenizer but not llama.cpp


_GPT2, _SMOLLM = _Pre(_split_gpt2), _Pre(_split_smollm)
_LLAMA3 = _Pre(lambda: _split_with(r"\p{N}{1,3}"), takes_words=True, begins=True)
_QWEN2 = _Pre(lambda: _split_with(r"\p{N}"))
_PRE_TOKENIZERS: Mapping[str, _Pre] = {
    "gpt-2": _GPT2, "smollm": _SMOLLM, "llama-bpe": _LLAMA3,
    "qwen2": _QWEN2._replace(composes=True),
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
                    _LLAMA3),
    **dict.fromkeys(("smaug-bpe", "dbrx"), _Pre(_LLAMA3.split)),
    **dict.fromkeys(("deepseek-r1-qwen", "megrez", "stablelm2", "kormo", "f2llmv2", "hunyuan",
                     "solar-open", "grok-2"), _QWEN2),
    **dict.fromkeys(("phi-2", "gigachat", "a.x-4.0", "mellum", "modern-bert", "mpt", "olmo", "jais",
                     "exaone4", "trillion", "granite-docling"), _GPT2),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
                    _SMOLLM),
}


# More than any model has, and few enough for the package's objects per token.
_MAX_FIELDS, _MAX_TENSORS, _MAX_TEXTS = 2**16, 2**18, 2**21


def _bounded(what: str, count: int, most: int) -> int:
  if count > most:
    raise ValueError(f"got {count} {what}, allowed: up to {most}")
  return count


class _Reader(gguf.GGUFReader):
  """A reader that stops at the end of the file, and makes small objects.

  The package's own reader treats data beyond the end as empty, so that a damaged length may make it
  loop forever; and it needs hundreds of bytes for each token.
  """

  def _build_fields(self, offs, count):
    return super()._build_fields(offs, _bounded("fields", count, _MAX_FIELDS))

  def _build_tensor_info(self, offs, count):
    return super()._build_tensor_info(offs, _bounded("tensors", count, _MAX_TENSORS))

  def _get_field_parts(self, orig_offs, raw_type):
    if raw_type != gguf.GGUFValueType.ARRAY:
      return super()._get_field_parts(orig_offs, raw_type)
    kind, count = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
    number = self.gguf_scalar_to_np.get(gguf.GGUFValueType(kind[0]))
    if number is not None:  # one object for all of them
      items = self._get(orig_offs + 12, number, count[0])
      types = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(kind[0])]
      return 12 + items.nbytes, [kind, count, items], [2], types
    if kind[0] == gguf.GGUFValueType.ARRAY:
      raise ValueError("an array within an array")
    _bounded("texts in an array", count[0], _MAX_TEXTS)
    return super()._get_field_parts(orig_offs, raw_type)

  def _get(self, offset, dtype, count=1, override_order=None):
    dtype = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
    size = int(count) * dtype.itemsize
    if int(offset) + size > len(self.data):
      raise ValueError(f"{size} bytes at {offset} are beyond its end")
    return np.frombuffer(self.data, dtype, int(count), int(offset)) if size else np.empty(0, dtype)


def open_gguf(path: str | os.PathLike) -> gguf.GGUFReader:
  """Opens a GGUF file; its tensors stay on disk until they are read.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a GGUF file, or a truncated one.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"{path} not found; expected a GGUF file")
  try:
    return _Reader(path)
  except (ValueError, IndexError, KeyError, OverflowError) as error:
    raise ValueError(f"{path}: not a whole GGUF file (damaged or cut short?): {error}") from error


def read_metadata(reader: gguf.GGUFReader) -> dict[str, Any]:
  """The fields of a GGUF file as plain values.

  Raises:
    ValueError: a text is damaged; names the field.
  """
  values = {}
  for name, field in reader.fields.items():
    try:
      values[name] = field.contents()
    except UnicodeDecodeError as error:
      raise ValueError(f"GGUF {name}: damaged text: {error}") from error
  return values


def tokenizer_from_gguf(
    metadata: Mapping[str, Any], *, end_tokens: Iterable[str] = ()
) -> HFTokenizer:
  """Builds the tokenizer that llama.cpp runs for this file.

  Args:
    metadata: field name to value.
    end_tokens: tokens that end a completion, put before those of the file.

  Raises:
    ValueError: a vocabulary or pre-tokenizer is not supported, or a field is missing; names it and
      the allowed values.
  """
  try:
    with no_panics():
      return _build(metadata, end_tokens)
  except Exception as error:  # the package raises bare Exceptions
    message = " ".join(str(error).split())  # some of the package are lists
    raise ValueError(f"tokenizer of the GGUF file: {message}") from error


def _build(metadata: Mapping[str, Any], end_tokens: Iterable[str]) -> HFTokenizer:
  builders = {"gpt2": _build_byte_level, "llama": _build_sentencepiece}
  kind = metadata.get("tokenizer.ggml.model")
  if kind not in builders:
    raise ValueError(f"tokenizer.ggml.model: got {kind!r}, allowed: {', '.join(builders)}")
  backend = builders[kind](metadata)
  bos_id = metadata.get("tokenizer.ggml.bos_token_id")
  # llama.cpp's default when the field is absent: sentencepiece models and Llama 3 have one.
  begins = kind == "llama" or _PRE_TOKENIZERS[metadata["tokenizer.ggml.pre"]].begins
  if metadata.get("tokenizer.ggml.add_bos_token", begins):
    sentencepiece.add_begin_token(backend, bos_id)
  eos_ids = end_token_ids(backend, end_tokens, "the GGUF file")
  fields = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
  eos_ids += [metadata[name] for name in fields if name in metadata]
  if not eos_ids:
    raise ValueError("tokenizer.ggml.eos_token_id: missing; pass end_tokens")
  return with_turn_end(HFTokenizer(
      backend=backend, eos_ids=tuple(dict.fromkeys(eos_ids)),
      pad_id=metadata.get("tokenizer.ggml.padding_token_id", eos_ids[0]), bos_id=bos_id,
      chat_template=metadata.get("tokenizer.chat_template")))


def _build_byte_level(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
  name = metadata.get("tokenizer.ggml.pre")
  if name not in _PRE_TOKENIZERS:
    raise ValueError(
        f"tokenizer.ggml.pre: got {name!r}, allowed: {', '.join(_PRE_TOKENIZERS)}; for another "
        "pre-tokenizer use the model's Hugging Face folder, whose tokenizer.json spells it out")
  tokens, kinds = _pieces(metadata)
  merges = [tuple(merge.split(" ")) for merge in _required(metadata, "merges")]
  pre = _PRE_TOKENIZERS[name]
  backend = tokenizers.Tokenizer(models.BPE(
      vocab={token: i for i, token in enumerate(tokens)}, merges=merges,
      ignore_merges=pre.takes_words))
  if pre.composes:
    backend.normalizer = normalizers.NFC()
  backend.pre_tokenizer = pre.split()
  backend.decoder = decoders.ByteLevel()
  chosen = lambda kind: [
      tokenizers.AddedToken(token, special=kind == sentencepiece.CONTROL, normalized=False)
      for token, other in zip(tokens, kinds, strict=True) if other == kind]
  backend.add_special_tokens(chosen(sentencepiece.CONTROL))
  backend.add_tokens(chosen(sentencepiece.USER_DEFINED))
  return backend


def _build_sentencepiece(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
  pieces, kinds = _pieces(metadata)
  return sentencepiece.build_bpe(sentencepiece.PieceVocabulary(
      pieces=pieces, scores=_required(metadata, "scores")[:len(pieces)], kinds=kinds,
      unk_id=_required(metadata, "unknown_token_id"),
      add_dummy_prefix=metadata.get("tokenizer.ggml.add_space_prefix", True),
      remove_extra_whitespaces=metadata.get("tokenizer.ggml.remove_extra_whitespaces", False),
      symbols_split_texts=True))


def _pieces(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
  """Tokens and their kinds, without padding tokens at the end of the embedding."""
  tokens, kinds = list(_required(metadata, "tokens")), list(_required(metadata, "token_type"))
  while kinds and kinds[-1] == sentencepiece.UNUSED and tokens[-1] == f"[PAD{len(tokens) - 1}]":
    tokens.pop()
    kinds.pop()
  return tokens, kinds


def _required(metadata: Mapping[str, Any], name: str) -> Any:
  name = f"tokenizer.ggml.{name}"
  if name not in metadata:
    raise ValueError(f"{name}: missing in the GGUF file")
  return metadata[name]
