"""At which token a step ends, as a table that a compiled loop reads.

The rule is that of `rlreason.steps`, token by token: a step ends with the token in which its
delimiter ends, unless its text is blank so far. Delimiters that follow directly begin the next step
here, and belong to the step before in texts.
"""

from collections.abc import Sequence

import numpy as np

from rlreason.tokenizers import Tokenizer


def make_table(tokenizer: Tokenizer, vocab_size: int, delimiter: str) -> np.ndarray:
  """The automaton of a delimiter, also of one that spans several tokens.

  Args:
    tokenizer: of the policy.
    vocab_size: V, rows of its embedding.
    delimiter: such as "\\n\\n".

  Returns:
    i32[S, V]: the state after a token; S or more (the state is then what is beyond S) if a step
    ends with the token. The first state is 0.

  Raises:
    ValueError: the delimiter is empty, or the text of no tokens contains it.
  """
  if not delimiter:
    raise ValueError("delimiter: got '', allowed: a text such as '\\n' or '\\n\\n'")
  texts = _token_texts(tokenizer, vocab_size)
  if not set(delimiter) <= set().union(*texts):
    raise ValueError(f"delimiter: got {delimiter!r}, allowed: a text that the tokenizer can write")
  after = _matcher(delimiter)
  count = len(delimiter)
  special, relevant = set(delimiter), {}
  table = np.zeros((2 * count, vocab_size), np.int32)
  for token, text in enumerate(texts):
    for state in range(2 * count):
      # Most tokens have no character of the delimiter: one of a few ways for all of them.
      short = (text if special & set(text) else ("x" if text.strip() else " ") if text else "")
      if (short, state) not in relevant:
        relevant[short, state] = _walk(after, count, state, short)
      table[state, token] = relevant[short, state]
  return table


def step_ends(table: np.ndarray, ids: Sequence[int]) -> list[int]:
  """The columns of the last tokens of the steps of a completion; the last step ends with it."""
  ends, state = [], 0
  for column, token in enumerate(ids):
    state = int(table[state, token])
    if state >= len(table):
      state -= len(table)
      ends.append(column)
  if len(ids) and (not ends or ends[-1] < len(ids) - 1):
    ends.append(len(ids) - 1)
  return ends


def _token_texts(tokenizer: Tokenizer, vocab_size: int) -> list[str]:
  """The text that each token adds to a text."""
  anchor = next((i for i in range(tokenizer.vocab_size) if tokenizer.decode([i]).strip()), 0)
  before = tokenizer.decode([anchor])

  def added(token):
    text = tokenizer.decode([anchor, token])
    return text[len(before):] if text.startswith(before) else tokenizer.decode([token])

  known = min(tokenizer.vocab_size, vocab_size)
  return [added(token) for token in range(known)] + [""] * (vocab_size - known)


def _matcher(delimiter: str):
  """(matched characters, next character) -> matched characters, as Knuth, Morris and Pratt."""
  def after(matched, character):
    text = delimiter[:matched] + character
    return next(n for n in range(min(len(text), len(delimiter)), -1, -1)
                if text.endswith(delimiter[:n]))
  return after


def _walk(after, count: int, state: int, text: str) -> int:
  """A state is twice the matched characters, plus 1 if the step's text is not blank."""
  matched, is_written, is_end = state // 2, state % 2, False
  for character in text:
    matched = after(matched, character)
    is_written |= bool(character.strip())
    if matched == count:
      matched = 0
      if is_written:
        is_end, is_written = True, 0
  return 2 * matched + int(is_written) + 2 * count * is_end
