"""Where steps end by tokens, against the rule for texts."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from rlreason import steps
from rlreason.searching import delimiter
from rlreason.tokenizers import WordTokenizer


class Pieces:
  """A tokenizer of the texts that it is given."""

  def __init__(self, *texts):
    self.texts, self.vocab_size = texts, len(texts)

  def decode(self, ids, **unused):
    return "".join(self.texts[i] for i in ids)


TEXTS = ("a", "\n", "\n\n", " ", "b\n", "\nc", ".\n\nd", "", "x\n\ny\n\nz")
PIECES = Pieces(*TEXTS)


def ends_of(ids, mark, tokenizer=PIECES, size=len(TEXTS)):
  return delimiter.step_ends(delimiter.make_table(tokenizer, size, mark), ids)


@pytest.mark.parametrize("mark, ids, expected", [
    ("\n", [0, 1, 0, 1], [1, 3]),
    ("\n", [1, 1, 0, 1, 0], [3, 4]),  # blank text is no step
    ("\n", [0, 1, 1, 0], [1, 3]),  # newlines that follow begin the next step here
    ("\n\n", [0, 1, 1, 0, 2], [2, 4]),  # also of two tokens
    ("\n\n", [4, 5, 0], [1, 2]),  # and across them: "b\n" + "\nc"
    ("\n\n", [6, 0], [0, 1]), ("\n\n", [8, 3], [0, 1]),  # several in one token are one end
    ("\n", [], []), ("\n", [7], [0])])
def test_by_hand(mark, ids, expected):
  assert ends_of(ids, mark) == expected


def test_words():
  tokenizer = WordTokenizer.from_words(("1", ";", "2"))
  ids = tokenizer.encode("1 ; 2 1 ; 2 <eos>")
  assert ends_of(ids, ";", tokenizer, 8) == [1, 4, 6]
  with pytest.raises(ValueError, match="delimiter: got .*a text that the tokenizer can write"):
    delimiter.make_table(tokenizer, 8, "\n")
  with pytest.raises(ValueError, match="delimiter: got ''"):
    delimiter.make_table(tokenizer, 8, "")


@hypothesis.given(st.lists(st.sampled_from([0, 1, 2, 3, 4, 5]), max_size=12),
                  st.sampled_from(["\n", "\n\n"]))
def test_as_many_steps_as_the_text_has(ids, mark):
  """At most one delimiter in a token: as many steps, and each ends where the text's does."""
  text = PIECES.decode(ids)
  table = delimiter.make_table(PIECES, len(TEXTS), mark)
  ends = delimiter.step_ends(table, ids)
  of_text = steps.step_ends(text, mark)
  if not text.strip():
    return
  read = [len(PIECES.decode(ids[:end + 1])) for end in ends]
  # A step of the text also has the delimiters that follow directly; blank rests are no step.
  pieces = [text[a:b] for a, b in zip([0, *read[:-1]], read)]
  written = [piece for piece in pieces if piece.strip()]
  assert len(written) == len(of_text) or any(
      len(PIECES.texts[i]) > 1 for i in ids)
  assert "".join(pieces) == text and read[-1] == len(text)
  assert np.all(np.diff(ends) > 0)
