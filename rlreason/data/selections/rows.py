"""Rows as stages write them, and what all selections among them share.

A row of a completion has the columns of its problem, `prompt_ids`, `completion`, `completion_ids`,
`is_right` (None: not verified), `reward` and its parts `rewards` (None: not scored), `tokens`,
`truncated`, and where it is from: `stage`, `step`, `policy`. A row of accuracy has the columns of
its problem, `right`, `count` and `step`. Not here: what writes them
(`training/stages/rl_metrics.py`).
"""

from collections.abc import Sequence
import json
from typing import Any

import numpy as np

from rlreason.data.tasks.base import Row

PROVENANCE = ("stage", "step", "policy")
# Columns of a completion or of an accuracy, and not of the problem.
_WRITTEN = {"completion", "completion_ids", "is_right", "reward", "rewards", "tokens", "truncated",
            "right", "count", *PROVENANCE}


def check_columns(rows: Sequence[Row], *names: str):
  """Raises ValueError where a row lacks a column."""
  for place, row in enumerate(rows):
    missing = [name for name in names if name not in row]
    if missing:
      raise ValueError(
          f"rows: got row {place} without {missing}, allowed: rows of a stage that samples")


def check_least(least: float, **options: float):
  """Raises ValueError where an option is less than that."""
  for name, value in options.items():
    if not value >= least:
      raise ValueError(f"{name}: got {value}, allowed: {least} or more")


def by_question(rows: Sequence[Row]) -> list[list[int]]:
  """Places of the rows of each question, in the order in which the questions first come.

  A question is what the policy was given: its token ids or, in rows without, its prompt.
  """
  questions: dict[Any, list[int]] = {}
  for place, row in enumerate(rows):
    ids = row.get("prompt_ids")
    question = tuple(ids) if ids else json.dumps(row["prompt"], sort_keys=True)
    questions.setdefault(question, []).append(place)
  return list(questions.values())


def distinct(rows: Sequence[Row], places: Sequence[int], column: str) -> list[int]:
  """The first place of each value of a column."""
  first: dict[Any, int] = {}
  for place in places:
    value = rows[place][column]
    first.setdefault(tuple(value) if isinstance(value, list) else value, place)
  return list(first.values())


def problem(row: Row) -> Row:
  """The columns of the problem, and its `prompt_ids`: what a stage of RL takes."""
  return {name: value for name, value in row.items() if name not in _WRITTEN}


def provenance(row: Row) -> Row:
  """Where a row is from."""
  return {name: row[name] for name in PROVENANCE if name in row}


def generator(seed: int, question: int) -> np.random.Generator:
  """The random numbers of a question: those after it do not change what is drawn for it."""
  return np.random.default_rng(np.random.SeedSequence([seed, question]))
