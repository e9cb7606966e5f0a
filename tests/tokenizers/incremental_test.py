"""Pieces of a text are the whole text, and none ends within a character."""

import hypothesis
from hypothesis import strategies as st
import pytest

from rlreason.tokenizers import IncrementalDecoder, WordTokenizer, load_sentencepiece
from tests.tokenizers import tiny_models
from tests.tokenizers.nasty import TEXTS


def _byte_level(folder):
  del folder
  return tiny_models.byte_level()


def _words(folder):
  del folder
  return WordTokenizer.from_words(["a", "b", "+", "\ufffd"])


def _trained(kind):
  return lambda folder: load_sentencepiece(tiny_models.train(kind, folder))


_MAKERS = {"byte_level": _byte_level, "words": _words} | {
    kind: _trained(kind) for kind in ("llama", "gemma", "unigram")}


@pytest.fixture(scope="module", name="tokenizer", params=_MAKERS)
def _tokenizer(request, tmp_path_factory):
  return _MAKERS[request.param](tmp_path_factory.mktemp(request.param))


def _pieces(tokenizer, ids, skip_special, size=1):
  decoder = IncrementalDecoder(tokenizer, skip_special=skip_special)
  pieces = [decoder.feed(ids[i:i + size]) for i in range(0, len(ids), size)]
  return [*pieces, decoder.flush()]


def test_pieces_of_nasty_texts(tokenizer):
  for text in ["a + b", *TEXTS]:
    try:
      ids = tokenizer.encode(text, add_special=True)
    except ValueError:  # a word that is not in the vocabulary
      continue
    whole = tokenizer.decode(ids)
    pieces = _pieces(tokenizer, ids, True)
    assert "".join(pieces) == whole
    if "\ufffd" not in whole:
      assert not any("\ufffd" in piece for piece in pieces)


@hypothesis.given(data=st.data(), skip_special=st.booleans(), size=st.integers(1, 7))
@hypothesis.settings(max_examples=200, deadline=None)
def test_pieces_of_any_ids(tokenizer, data, skip_special, size):
  """Random ids are no valid UTF-8 most of the time; ids beyond the vocabulary have no text."""
  vocab = tokenizer.vocab_size
  few = st.sampled_from([0, 1, 2, 3, min(30, vocab), min(200, vocab), vocab - 1, vocab])
  ids = data.draw(st.lists(few | st.integers(0, vocab), max_size=30))
  whole = tokenizer.decode(ids, skip_special=skip_special)
  assert "".join(_pieces(tokenizer, ids, skip_special, size)) == whole


@hypothesis.given(text=st.text(max_size=20))
@hypothesis.settings(max_examples=100, deadline=None)
def test_characters_stay_whole_and_come_at_once(text):
  tokenizer = tiny_models.byte_level()
  ids = tokenizer.encode(text)
  decoder, given = IncrementalDecoder(tokenizer), ""
  for count, i in enumerate(ids, 1):
    given += decoder.feed([i])
    assert text.startswith(given)
    assert len(tokenizer.decode(ids[:count])) - len(given) <= 1
  assert given + decoder.flush() == text


def test_text_comes_as_soon_as_it_is_settled():
  tokenizer = tiny_models.byte_level()
  decoder = IncrementalDecoder(tokenizer)
  feed = lambda text: [decoder.feed([i]) for i in tokenizer.encode(text)]
  assert feed("he a") == ["he", " a"]
  assert feed("é🙂") == ["", "é", "", "", "🙂"]
  half = tokenizer.encode("🙂")[:1]
  assert (decoder.feed(half), decoder.feed([tokenizer.eos_ids[0]])) == ("", "")
  assert (decoder.feed(half), decoder.flush(), decoder.flush()) == ("\ufffd", "\ufffd", "")
  assert feed("he") == ["he"]  # another text


def test_run_of_byte_tokens_waits_for_its_end(tmp_path):
  """`<0xE2><0x82><0xAC>` is a euro sign, but four replacement characters before `<0xFF>`."""
  tokenizer = load_sentencepiece(tiny_models.train("llama", tmp_path))
  ids = [tokenizer.backend.token_to_id(f"<0x{byte:02X}>") for byte in (0xE2, 0x82, 0xAC, 0xFF)]
  cat = tokenizer.encode("cat")
  assert tokenizer.decode(ids[:3]) == "€" and tokenizer.decode(ids) == "\ufffd" * 4
  decoder = IncrementalDecoder(tokenizer)
  assert [decoder.feed([i]) for i in ids[:3]] == [""] * 3
  assert decoder.feed(cat) == "€ cat"
  assert [decoder.feed([i]) for i in ids] == [""] * 4
  assert decoder.flush() == "\ufffd" * 4


def test_space_after_a_skipped_token_stays(tmp_path):
  tokenizer = load_sentencepiece(tiny_models.train("llama", tmp_path))
  decoder = IncrementalDecoder(tokenizer)
  ids = [*tokenizer.encode("cat"), tokenizer.bos_id, *tokenizer.encode("cat")]
  assert "".join(decoder.feed([i]) for i in ids) == "cat cat"


@pytest.mark.parametrize("make", [_byte_level, _trained("llama")], ids=["byte_level", "llama"])
@pytest.mark.parametrize("text", ["cat ", "日"])
def test_work_does_not_grow_with_the_text(make, text, tmp_path):
  """All ids that are decoded on the way, a run of byte tokens in one piece."""
  inner, lengths = make(tmp_path), []

  class Counting:
    backend = inner.backend

    def decode(self, ids, *, skip_special):
      lengths.append(len(ids))
      return inner.decode(ids, skip_special=skip_special)

  ids = inner.encode(text * 500)
  decoder = IncrementalDecoder(Counting())
  assert "".join(decoder.feed([i]) for i in ids) + decoder.flush() == text * 500
  assert sum(lengths) < 15 * len(ids)
