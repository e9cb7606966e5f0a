"""Tokenizers from a sentencepiece `.model` file (Kudo & Richardson 2018, arXiv 1808.06226).

The model's pieces are rebuilt with the `tokenizers` package, so that special tokens inside a chat
template become ids and the result is saved as a tokenizer.json. BPE and unigram models are covered.

The ids are those of the sentencepiece library, with three exceptions. Control tokens written in a
text become their ids, which the library never does, and the text after one is encoded separately.
Where a model has compiled normalisation rules (NFKC; neither Llama nor Gemma), some combining marks
are lost: the `tokenizers` package applies the rules to a letter with all its marks. And of two
equally likely splits of a text in a unigram model, the library may choose the other.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import os
import pathlib
import re

from sentencepiece import sentencepiece_model_pb2
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from rlreason.tokenizers.chat import with_turn_end
from rlreason.tokenizers.hf import HFTokenizer, end_token_ids, no_panics

SPACE = "\u2581"  # how sentencepiece writes a space
# Kinds of piece; GGUF's token_type uses the same numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_MAX_PIECE = 1000  # characters; sentencepiece's default in training is 16


@dataclasses.dataclass(frozen=True)
class PieceVocabulary:
  """The pieces of a sentencepiece model, by id."""

  pieces: Sequence[str]
  scores: Sequence[float]
  kinds: Sequence[int]  # NORMAL, UNKNOWN, ...
  unk_id: int
  add_dummy_prefix: bool = True  # a space before the text
  remove_extra_whitespaces: bool = False
  # Whether USER_DEFINED pieces are found before the text is normalised, and the text after one is
  # encoded separately, as in llama.cpp; the sentencepiece library searches them in the whole text.
  symbols_split_texts: bool = False
  charsmap: bytes = b""  # compiled normalisation rules, such as NFKC

  def ids_of(self, kind: int) -> list[int]:
    return [i for i, other in enumerate(self.kinds) if other == kind]


def load_sentencepiece(
    path: str | os.PathLike, *, chat_template: str | None = None, end_tokens: Iterable[str] = (),
    add_begin: bool = True, added: Mapping[int, tokenizers.AddedToken] | None = None,
) -> HFTokenizer:
  """Reads a sentencepiece model file.

  Args:
    path: the `.model` file.
    chat_template: Jinja source; the file has none.
    end_tokens: tokens that end a completion, put before the model's own end token.
    add_begin: whether `encode(text, add_special=True)` starts with the begin token.
    added: id -> token from the files next to the model; ids of the model are ignored.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a sentencepiece model, or one of an unsupported type.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"{path} not found; expected a sentencepiece .model file")
  proto = sentencepiece_model_pb2.ModelProto()
  try:
    proto.ParseFromString(path.read_bytes())
  except Exception as error:  # protobuf's DecodeError has no public home in all its versions
    raise ValueError(f"{path}: not a sentencepiece model: {error}") from error
  try:
    with no_panics():
      backend = _make_backend(proto, added or {})
      return with_turn_end(_from_backend(backend, proto, chat_template, end_tokens, add_begin))
  except Exception as error:  # tokenizers raises bare Exceptions
    raise ValueError(f"{path}: not a sentencepiece model that can be used: {error}") from error


def _make_backend(
    proto: sentencepiece_model_pb2.ModelProto, added: Mapping[int, tokenizers.AddedToken]
) -> tokenizers.Tokenizer:
  if not proto.pieces:
    raise ValueError("it has no pieces")
  spec = proto.trainer_spec
  if not 0 <= spec.unk_id < len(proto.pieces):
    raise ValueError(f"unk_id: got {spec.unk_id}, allowed: ids below {len(proto.pieces)}")
  vocabulary = PieceVocabulary(
      pieces=[piece.piece for piece in proto.pieces],
      scores=[piece.score for piece in proto.pieces],
      kinds=[piece.type for piece in proto.pieces],
      unk_id=spec.unk_id,
      add_dummy_prefix=proto.normalizer_spec.add_dummy_prefix,
      remove_extra_whitespaces=proto.normalizer_spec.remove_extra_whitespaces,
      charsmap=proto.normalizer_spec.precompiled_charsmap,
  )
  model_types = {spec.BPE: build_bpe, spec.UNIGRAM: build_unigram}
  if spec.model_type not in model_types:
    name = spec.ModelType.Name(spec.model_type)
    raise ValueError(f"model_type: got {name}, allowed: BPE, UNIGRAM")
  if spec.treat_whitespace_as_suffix or not proto.normalizer_spec.escape_whitespaces:
    raise ValueError(
        f"got treat_whitespace_as_suffix={spec.treat_whitespace_as_suffix} and "
        f"escape_whitespaces={proto.normalizer_spec.escape_whitespaces}, allowed: False and True")
  backend = model_types[spec.model_type](vocabulary)
  ids = sorted(i for i in added if i >= len(proto.pieces))
  if ids != [*range(len(proto.pieces), len(proto.pieces) + len(ids))]:
    raise ValueError(f"added tokens: got the ids {ids[:9]}, allowed: {len(proto.pieces)} and on, "
                     "without gaps")
  for i in ids:  # one by one: a single call would reorder special ones
    backend.add_tokens([added[i]])
  return backend


def _from_backend(
    backend: tokenizers.Tokenizer, proto: sentencepiece_model_pb2.ModelProto,
    chat_template: str | None, end_tokens: Iterable[str], add_begin: bool,
) -> HFTokenizer:
  spec = proto.trainer_spec
  bos_id = spec.bos_id if spec.bos_id >= 0 else None
  if add_begin:
    add_begin_token(backend, bos_id)
  eos_ids = end_token_ids(backend, end_tokens, "the model")
  eos_ids += [spec.eos_id] if spec.eos_id >= 0 else []
  if not eos_ids:
    raise ValueError("it has no end token; pass end_tokens")
  return HFTokenizer(
      backend=backend, eos_ids=tuple(dict.fromkeys(eos_ids)),
      pad_id=spec.pad_id if spec.pad_id >= 0 else eos_ids[0], bos_id=bos_id,
      chat_template=chat_template)


def build_bpe(vocabulary: PieceVocabulary) -> tokenizers.Tokenizer:
  """The `tokenizers` form of a sentencepiece BPE vocabulary."""
  ids = {piece: i for i, piece in enumerate(vocabulary.pieces)}
  symbols = [] if vocabulary.symbols_split_texts else [
      vocabulary.pieces[i] for i in vocabulary.ids_of(USER_DEFINED)]
  # Merges lead to trained pieces, which `ignore_merges` does not change, but not to symbols.
  model = models.BPE(
      vocab=ids, merges=_merges(vocabulary), unk_token=vocabulary.pieces[vocabulary.unk_id],
      fuse_unk=True, byte_fallback=bool(vocabulary.ids_of(BYTE)), ignore_merges=bool(symbols))
  backend = _assemble(model, vocabulary)
  if symbols:
    pattern = "|".join(map(re.escape, sorted(symbols, key=len, reverse=True)))
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"),
        *_split_byte_names(vocabulary)])
  return backend


def build_unigram(vocabulary: PieceVocabulary) -> tokenizers.Tokenizer:
  """The `tokenizers` form of a sentencepiece unigram vocabulary."""
  # The library scores a symbol -0.1, whatever its length: few of them beat many. Sums of -0.125 are
  # exact, so that rounding does not choose among equals.
  scores = [-0.125 if kind == USER_DEFINED else float(score)
            for score, kind in zip(vocabulary.scores, vocabulary.kinds, strict=True)]
  pairs = list(zip(vocabulary.pieces, scores, strict=True))
  model = models.Unigram(pairs, vocabulary.unk_id, bool(vocabulary.ids_of(BYTE)))
  backend = _assemble(model, vocabulary)
  backend.pre_tokenizer = pre_tokenizers.Sequence(_split_byte_names(vocabulary))
  return backend


def _split_byte_names(vocabulary: PieceVocabulary) -> list[pre_tokenizers.PreTokenizer]:
  """Prevents `<0x0A>` written in a text from becoming that byte, if whole pieces are searched."""
  if not vocabulary.ids_of(BYTE):
    return []
  pattern = tokenizers.Regex("<(?=0x[0-9A-F]{2}>)")
  return [pre_tokenizers.Split(pattern, behavior="merged_with_previous")]


def add_begin_token(backend: tokenizers.Tokenizer, bos_id: int | None) -> None:
  """Makes `encode(..., add_special_tokens=True)` start with the begin token."""
  if bos_id is not None:
    token = backend.id_to_token(bos_id)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{token}:0 $A:0", pair=f"{token}:0 $A:0 {token}:1 $B:1",
        special_tokens=[(token, bos_id)])


def _merges(vocabulary: PieceVocabulary) -> list[tuple[str, str]]:
  """All pairs of pieces that merge to another piece, best score first.

  sentencepiece merges the neighbours whose union has the best score; `tokenizers` needs the pairs
  in that order. Among equals sentencepiece takes the leftmost, which no order of pairs can express.
  Putting the longest left part first gives the same in a run of one character, which grows from the
  left; elsewhere equals do not meet (Mistral's runs of spaces all have one score).

  Raises:
    ValueError: a piece is too long for all its parts to be looked up.
  """
  ids = {
      piece: i for i, piece in enumerate(vocabulary.pieces) if vocabulary.kinds[i] == NORMAL}
  longest = max(ids, key=len, default="")
  if len(longest) > _MAX_PIECE:
    raise ValueError(f"piece {ids[longest]}: got {len(longest)} characters, allowed: {_MAX_PIECE}")
  found = []
  for piece, i in ids.items():
    splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
    found += [(-vocabulary.scores[i], -len(left), ids[left], ids[right], left, right)
              for left, right in splits if left in ids and right in ids]
  return [(left, right) for *_, left, right in sorted(found)]


def _assemble(model: models.Model, vocabulary: PieceVocabulary) -> tokenizers.Tokenizer:
  backend = tokenizers.Tokenizer(model)
  steps = [normalizers.Precompiled(vocabulary.charsmap)] if vocabulary.charsmap else []
  if vocabulary.remove_extra_whitespaces:
    # Not `normalizers.Strip`: tabs and line breaks stay.
    steps += [normalizers.Replace(tokenizers.Regex(rf"\A +|[ {SPACE}]+\z"), ""),
              normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
  if vocabulary.add_dummy_prefix:
    steps.append(normalizers.Prepend(SPACE))
  backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
  plain = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
  if vocabulary.add_dummy_prefix:
    plain.append(decoders.Strip(content=" ", left=1, right=0))
  backend.decoder = decoders.Sequence(plain)
  special = [*vocabulary.ids_of(CONTROL), vocabulary.unk_id]
  add = lambda ids, **options: [
      tokenizers.AddedToken(vocabulary.pieces[i], normalized=False, **options)
      for i in sorted(ids)]
  backend.add_special_tokens(add(special, special=True))
  if vocabulary.symbols_split_texts:
    backend.add_tokens(add(vocabulary.ids_of(USER_DEFINED), special=False))
  return backend
