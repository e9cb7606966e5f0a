"""Tests of rlreason.rewards.style."""

import pytest

from rlreason.rewards import style


@pytest.mark.parametrize("text, reward", [
    ("", 0.0), ("a b", 0.0),
    ("a b a b a b a", 0.0),  # `a b` three times
    ("a b a b a b a b", -1.0),
    ("so " * 5, -1.0),  # so so: four times
    ("1 + 1 + 1 + 1 + 1 + 1 + 1 + 1", 0.0),  # numbers repeat
    ("a 1 a 1 a 1 a 1 a 1", 0.0),
    ("a 1 b c 2 b c 3 b c 4 b c 5", -1.0),  # `b c`, whatever the numbers between
])
def test_repeated_pairs(text, reward):
  assert style.repetition_reward(["p"], [text], n=2, most=3) == [reward]


def test_options_of_repetition():
  text = "one two three four " * 4
  assert style.repetition_reward(["p"], [text]) == [-1.0]  # four times, where three may be
  assert style.repetition_reward(["p"], [text], most=4) == [0.0]
  assert style.repetition_reward(["p"], [text], n=17) == [0.0]  # one word more than there are
  for options in (dict(n=0), dict(n=1.5), dict(most=0)):
    with pytest.raises(ValueError, match="(n|most): got .*, allowed: a whole number of at least"):
      style.repetition_reward(["p"], [text], **options)


@pytest.mark.parametrize("text, latin, greek", [
    ("alpha beta \u03b3\u03ac\u03bc\u03bc\u03b1 \u03b4", 0.5, 0.5),
    ("alpha \u03b2 \u03b3 \u03b4", 0.25, 0.75),
    ("alph\u03b1 beta", 0.5, 0.0),  # a word of two alphabets is of neither
    ("caf\u00e9, na\u00efve!", 1.0, 0.0),
    ("\u03b1 \\frac{1}{2} \\boxed{one two three}", 0.0, 1.0),  # reasoning only, and no commands
    ("1 + 2 = 3", 1.0, 1.0), ("", 1.0, 1.0),
])
def test_share_of_words_by_hand(text, latin, greek):
  assert style.language_reward(["p"], [text]) == [latin]
  assert style.language_reward(["p"], [text], alphabet="greek") == [greek]


def test_a_sign_is_a_word_where_there_are_no_spaces():
  text = "\u6211\u4eec find \u7b54\u6848"  # four signs and a word
  assert style.language_reward(["p"], [text], alphabet="cjk") == [0.8]
  assert style.language_reward(["p"], [text]) == [0.2]
  assert style.language_reward(["p"], ["\u0434\u0430 yes"], alphabet="cyrillic") == [0.5]


def test_unknown_alphabet():
  with pytest.raises(ValueError, match="alphabet: got .*, allowed: 'latin', 'cyrillic'"):
    style.language_reward([], [], alphabet="runes")
