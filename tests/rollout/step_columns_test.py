"""The tokens that end the steps of completions, of tokens that end anywhere in a text."""

import numpy as np
import pytest

from rlreason import rollout, steps
from tests.rollout.made import TOKENIZER, make_rollout


class Pieces:
  """A tokenizer whose tokens are given pieces of text; number 0 is hidden, as an end token is."""

  def __init__(self, pieces):
    self._pieces = ("", *pieces)

  def decode(self, ids):
    return "".join(self._pieces[i] for i in ids)


PIECES = ("ab", "c\n", "d", "\n\n", "e", "\nf")
TEXTS = {(1, 2, 3, 4, 5, 0): [1, 3, 4], (1, 2, 3, 6): [1, 3, 3], (5,): [0], (): [],
         (4, 1, 2): [2], (0, 1, 0): [1]}


@pytest.mark.parametrize("ids, columns", TEXTS.items())
def test_a_step_ends_at_the_token_that_has_its_last_character(ids, columns):
  tokenizer = Pieces(PIECES)
  ends = steps.step_ends(tokenizer.decode(ids))
  assert rollout.columns_of_ends(tokenizer, ids, ends) == columns


@pytest.mark.parametrize("ids", [ids for ids in TEXTS if ids])
def test_columns_are_those_of_each_end_alone(ids):
  tokenizer = Pieces(PIECES)
  ends = list(range(1, len(tokenizer.decode(ids)) + 1))
  alone = [rollout.tokens_until(tokenizer, ids, end) - 1 for end in ends]
  assert rollout.columns_of_ends(tokenizer, ids, ends) == alone


def test_ends_of_a_rollout_are_characters_of_its_text_and_columns_of_its_tokens():
  made = make_rollout(["a a b a <eos>", "b", "b b a"])
  # Inserted text may leave columns without tokens before and between.
  shifted = np.pad(made.token_mask, ((0, 0), (1, 0)))
  tokens = np.pad(made.completion_tokens, ((0, 0), (1, 0)))
  moved = made.replace(token_mask=shifted, completion_tokens=tokens)
  found = rollout.step_ends(TOKENIZER, made, "b")
  assert found == [[(4, 2), (6, 3)], [(0, 0)], [(0, 0), (2, 1), (4, 2)]]
  assert rollout.step_ends(TOKENIZER, moved, "b") == [
      [(end, column + 1) for end, column in row] for row in found]
