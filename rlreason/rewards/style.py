"""Rewards of style: no loops, and one language. They ignore whether the answer is right."""

import collections
from collections.abc import Sequence
import re
from typing import Any, Literal
import unicodedata

from rlreason.rewards import answer as answers

Alphabet = Literal["latin", "cyrillic", "greek", "arabic", "hebrew", "hangul", "cjk"]
# Prefixes of the Unicode names of an alphabet's letters.
_LETTERS = {"latin": ("LATIN",), "cyrillic": ("CYRILLIC",), "greek": ("GREEK",),
            "arabic": ("ARABIC",), "hebrew": ("HEBREW",), "hangul": ("HANGUL",),
            "cjk": ("CJK", "HIRAGANA", "KATAKANA")}
_COMMAND = re.compile(r"\\[A-Za-z]+")
# Scripts written without spaces: each of their characters is a word.
_WORD = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\\W\\d_\u3040-\u9fff]+")


def repetition_reward(
    prompts: list[Any], completions: list[str], *, n: int = 4, most: int = 3,
    **unused_columns: list[Any],
) -> list[float]:
  """-1 for a completion that repeats one n-gram of words more than `most` times, else 0.

  T1, https://arxiv.org/abs/2501.11651, which does not specify how repetitions are found. N-grams
  with a digit do not count: numbers repeat legitimately.

  Args:
    prompts: ignored.
    completions: texts; words are separated by spaces.
    n: words of an n-gram, at least 1.
    most: most occurrences of an n-gram, at least 1.
  """
  for name, value in (("n", n), ("most", most)):
    if value != int(value) or value < 1:
      raise ValueError(f"{name}: got {value!r}, allowed: a whole number of at least 1")
  return [-float(_most_frequent(text, int(n)) > most) for text in completions]


def _most_frequent(text: str, n: int) -> int:
  """How often the most frequent n-gram of words without digits occurs."""
  words = text.split()
  is_plain = [not any(map(str.isdigit, word)) for word in words]
  counts = collections.Counter(
      tuple(words[i:i + n]) for i in range(len(words) - n + 1) if all(is_plain[i:i + n]))
  return max(counts.values(), default=0)


def language_reward(
    prompts: list[Any], completions: list[str], *, alphabet: Alphabet = "latin",
    reasoning_text: Sequence[str] | None = None, **unused_columns: list[Any],
) -> list[float]:
  r"""The share of the reasoning's words that are in the target language, by its alphabet.

  DeepSeek-R1, https://arxiv.org/abs/2501.12948. Words are runs of letters before the
  answer, LaTeX commands left out; a word is of an alphabet if all of its letters are. A text
  without words gets 1.

  Args:
    prompts: ignored.
    completions: texts.
    alphabet: of the target language; in "cjk" each character is a word.
    reasoning_text: the text before the answer of each row; None: before the first box.
  """
  if alphabet not in _LETTERS:
    raise ValueError(f"alphabet: got {alphabet!r}, allowed: {', '.join(map(repr, _LETTERS))}")
  reasoning = reasoning_text or map(answers.text_before_answer, completions)
  return [_share_of_words(text, _LETTERS[alphabet]) for text in reasoning]


def _share_of_words(text: str, names: tuple[str, ...]) -> float:
  words = _WORD.findall(_COMMAND.sub(" ", text))
  if not words:
    return 1.0
  wanted = sum(all(unicodedata.name(letter, "").startswith(names) for letter in word)
               for word in words)
  return wanted / len(words)
