"""The rebuilt tokenizer gives the ids of the sentencepiece library itself."""

import pytest
import sentencepiece as spm

from rlreason.tokenizers import load_sentencepiece, load_tokenizer
from rlreason.tokenizers import sentencepiece as ours

CORPUS = ["the cat sat on the mat", "12 + 34 = 46", "a b c d e f g", "once upon a time there was",
          "numbers 1 2 3 4 5 6 7 8 9 0", "The Cat. The Mat, the end!",
          "x = (1 + 2) * 3 - 4 / 5"] * 20
TEXTS = ["the cat", " the cat", "  two  spaces  ", "", " ", "1234 + 56", "naïve café 日本 🙂",
         "a\nb\tc", "<s>", "the\u00a0end", "ﬁne ½", "The The The", "\u2581odd"]


@pytest.fixture(scope="module", params=["llama", "no_prefix", "unigram", "unigram_nfkc"])
def model_file(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("spm")
  llama = dict(model_type="bpe", byte_fallback=True, split_digits=True,
               normalization_rule_name="identity", remove_extra_whitespaces=False)
  options = {
      "llama": llama,
      "no_prefix": llama | dict(add_dummy_prefix=False),
      "unigram": dict(model_type="unigram", normalization_rule_name="identity"),
      "unigram_nfkc": dict(model_type="unigram", byte_fallback=True),
  }[request.param]
  size = 330 if options.get("byte_fallback") else 70
  spm.SentencePieceTrainer.train(
      sentence_iterator=iter(CORPUS), model_prefix=str(folder / "tokenizer"), vocab_size=size,
      user_defined_symbols=["<think>"], hard_vocab_limit=False, minloglevel=2, **options)
  return folder / "tokenizer.model"


def test_ids_are_those_of_the_library(model_file):
  reference = spm.SentencePieceProcessor(model_file=str(model_file))
  tokenizer = load_sentencepiece(model_file)
  assert tokenizer.vocab_size == reference.vocab_size()
  assert tokenizer.eos_ids == (reference.eos_id(),) and tokenizer.bos_id == reference.bos_id()
  for text in TEXTS:
    if text == "<s>":  # the library never makes control tokens from a text
      continue
    ids = reference.encode(text)
    assert tokenizer.encode(text) == ids, text
    # The library writes unknown pieces as a mark and strips spaces twice where it made them single.
    if reference.unk_id() not in ids and "\u2581" not in text:
      assert tokenizer.decode(ids) == reference.decode(ids)


def test_special_tokens(model_file):
  tokenizer = load_sentencepiece(model_file)
  assert tokenizer.encode("<s>") == [tokenizer.bos_id]
  assert tokenizer.encode("a", add_special=True) == [tokenizer.bos_id, *tokenizer.encode("a")]
  think = tokenizer.backend.token_to_id("<think>")
  assert think in tokenizer.encode("a<think>b")
  assert "<think>" in tokenizer.decode(tokenizer.encode("a<think>b"))  # not a control token


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
  assert load_tokenizer(tmp_path).chat_template == "T"


def test_merges_best_score_first():
  vocabulary = ours.PieceVocabulary(
      pieces=["<unk>", "a", "b", "ab", "aba", "c"], scores=[0, -3, -4, -1, -2, -5],
      kinds=[2, 1, 1, 1, 1, 1], unk_id=0, add_dummy_prefix=False)
  assert ours.build_bpe(vocabulary).encode("abac").tokens == ["aba", "c"]
  assert ours.build_bpe(vocabulary).encode("abab").tokens == ["ab", "ab"]


def test_refusals(tmp_path):
  with pytest.raises(FileNotFoundError, match="x.model"):
    load_sentencepiece(tmp_path / "x.model")
  (tmp_path / "bad.model").write_bytes(b"\xffgarbage")
  with pytest.raises(ValueError, match="bad.model: not a sentencepiece model"):
    load_sentencepiece(tmp_path / "bad.model")
  spm.SentencePieceTrainer.train(
      sentence_iterator=iter(CORPUS), model_prefix=str(tmp_path / "char"), vocab_size=40,
      model_type="char", hard_vocab_limit=False, minloglevel=2)
  with pytest.raises(ValueError, match="got CHAR, allowed: BPE, UNIGRAM"):
    load_sentencepiece(tmp_path / "char.model")
