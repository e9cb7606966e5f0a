"""Rows as stages write them, and helpers that all selections share.

A row of a completion has the columns of its problem, `prompt_ids`, `completion`, `completion_ids`,
`is_right` (None: not verified), `reward` and its parts `rewards` (None: not scored), `tokens`,
`truncated`, and its origin: `stage`, `step`, `policy`. A row of accuracy has the columns of
its problem, `right`, `count` and `step`. Not here: the code that writes them
(`training/stages/rl_metrics.py`).
"""

from collections.abc import Sequence
import json
from typing import Any

import numpy as np

from rlreason.data.tasks.base import Row

PROVENANCE = ("stage", "step", "policy")
# Columns of a completion or of an accuracy, not of the problem.
_WRITTEN = {"completion", "completion_ids", "is_right", "reward", "rewards", "tokens", "truncated",
            "right", "count", *PROVENANCE}


def check_columns(rows: Sequence[Row], *names: str):
  """Raises ValueError if a row lacks a column."""
  for index, row in enumerate(rows):
    missing = [name for name in names if name not in row]
    if missing:
      raise ValueError(
          f"rows: got row {index} without {missing}, allowed: rows of a stage that samples")


def check_least(least: float, **options: float):
  """Raises ValueError if an option is less than `least`."""
  for name, value in options.items():
    if not value >= least:
      raise ValueError(f"{name}: got {value}, allowed: {least} or more")


def by_question(rows: Sequence[Row]) -> list[list[int]]:
  """Indices of the rows of each question, in the order of the questions' first occurrence.

  A question is the policy's input: its token ids or, in rows without, its prompt.
  """
  questions: dict[Any, list[int]] = {}
  for index, row in enumerate(rows):
    ids = row.get("prompt_ids")
    question = tuple(ids) if ids else json.dumps(row["prompt"], sort_keys=True)
    questions.setdefault(question, []).append(index)
  return list(questions.values())


def distinct(rows: Sequence[Row], indices: Sequence[int], column: str) -> list[int]:
  """The index of the first row with each value of a column."""
  first: dict[Any, int] = {}
  for index in indices:
    value = rows[index][column]
    first.setdefault(tuple(value) if isinstance(value, list) else value, index)
  return list(first.values())


def problem(row: Row) -> Row:
  """The columns of the problem, and its `prompt_ids`, as an RL stage reads them."""
  return {name: value for name, value in row.items() if name not in _WRITTEN}


def provenance(row: Row) -> Row:
  """The origin of a row."""
  return {name: row[name] for name in PROVENANCE if name in row}


def generator(seed: int, question: int) -> np.random.Generator:
  """The random generator of a question: later questions do not change its draws."""
  return np.random.default_rng(np.random.SeedSequence([seed, question]))
