"""Problems that begin in the middle of an earlier attempt: Satori's restart and explore."""

from collections.abc import Callable, Sequence

import numpy as np

from rlreason.data.selections import rows as rows_lib
from rlreason.data.tasks.base import Row

_STARTS = {True: "right", False: "wrong"}  # the column `start`, as `rewards/restart.py` reads it


def restart_prompts(
    rows: list[Row], encode: Callable[[str], list[int]], *, seed: int, max_back: int,
    step_ends: tuple[str, ...] = (";",), marker: str = "reflect",
) -> list[Row]:
  """All problems and, of those with right and wrong completions, a part of one of each to go on.

  Satori, https://arxiv.org/abs/2502.02508: the last t <= T steps of a completion
  drawn at random are taken back, and the marker asks to look at the rest again. What is left is
  part of the prompt: it is not trained on. A step ends with a token of `step_ends`; what comes
  after the last of these, the answer, is a step as well. At least one step is always left, so that
  a completion of one step is not drawn.

  Args:
    rows: of stages that sample; what has no verdict is not drawn.
    encode: text -> token ids, of the policy's tokenizer.
    seed: of what is drawn, 0 or more; a question's draw does not depend on those after it.
    max_back: T, most steps taken back, at least 1; all numbers from 1 are equally likely.
    step_ends: the tokens that end a step, each one token of the tokenizer.
    marker: put after what is left, of any number of tokens; empty = nothing.

  Returns:
    Rows of the columns of the problem and `start`: "" for the problem alone, "right" or "wrong"
    for what its `prompt_ids` go on with. These say where the completion is from. The text `prompt`
    stays that of the problem. Prompts grow by what is left: `prompt_buckets` must have room.

  Raises:
    ValueError: an option is out of range, or a row is not of a completion.
  """
  rows_lib.check_least(0, seed=seed)
  rows_lib.check_least(1, max_back=max_back)
  end_ids, marker_ids = _end_ids(step_ends, encode), encode(marker) if marker else []
  rows_lib.check_columns(rows, "prompt", "prompt_ids", "completion_ids", "is_right")
  restarts = []
  for number, places in enumerate(rows_lib.by_question(rows)):
    group, rng = [rows[i] for i in places], rows_lib.generator(seed, number)
    restarts.append(rows_lib.problem(group[0]) | {"start": ""})
    # (row, where its steps end) of each verdict
    attempts = {kind: [(row, ends) for row in group if row["is_right"] is kind
                       and len(ends := _step_places(row["completion_ids"], end_ids)) > 1]
                for kind in _STARTS}
    if all(attempts.values()):
      restarts += [_restart(*_draw(attempts[kind], max_back, rng), marker_ids)
                   | {"start": start} for kind, start in _STARTS.items()]
  return restarts


def _draw(
    attempts: list[tuple[Row, list[int]]], max_back: int, rng: np.random.Generator
) -> tuple[Row, int]:
  """One of the attempts, and how many of its tokens are left."""
  row, ends = attempts[rng.integers(len(attempts))]
  return row, ends[-1 - rng.integers(1, min(max_back, len(ends) - 1) + 1)]


def _restart(row: Row, left: int, marker_ids: Sequence[int]) -> Row:
  ids = [*row["prompt_ids"], *row["completion_ids"][:left], *marker_ids]
  return rows_lib.problem(row) | {"prompt_ids": ids} | rows_lib.provenance(row)


def _step_places(ids: Sequence[int], end_ids: set[int]) -> list[int]:
  """Tokens up to and with the end of each step."""
  ends = [place + 1 for place, token in enumerate(ids) if token in end_ids]
  return ends if not ids or ends and ends[-1] == len(ids) else [*ends, len(ids)]


def _end_ids(step_ends: tuple[str, ...], encode: Callable[[str], list[int]]) -> set[int]:
  lists = [encode(text) for text in step_ends]
  bad = [text for text, ids in zip(step_ends, lists, strict=True) if len(ids) != 1]
  if bad or not lists:
    raise ValueError(f"step_ends: got {bad or step_ends}, allowed: texts of one token, one or more")
  return {ids[0] for ids in lists}
