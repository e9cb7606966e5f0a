"""The rebuilt tokenizer gives the ids of the sentencepiece library itself."""

import json

import numpy as np
import pytest
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2

from rlreason.tokenizers import load_sentencepiece, load_tokenizer
from rlreason.tokenizers import sentencepiece as ours
from tests.tokenizers.nasty import TEXTS as NASTY
from tests.tokenizers.tiny_models import KINDS, train

TEXTS = ["the cat", " the cat", "  two  spaces  ", "the\u00a0end", "ﬁne ½", "The The The",
         "\u2581odd", "a<think>b <think> c", "<b>x</b>  <b>", "a\n\n\nb", "1<0x0A>2\n<0x0A>\n",
         *NASTY]
# `tokenizers` applies compiled rules to a letter with all its marks, and loses marks by that.
LOST_MARKS = "e\u0301 a\u0301\u0323"


@pytest.fixture(scope="module", params=KINDS)
def model_file(request, tmp_path_factory):
  return train(request.param, tmp_path_factory.mktemp("spm"))


def test_ids_are_those_of_the_library(model_file):
  reference = spm.SentencePieceProcessor(model_file=str(model_file))
  tokenizer = load_sentencepiece(model_file)
  assert tokenizer.vocab_size == reference.vocab_size()
  assert tokenizer.eos_ids == (reference.eos_id(),) and tokenizer.bos_id == reference.bos_id()
  control = [reference.id_to_piece(i) for i in range(reference.vocab_size())
             if reference.is_control(i) or reference.is_unknown(i)]
  for text in TEXTS:
    # The library never makes control tokens from a text.
    if any(token in text for token in control) or (
        text == LOST_MARKS and "nfkc" in model_file.stem):
      continue
    ids = reference.encode(text)
    assert tokenizer.encode(text) == ids, text
    # The library writes unknown pieces as a mark and strips spaces twice where it made them single.
    if reference.unk_id() not in ids and "\u2581" not in text:
      assert tokenizer.decode(ids) == reference.decode(ids)


def test_control_token_begins_a_text_of_its_own(tmp_path):
  tokenizer = load_sentencepiece(train("llama_symbols", tmp_path))
  tokens = lambda text: tokenizer.backend.encode(text, add_special_tokens=False).tokens
  assert tokens("a<s>a") == ["\u2581a", "<s>", "\u2581a"]
  assert tokens("a<think>a") == ["\u2581a", "<think>", "a"]  # not so a symbol


def test_special_tokens(model_file):
  tokenizer = load_sentencepiece(model_file)
  begin = tokenizer.backend.id_to_token(tokenizer.bos_id)
  assert begin in ("<s>", "<bos>") and tokenizer.encode(begin) == [tokenizer.bos_id]
  assert tokenizer.encode("a", add_special=True) == [tokenizer.bos_id, *tokenizer.encode("a")]
  think = tokenizer.backend.token_to_id("<think>")
  assert think is None or think in tokenizer.encode("a<think>b")
  assert think is None or "<think>" in tokenizer.decode([think])  # not a control token


def test_saved_folder_gives_the_same_ids(model_file, tmp_path):
  tokenizer = load_tokenizer(model_file)
  tokenizer.save(tmp_path)
  again = load_tokenizer(tmp_path)
  assert [again.encode(t, add_special=True) for t in TEXTS] == [
      tokenizer.encode(t, add_special=True) for t in TEXTS]
  assert (again.eos_ids, again.pad_id, again.bos_id) == (
      tokenizer.eos_ids, tokenizer.pad_id, tokenizer.bos_id)


def test_folder_with_only_a_model_file(model_file, tmp_path):
  (tmp_path / "tokenizer.model").write_bytes(model_file.read_bytes())
  (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "T"}')
  tokenizer = load_tokenizer(tmp_path)
  assert tokenizer.chat_template == "T"
  assert tokenizer.encode("a", add_special=True) == [tokenizer.bos_id, *tokenizer.encode("a")]
  (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
  (tmp_path / "chat_template.jinja").write_text("U")
  tokenizer = load_tokenizer(tmp_path)
  assert tokenizer.chat_template == "U"
  assert tokenizer.encode("a", add_special=True) == tokenizer.encode("a")


def test_files_beside_a_model_add_tokens_and_ends(tmp_path):
  file = train("llama", tmp_path)
  file.rename(tmp_path / "tokenizer.model")
  size = spm.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model")).vocab_size()
  write = lambda name, value: (tmp_path / f"{name}.json").write_text(json.dumps(value))
  write("added_tokens", {"<|im_end|>": size + 1, "<|im_start|>": size})
  write("tokenizer_config", {"chat_template": (
      "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}")})
  write("generation_config", {"eos_token_id": [2, size]})
  tokenizer = load_tokenizer(tmp_path)
  assert tokenizer.vocab_size == size + 2
  assert tokenizer.encode("<|im_start|>the<|im_end|>")[::2] == [size, size + 1]
  assert (tokenizer.eos_ids, tokenizer.turn_end_id) == ((2, size + 1, size), size + 1)
  assert load_tokenizer(tmp_path, end_tokens=["<|im_start|>"]).eos_ids[0] == size
  write("tokenizer_config", {"added_tokens_decoder": {str(size + 7): {"content": "<far>"}}})
  with pytest.raises(ValueError, match="added tokens: got the ids .*, allowed: .* without gaps"):
    load_tokenizer(tmp_path)


def test_merges_best_score_first():
  vocabulary = ours.PieceVocabulary(
      pieces=["<unk>", "a", "b", "ab", "aba", "c"], scores=[0, -3, -4, -1, -2, -5],
      kinds=[2, 1, 1, 1, 1, 1], unk_id=0, add_dummy_prefix=False)
  assert ours.build_bpe(vocabulary).encode("abac").tokens == ["aba", "c"]
  assert ours.build_bpe(vocabulary).encode("abab").tokens == ["ab", "ab"]


@pytest.mark.parametrize("lengths", [range(2, 17), (2, 4, 8), (2, 3, 5, 9, 10), (3, 4, 7)])
def test_of_equals_the_leftmost_is_merged(tmp_path, lengths):
  """Mistral's models give all runs of spaces one score, below that of any word."""
  file, random = train("llama", tmp_path), np.random.default_rng(len(lengths))
  proto = sentencepiece_model_pb2.ModelProto()
  proto.ParseFromString(file.read_bytes())
  known = {piece.piece for piece in proto.pieces}
  for length in lengths:
    if ours.SPACE * length not in known:
      proto.pieces.add(piece=ours.SPACE * length, type=ours.NORMAL)
  for piece in proto.pieces:
    if piece.type == ours.NORMAL and set(piece.piece) == {ours.SPACE}:
      piece.score = -1e9
  file.write_bytes(proto.SerializeToString())
  reference = spm.SentencePieceProcessor(model_file=str(file))
  tokenizer = load_sentencepiece(file)
  runs = [" " * count for count in range(100)]
  mixed = ["".join(random.choice(["a", "the", "\n", "12", ""]) + " " * random.integers(40)
                   for _ in range(4)) for _ in range(100)]
  for text in [*runs, *mixed]:
    assert tokenizer.encode(text) == reference.encode(text), text
  if list(lengths) == list(range(2, 17)):  # the longest runs, from the left
    tokens = tokenizer.backend.encode(" " * 38, add_special_tokens=False).tokens
    assert [len(token) for token in tokens] == [16, 16, 7]


def test_pieces_beyond_all_reason_are_refused_at_once():
  pieces = ["<unk>", "a", "a" * 300_000]
  with pytest.raises(ValueError, match="piece 2: got 300000 characters, allowed: 1000"):
    ours.build_bpe(ours.PieceVocabulary(
        pieces=pieces, scores=[0, -1, -2], kinds=[2, 1, 1], unk_id=0))


def test_refusals(tmp_path):
  with pytest.raises(FileNotFoundError, match="x.model"):
    load_sentencepiece(tmp_path / "x.model")
  (tmp_path / "bad.model").write_bytes(b"\xffgarbage")
  with pytest.raises(ValueError, match="bad.model: not a sentencepiece model"):
    load_sentencepiece(tmp_path / "bad.model")
  with pytest.raises(ValueError, match="got CHAR, allowed: BPE, UNIGRAM"):
    load_sentencepiece(train("llama", tmp_path, model_type="char", byte_fallback=False))
  with pytest.raises(ValueError, match="got treat_whitespace_as_suffix=True"):
    load_sentencepiece(train("llama", tmp_path, treat_whitespace_as_suffix=True))
