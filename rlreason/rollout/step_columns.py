"""The tokens at which the steps of a completion end."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlreason import steps
from rlreason.rollout.scored import tokens_until
from rlreason.tokenizers import Tokenizer
from rlreason.types import Rollout


class StepEnd(NamedTuple):
  """The end of a step of a completion."""

  character: int  # its last one, in the completion's text
  column: int  # of its last token, among the T of the rollout


def columns_of_ends(tokenizer: Tokenizer, ids: Sequence[int], ends: Sequence[int]) -> list[int]:
  """The index of the token that ends each text of `ends` characters, ascending, of a completion.

  A token that ends two steps is that of both.
  """
  columns = []
  for end in ends:
    columns.append(tokens_until(tokenizer, ids, end, max(0, columns[-1]) if columns else 0) - 1)
  return columns


def step_ends(
    tokenizer: Tokenizer, rollout: Rollout, separator: str = "\n") -> list[list[StepEnd]]:
  """[B] lists: the ends of the steps of each completion (`steps.step_ends`).

  Special tokens that the text does not show, such as the end token, belong to no step.

  Args:
    tokenizer: of the completions.
    rollout: B completions, numpy.
    separator: the text that ends a step.
  """
  found = []
  for row_ids, mask in zip(rollout.completion_tokens, rollout.token_mask, strict=True):
    ids = row_ids[mask].tolist()
    ends = steps.step_ends(tokenizer.decode(ids), separator)
    places = np.flatnonzero(mask)
    found.append([StepEnd(end - 1, int(places[column])) for end, column in zip(
        ends, columns_of_ends(tokenizer, ids, ends), strict=True)])
  return found
