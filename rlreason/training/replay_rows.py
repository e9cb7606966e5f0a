"""Rows of another trainer for `replay`: token ids, log-probs, rewards or advantages, as JSON lines.

Not here: the computation (replay.py).
"""

from collections.abc import Sequence
import json
import math
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

IDS = ("prompt_ids", "completion_ids")
# One number for each token of the completion.
TOKEN_FIELDS = (
    "old_log_probs", "sampler_log_probs", "ref_log_probs", "values", "returns", "advantages",
    "token_rewards")
ACTIONS = "action_mask"  # 1 for each token of the completion that the policy chose, 0 for others
ROW_FIELDS = ("reward", "greedy_reward", "is_right", "truncated", "group")
_NUMBERS = ("reward", "greedy_reward")
_BOOLEANS = ("is_right", "truncated")
_MAX_WIDTH = 2**24  # tokens

Row = dict[str, Any]


class Replayed(NamedTuple):
  """B rows, prompts padded on the left to S tokens and completions on the right to T."""

  prompt_tokens: np.ndarray  # i32[B, S]
  prompt_mask: np.ndarray  # bool[B, S]
  completion_tokens: np.ndarray  # i32[B, T]
  token_mask: np.ndarray  # bool[B, T]
  action_mask: np.ndarray  # bool[B, T] all of them, if the rows do not state it
  of_tokens: dict[str, np.ndarray]  # f32[B, T] of the given TOKEN_FIELDS
  of_rows: dict[str, np.ndarray]  # [B] of the given ROW_FIELDS; a null reward is NaN


def read(path: str | os.PathLike, *, vocab_size: int, group_size: int) -> Replayed:
  """Reads and checks rows; those of a group are put next to each other.

  Args:
    path: of the file.
    vocab_size: one more than the largest id.
    group_size: number of rows that a `group`, if given, must have; rows without one are grouped in
      order. With advantages nothing is grouped.

  Raises:
    FileNotFoundError: there is none.
    ValueError: names the line and the field, the value given and the values allowed.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"rows {str(path)!r} not found; give a file of JSON lines")
  rows = []
  for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
    if line.strip():
      where = f"{path}:{number}"
      rows.append(_checked(where, _parse(where, line), vocab_size))
  if not rows:
    raise ValueError(f"rows: got no line in {str(path)!r}, allowed: one completion per line")
  for name in (ACTIONS, *TOKEN_FIELDS, *ROW_FIELDS):
    count = sum(name in row for row in rows)
    if 0 < count < len(rows):
      raise ValueError(f"{path}: {name}: got it in {count} of {len(rows)} rows, allowed: in all of "
                       "them, or in none")
  if "advantages" not in rows[0]:
    rows = _grouped(path, rows, group_size)
  return _padded(rows)


def _parse(where: str, line: str) -> Row:
  try:
    row = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{where}: no JSON: {error}") from error
  if not isinstance(row, dict):
    raise ValueError(f"{where}: got {type(row).__name__}, allowed: an object of fields")
  known = (*IDS, ACTIONS, *TOKEN_FIELDS, *ROW_FIELDS)
  for name in row:
    if name not in known:
      raise ValueError(f"{where}: {name}: unknown, allowed: {', '.join(known)}")
  return row


def _checked(where: str, row: Row, vocab_size: int) -> Row:
  for name in IDS:
    ids = row.get(name)
    if not isinstance(ids, list) or not 1 <= len(ids) <= _MAX_WIDTH or not all(
        type(i) is int and 0 <= i < vocab_size for i in ids):
      raise ValueError(f"{where}: {name}: got {_show(ids)}, allowed: a list of ids below "
                       f"{vocab_size}, the vocabulary of the model")
  length = len(row["completion_ids"])
  if type(row.get("advantages")) in (int, float):
    row = row | {"advantages": [row["advantages"]] * length}
  for name in TOKEN_FIELDS:
    if name in row and (not isinstance(row[name], list) or len(row[name]) != length
                        or not all(map(_is_number, row[name]))):
      raise ValueError(f"{where}: {name}: got {_show(row[name])}, allowed: {length} finite "
                       "numbers, one for each of completion_ids")
  actions = row.get(ACTIONS, [])
  if ACTIONS in row and (not isinstance(actions, list) or len(actions) != length
                         or not all(value in (0, 1) for value in actions)):
    raise ValueError(f"{where}: {ACTIONS}: got {_show(actions)}, allowed: {length} of 0 and 1, one "
                     "for each of completion_ids")
  for name in _NUMBERS:
    if row.get(name) is not None and not _is_number(row[name]):
      raise ValueError(f"{where}: {name}: got {_show(row[name])}, allowed: a finite number or null")
  for name in _BOOLEANS:
    if name in row and not isinstance(row[name], bool):
      raise ValueError(f"{where}: {name}: got {_show(row[name])}, allowed: true or false")
  if "token_rewards" in row and "reward" not in row:
    raise ValueError(f"{where}: token_rewards: got them without a reward, allowed: beside the "
                     "reward, which is paid at the end and may be 0")
  if ("reward" in row) == ("advantages" in row):
    raise ValueError(f"{where}: reward: got {'both' if 'reward' in row else 'neither'} of reward "
                     "and advantages, allowed: one of them")
  return row


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and math.isfinite(value) and abs(value) < 3.4e38


def _show(value: Any) -> str:
  if isinstance(value, list):
    return f"a list of {len(value)}"
  return repr(value)[:100]


def _grouped(path: pathlib.Path, rows: Sequence[Row], group_size: int) -> list[Row]:
  groups = {}
  for i, row in enumerate(rows):
    name = json.dumps(row["group"]) if "group" in row else i // group_size
    groups.setdefault(name, []).append(row)
  for name, members in groups.items():
    if len(members) != group_size:
      raise ValueError(
          f"{path}: group: got {len(members)} rows of group {name}, allowed: {group_size}, the "
          "group_size of the stage (or give advantages)")
  return [row for members in groups.values() for row in members]


def _padded(rows: Sequence[Row]) -> Replayed:
  lengths = {name: np.array([len(row[name]) for row in rows]) for name in IDS}
  widths = {name: int(found.max()) for name, found in lengths.items()}
  columns = {name: np.arange(width) for name, width in widths.items()}
  prompt_mask = columns["prompt_ids"] >= widths["prompt_ids"] - lengths["prompt_ids"][:, None]
  mask = columns["completion_ids"] < lengths["completion_ids"][:, None]

  def fill(name, mask, dtype):
    array = np.zeros(mask.shape, dtype)
    array[mask] = np.concatenate([np.asarray(row[name], dtype) for row in rows])
    return array

  given = [name for name in (*TOKEN_FIELDS, *_NUMBERS, *_BOOLEANS) if name in rows[0]]
  return Replayed(
      fill("prompt_ids", prompt_mask, np.int32), prompt_mask,
      fill("completion_ids", mask, np.int32), mask,
      fill(ACTIONS, mask, bool) if ACTIONS in rows[0] else mask,
      {name: fill(name, mask, np.float32) for name in given if name in TOKEN_FIELDS},
      {name: np.array([row[name] for row in rows], bool if name in _BOOLEANS else np.float32)
       for name in given if name not in TOKEN_FIELDS})
