"""Tokenizers from a sentencepiece `.model` file (Kudo & Richardson 2018, arXiv 1808.06226).

The model's pieces are rebuilt with the `tokenizers` package, so that special tokens inside a chat
template become ids and the result is saved as a tokenizer.json. BPE and unigram models are covered.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import os
import pathlib

from sentencepiece import sentencepiece_model_pb2
import tokenizers
from tokenizers import decoders, models, normalizers, processors

from rlreason.tokenizers.hf import HFTokenizer, end_token_ids

SPACE = "\u2581"  # how sentencepiece writes a space
# Kinds of piece; GGUF's token_type uses the same numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclasses.dataclass(frozen=True)
class PieceVocabulary:
  """The pieces of a sentencepiece model, by id."""

  pieces: Sequence[str]
  scores: Sequence[float]
  kinds: Sequence[int]  # NORMAL, UNKNOWN, ...
  unk_id: int
  add_dummy_prefix: bool = True  # a space before the text
  remove_extra_whitespaces: bool = False
  charsmap: bytes = b""  # compiled normalisation rules, such as NFKC

  def ids_of(self, kind: int) -> list[int]:
    return [i for i, other in enumerate(self.kinds) if other == kind]


def load_sentencepiece(
    path: str | os.PathLike, *, chat_template: str | None = None, end_tokens: Iterable[str] = ()
) -> HFTokenizer:
  """Reads a sentencepiece model file.

  Args:
    path: the `.model` file.
    chat_template: Jinja source; the file has none.
    end_tokens: tokens that end a completion, put before the model's own end token.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a sentencepiece model, or one of a kind that is not supported.
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
    return _from_proto(proto, chat_template, end_tokens)
  except Exception as error:  # tokenizers raises bare Exceptions
    raise ValueError(f"{path}: not a sentencepiece model that can be used: {error}") from error


def _from_proto(
    proto: sentencepiece_model_pb2.ModelProto, chat_template: str | None, end_tokens: Iterable[str]
) -> HFTokenizer:
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
  bos_id = spec.bos_id if spec.bos_id >= 0 else None
  backend = model_types[spec.model_type](vocabulary)
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
  model = models.BPE(
      vocab=ids, merges=_merges(vocabulary), unk_token=vocabulary.pieces[vocabulary.unk_id],
      fuse_unk=True, byte_fallback=bool(vocabulary.ids_of(BYTE)))
  return _assemble(model, vocabulary)


def build_unigram(vocabulary: PieceVocabulary) -> tokenizers.Tokenizer:
  """The `tokenizers` form of a sentencepiece unigram vocabulary."""
  pairs = list(zip(vocabulary.pieces, map(float, vocabulary.scores), strict=True))
  model = models.Unigram(pairs, vocabulary.unk_id, bool(vocabulary.ids_of(BYTE)))
  return _assemble(model, vocabulary)


def add_begin_token(backend: tokenizers.Tokenizer, bos_id: int | None) -> None:
  """Makes `encode(..., add_special_tokens=True)` start with the begin token."""
  if bos_id is not None:
    token = backend.id_to_token(bos_id)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{token}:0 $A:0", pair=f"{token}:0 $A:0 {token}:1 $B:1",
        special_tokens=[(token, bos_id)])


def _merges(vocabulary: PieceVocabulary) -> list[tuple[str, str]]:
  """All ways to make one piece of two others, best score first.

  sentencepiece merges the neighbours whose union has the best score; `tokenizers` wants the pairs
  in that order.
  """
  ids = {
      piece: i for i, piece in enumerate(vocabulary.pieces) if vocabulary.kinds[i] == NORMAL}
  found = []
  for piece, i in ids.items():
    splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
    found += [(-vocabulary.scores[i], ids[left], ids[right], left, right)
              for left, right in splits if left in ids and right in ids]
  return [(left, right) for *_, left, right in sorted(found)]


def _assemble(model: models.Model, vocabulary: PieceVocabulary) -> tokenizers.Tokenizer:
  backend = tokenizers.Tokenizer(model)
  steps = [normalizers.Precompiled(vocabulary.charsmap)] if vocabulary.charsmap else []
  if vocabulary.remove_extra_whitespaces:
    steps += [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
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
  backend.add_tokens(add(vocabulary.ids_of(USER_DEFINED), special=False))
  return backend
