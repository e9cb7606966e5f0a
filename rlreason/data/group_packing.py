"""Plans of updates in which groups share their prompt: assigns completions to packed rows.

All of it runs in numpy on the host, and the arrays of a plan have the same shape for all its
micro-batches, so that a compiled update can scan over them. Not here: the model (`models/groups.py`
reads the plan).
"""

import numpy as np

from rlreason.types import GroupPacking, GroupPlan


def pack_groups(lengths: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Packs the completions of each group: longest first, into the first row with space.

  lengths [[3, 1, 2, 0]], width 4 -> rows [[0, 0, 1, 0]], starts [[0, 3, 0, 4]], counts [2]

  Args:
    lengths: i32[P, G] tokens of each completion.
    width: W, tokens of a row.

  Returns:
    The row of each completion among those of its group and its first column, i32[P, G] each, and
    the number of rows of each group that have a token, i32[P].

  Raises:
    ValueError: a completion is longer than a row.
  """
  if lengths.max(initial=0) > width:
    raise ValueError(f"lengths: got {lengths.max()} tokens, allowed: 0 to {width}, those of a row")
  groups, size = lengths.shape
  order, every = np.argsort(-lengths, axis=1, kind="stable"), np.arange(groups)
  used = np.zeros((groups, size), np.int32)
  rows, starts = np.zeros((2, groups, size), np.int32)
  for column in order.T:
    length = lengths[every, column]
    row = np.argmax(used + length[:, None] <= width, axis=1)
    rows[every, column], starts[every, column] = row, used[every, row]
    used[every, row] += length
  return rows, starts, np.count_nonzero(used, axis=1).astype(np.int32)


def round_rows(count: int) -> int:
  """Rounds a number of rows up to one of few sizes: each size compiles an update.

  At least 1, and at most a quarter more than `count`: empty rows cost as much as others.
  """
  step = 2 ** max(0, (count - 1).bit_length() - 3)
  return max(1, -(-count // step) * step)


def plan_groups(
    lengths: np.ndarray, order: np.ndarray, groups_per_micro_batch: int, columns: int, *,
    width: int | None = None, num_parts: int = 1,
) -> GroupPlan:
  """The micro-batches of every minibatch.

  Within a minibatch, groups are distributed so that the micro-batches need about equally many rows.

  Args:
    lengths: i32[P, G] tokens of each completion; 0 for one that is excluded.
    order: i32[N, Q] the prompts of each of N minibatches, of all epochs.
    groups_per_micro_batch: divides Q.
    columns: T, width of the completions' arrays.
    width: W, tokens of a packed row, at least the longest completion; None = T.
    num_parts: devices that split rows; divides `groups_per_micro_batch`.

  Returns:
    A plan of numpy arrays with M = Q / groups_per_micro_batch.

  Raises:
    ValueError: a number does not divide; a completion is too long.
  """
  size, width = lengths.shape[1], columns if width is None else width
  (minibatches, prompts), per_part = order.shape, groups_per_micro_batch // num_parts
  if prompts % groups_per_micro_batch:
    raise ValueError(f"groups_per_micro_batch: got {groups_per_micro_batch}, allowed: a divisor of "
                     f"the {prompts} groups of a minibatch")
  if groups_per_micro_batch % num_parts:
    raise ValueError(f"num_parts: got {num_parts}, allowed: a divisor of "
                     f"groups_per_micro_batch={groups_per_micro_batch}")
  if lengths.max(initial=0) > columns:
    raise ValueError(
        f"columns: got {columns}, allowed: {lengths.max()} or more, the longest completion")
  row_of, start_of, counts = pack_groups(lengths, width)
  chosen = _deal(order, counts, per_part)  # [N, parts of all micro-batches, groups of a part]
  ends = np.cumsum(counts[chosen], axis=-1)
  num_rows = round_rows(int(ends[..., -1].max()))
  first = (ends - counts[chosen])[..., None]
  shape = (minibatches, prompts // groups_per_micro_batch, num_parts, per_part * size, 1)
  places = ((first + row_of[chosen]) * width + start_of[chosen]).reshape(shape)
  steps = np.arange(columns)
  places = np.where(steps < lengths[chosen].reshape(shape), places + steps, -1).astype(np.int32)
  indices = (chosen[..., None] * size + np.arange(size)).astype(np.int32)
  return GroupPlan(indices.reshape(*shape[:2], -1), _packing(places, (num_rows, width), size))


def _deal(order: np.ndarray, counts: np.ndarray, per_part: int) -> np.ndarray:
  """[N, Q] -> [N, Q / per_part, per_part]: from the most rows to the fewest, back and forth."""
  ranked = np.take_along_axis(order, np.argsort(-counts[order], axis=1, kind="stable"), axis=1)
  rounds = ranked.reshape(len(order), per_part, -1).copy()
  rounds[:, 1::2] = rounds[:, 1::2, ::-1]
  return rounds.swapaxes(1, 2)


def _packing(places: np.ndarray, shape: tuple[int, int], group_size: int) -> GroupPacking:
  """The packing of `places` i32[N, M, C, B / C, T] in rows of `shape`, for each part."""
  lead = places.shape[:3]
  segment_ids, steps = np.zeros((2, *lead, shape[0] * shape[1]), np.int32)
  is_token = places >= 0
  *part, sequence, step = np.nonzero(is_token)
  target = (*part, places[is_token])
  segment_ids[target], steps[target] = sequence + 1, step
  segment_ids = segment_ids.reshape(*lead, *shape)
  # A row without tokens belongs to the first prompt.
  return GroupPacking(
      prompt_of_row=np.maximum(segment_ids[..., 0] - 1, 0) // group_size, segment_ids=segment_ids,
      steps=steps.reshape(segment_ids.shape), places=places, group_size=group_size)
