"""Problems that start in the middle of an earlier attempt: Satori's restart and explore."""

from collections.abc import Callable, Sequence

import numpy as np

from rlreason.data.selections import rows as rows_lib
from rlreason.data.tasks.base import Row

_STARTS = {True: "right", False: "wrong"}  # the column `start`, as `rewards/restart.py` reads it


def restart_prompts(
    rows: list[Row], encode: Callable[[str], list[int]], *, seed: int, max_back: int,
    step_ends: tuple[str, ...] = (";",), marker: str = "reflect",
) -> list[Row]:
  """All problems and, for those with right and wrong completions, a prefix of one of each.

  Satori, https://arxiv.org/abs/2502.02508: the last t <= T steps of a completion
  drawn at random are removed, and the marker asks to reconsider the rest. The remaining prefix is
  part of the prompt: it is not trained on. A step ends with a token of `step_ends`; the text after
  the last of these, the answer, is a step as well. At least one step is always kept, so that a
  completion of one step is not drawn.

  Args:
    rows: of stages that sample; those without a verdict are not drawn.
    encode: text -> token ids, of the policy's tokenizer.
    seed: of the draws, 0 or more; a question's draw does not depend on those after it.
    max_back: T, most steps removed, at least 1; all numbers from 1 are equally likely.
    step_ends: the tokens that end a step, each one token of the tokenizer.
    marker: put after the prefix, of any number of tokens; empty = nothing.

  Returns:
    Rows of the columns of the problem and `start`: "" for the problem alone, "right" or "wrong" if
    its `prompt_ids` continue with such a prefix. These rows also name the origin of the completion.
    The text `prompt` stays that of the problem. Prompts grow by the prefix: `prompt_buckets` must
    be large enough.

  Raises:
    ValueError: an option is out of range, or a row is not of a completion.
  """
  rows_lib.check_least(0, seed=seed)
  rows_lib.check_least(1, max_back=max_back)
  end_ids, marker_ids = _end_ids(step_ends, encode), encode(marker) if marker else []
  rows_lib.check_columns(rows, "prompt", "prompt_ids", "completion_ids", "is_right")
  restarts = []
  for number, indices in enumerate(rows_lib.by_question(rows)):
    group, rng = [rows[i] for i in indices], rows_lib.generator(seed, number)
    restarts.append(rows_lib.problem(group[0]) | {"start": ""})
    # (row, ends of its steps) for each verdict
    attempts = {kind: [(row, ends) for row in group if row["is_right"] is kind
                       and len(ends := _step_ends(row["completion_ids"], end_ids)) > 1]
                for kind in _STARTS}
    if all(attempts.values()):
      restarts += [_restart(*_draw(attempts[kind], max_back, rng), marker_ids)
                   | {"start": start} for kind, start in _STARTS.items()]
  return restarts


def _draw(
    attempts: list[tuple[Row, list[int]]], max_back: int, rng: np.random.Generator
) -> tuple[Row, int]:
  """One of the attempts, and the number of its tokens that are kept."""
  row, ends = attempts[rng.integers(len(attempts))]
  return row, ends[-1 - rng.integers(1, min(max_back, len(ends) - 1) + 1)]


def _restart(row: Row, left: int, marker_ids: Sequence[int]) -> Row:
  ids = [*row["prompt_ids"], *row["completion_ids"][:left], *marker_ids]
  return rows_lib.problem(row) | {"prompt_ids": ids} | rows_lib.provenance(row)


def _step_ends(ids: Sequence[int], end_ids: set[int]) -> list[int]:
  """Number of tokens up to and including the end of each step."""
  ends = [i + 1 for i, token in enumerate(ids) if token in end_ids]
  return ends if not ids or ends and ends[-1] == len(ids) else [*ends, len(ids)]


def _end_ids(step_ends: tuple[str, ...], encode: Callable[[str], list[int]]) -> set[int]:
  lists = [encode(text) for text in step_ends]
  bad = [text for text, ids in zip(step_ends, lists, strict=True) if len(ids) != 1]
  if bad or not lists:
    raise ValueError(f"step_ends: got {bad or step_ends}, allowed: texts of one token, one or more")
  return {ids[0] for ids in lists}
