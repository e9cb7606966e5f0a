"""Plans of passes without padding: assigns prompts and completions to packed rows.

All of it runs in numpy on the host and depends only on the lengths, so that a resumed run packs
like an uninterrupted one. Rows have few widths, because each width compiles an update. Not here:
the model (`models/groups.py` reads the plan).
"""

import math
from typing import NamedTuple

import numpy as np

from rlreason.types import RowPacking, RowPlan

_PASS = 24  # fixed cost of a pass, such as adding its gradients, in tokens
_GOOD = 1.05  # times the least cost
_WASTE = 0.1  # share of padding that is looked for among good sizes


class Sequences(NamedTuple):
  """The lengths in the rows of a rollout, or of a batch; prompts end in the last of S columns."""

  prompts: np.ndarray  # i32[B] tokens of each prompt, 1 or more
  completions: np.ndarray  # i32[B] number of computed tokens of each completion; 0: none
  columns: tuple[int, int]  # S and T

  @property
  def sizes(self) -> np.ndarray:
    """i32[B] tokens that go through the model: the output at the last one is not needed."""
    return np.where(self.completions > 0, self.prompts + self.completions - 1, 0)


class _Shape(NamedTuple):
  """The sizes on which a compiled program depends."""

  rows: int  # of a pass, in each part
  width: int  # tokens of a row
  passes: int  # of a minibatch, at most
  tokens: int  # K, completion tokens of a pass, in each part


def plan_rows(
    sequences: Sequences, order: np.ndarray, max_tokens: int, *, num_parts: int = 1,
    width: int = 0, deals: bool = True, model_width: int = 512,
) -> RowPlan | None:
  """The passes of every minibatch; None if padded rows cost no more or fit no other way.

  Args:
    sequences: of B rows.
    order: i32[N, Q] the rows of each of N minibatches.
    max_tokens: of a pass, over all parts; at least one row of each part, if `width` is given.
    num_parts: devices that split rows, C; divides Q.
    width: W, tokens of a packed row, at least the longest sequence; 0: chosen from the data.
    deals: whether a minibatch's rows are distributed to parts of about equal size; False: each part
      keeps its own rows.
    model_width: D, which determines the relative cost of attention.

  Returns:
    A plan of numpy arrays.

  Raises:
    ValueError: the parts do not divide the rows; a sequence is longer than a row.
  """
  if order.shape[1] % num_parts:
    raise ValueError(
        f"num_parts: got {num_parts}, allowed: a divisor of the {order.shape[1]} rows")
  longest = int(sequences.sizes.max(initial=1))
  if width and width < longest:
    raise ValueError(f"width: got {width}, allowed: {longest} or more, the longest sequence")
  rows = _deal(sequences.sizes, order, num_parts) if deals else order
  rows = rows.reshape(len(order), num_parts, -1)
  columns = sum(sequences.columns)
  widths = [width] if width else _widths(columns - 1)
  packed = {tokens: _pack_all(sequences.sizes[rows], tokens) for tokens in widths}
  costs, wastes, needed = {}, {}, sequences.sizes[rows].sum()
  for tokens in widths:
    count = _rows_of_pass(max_tokens // num_parts, rows.shape[2] * columns, tokens)
    # A pass must not take more memory than one of padded rows, for tokens or attention scores.
    if not width and count * tokens * num_parts * max(tokens, columns) > max_tokens * columns:
      continue
    passes = -(-packed[tokens][2].max(axis=1) // count)
    costs[count, tokens] = _cost(passes, count, tokens, model_width)
    wastes[count, tokens] = 1 - needed / (
        np.maximum(1, passes).sum() * num_parts * count * tokens)
  if not costs:
    return None
  count, tokens = _choose(costs, wastes)
  per_pass = max(1, max_tokens // (num_parts * columns))
  padded = _cost(
      np.full(len(order), -(-rows.shape[2] // per_pass)), per_pass, columns, model_width)
  if not width and padded <= costs[count, tokens]:
    return None
  return _make_plan(sequences, rows, packed[tokens], count, tokens)


def padding_waste(plan: RowPlan) -> float:
  """The share of padding among the tokens of the computed passes, on all devices."""
  needed = plan.packing.segment_ids[plan.is_needed]
  return 1.0 - np.count_nonzero(needed) / needed.size if needed.size else 0.0


def _widths(longest: int) -> list[int]:
  """Widths of rows to choose from: multiples of 8 in steps of an eighth of a power of two.

  They range from that of the longest possible sequence to four times as much.
  """
  grid = (eighths << power for power in range(31) for eighths in range(8, 16))
  grid = [width for width in grid if width % 8 == 0 and width >= longest]
  return [width for width in grid if width <= max(4 * longest, grid[0])]


def _rows_of_pass(max_tokens: int, padded: int, width: int) -> int:
  """A power of two: small passes leave little unused space, large ones have little fixed cost.

  `padded` are the tokens of a minibatch with their padding.
  """
  rows = max(1, min(round(math.sqrt(_PASS * padded) / width), max_tokens // width))
  return 1 << (rows.bit_length() - 1)


def _choose(
    costs: dict[tuple[int, int], float], wastes: dict[tuple[int, int], float]) -> tuple[int, int]:
  """Sizes whose cost is near the least: the roundest of those with little padding, so that other
  steps use them too; without any of these, those with the least padding.
  """
  good = [shape for shape, cost in costs.items() if cost <= _GOOD * min(costs.values())]
  full = [shape for shape in good if wastes[shape] <= _WASTE] or [min(good, key=wastes.get)]
  odd_part = lambda number: number // (number & -number)
  return min(full, key=lambda shape: (
      odd_part(shape[0]) * odd_part(shape[1]), -shape[0] * shape[1], shape))


def _cost(passes: np.ndarray, rows: int, width: int, model_width: int) -> float:
  """The cost, in tokens, of i32[N] passes of `rows` rows.

  Attention scores and sums take 4 D W operations per token, and the other products about 24 D².
  """
  each = rows * width * (1 + width / (6 * model_width)) + _PASS
  return float(np.maximum(1, passes).sum()) * each


def _deal(sizes: np.ndarray, order: np.ndarray, num_parts: int) -> np.ndarray:
  """[N, Q] -> [N, Q]: each minibatch's rows from longest to shortest, back and forth."""
  if num_parts == 1:
    return order
  ranked = np.take_along_axis(order, np.argsort(-sizes[order], axis=1, kind="stable"), axis=1)
  rounds = ranked.reshape(len(order), -1, num_parts).copy()
  rounds[:, 1::2] = rounds[:, 1::2, ::-1]
  return rounds.swapaxes(1, 2).reshape(order.shape)


def _pack_all(sizes: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """`_pack` for i32[N, C, Q / C]: the row and the start of each, and the rows of each part."""
  found = [_pack(part, width) for part in sizes.reshape(-1, sizes.shape[-1])]
  row, start, count = (np.array(x, np.int32) for x in zip(*found, strict=True))
  return row.reshape(sizes.shape), start.reshape(sizes.shape), count.reshape(sizes.shape[:2])


def _pack(sizes: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, int]:
  """Longest first, into the first row with space. `[3, 1, 2, 0]`, 4 -> [0, 0, 1, 0], [0, 3, 0, 0],
  2
  """
  row, start = np.zeros((2, len(sizes)), np.int32)
  used = np.zeros(len(sizes), np.int32)
  for i in np.argsort(-sizes, kind="stable"):
    if sizes[i]:
      row[i] = np.argmax(used + sizes[i] <= width)
      start[i] = used[row[i]]
      used[row[i]] += sizes[i]
  return row, start, int(np.count_nonzero(used))


def _make_plan(
    sequences: Sequences, rows: np.ndarray, packed: tuple, per_pass: int, width: int) -> RowPlan:
  """The arrays of a plan; `rows` i32[N, C, Q / C]."""
  row, start, counts = packed
  minibatches, parts, per_part = rows.shape
  completions = sequences.completions[rows]
  num_passes = np.maximum(1, -(-counts.max(axis=1) // per_pass))
  # The maximum for any lengths: unneeded ones are not computed.
  most = -(-per_part // max(1, width // max(1, sum(sequences.columns) - 1)))
  shape = _Shape(per_pass, width, -(-most // per_pass), 0)
  of_pass = row // per_pass
  # The completion tokens of a pass, sequence by sequence.
  first = np.zeros(rows.shape, np.int32)
  filled = np.zeros((minibatches, parts, shape.passes), np.int64)
  for i in range(per_part):
    at = (*np.ogrid[:minibatches, :parts], of_pass[..., i])
    first[..., i] = filled[at]
    filled[at] += completions[..., i]
  tokens = int(filled.max(initial=1))
  # Rounded up, for few programs: a quarter, a half, ... of a pass, or all of it.
  step = -(-per_pass * width // 4)
  shape = shape._replace(tokens=min(per_pass * width, -(-max(tokens, 1) // step) * step))
  starts = np.full((minibatches, shape.passes, parts, per_part), -1, np.int32)
  np.put_along_axis(
      starts, of_pass[:, None], np.where(completions > 0, first, -1)[:, None], axis=1)
  packing = _packing(
      sequences, rows, (of_pass, row % per_pass * width + start, first), shape)
  return RowPlan(
      rows=rows.reshape(minibatches, -1).astype(np.int32),
      is_needed=np.arange(shape.passes) < num_passes[:, None],
      packing=packing.replace(
          starts=starts, lengths=np.broadcast_to(
              completions[:, None], starts.shape).astype(np.int32)))


def _packing(sequences: Sequences, rows: np.ndarray, where: tuple, shape: _Shape) -> RowPacking:
  """Everything except `starts` and `lengths`, with one entry per token of all sequences."""
  of_pass, offset, first = where
  minibatches, parts, per_part = rows.shape
  prompt_columns, columns = sequences.columns
  lead = (minibatches, shape.passes, parts)
  segment_ids, sources, positions = np.zeros((3, *lead, shape.rows * shape.width), np.int32)
  reads, targets = np.zeros((2, *lead, shape.tokens), np.int32)

  def each(lengths):
    """For every token: (minibatch, part, sequence) and its index in the sequence."""
    flat = lengths.reshape(-1)
    owner = np.repeat(np.arange(flat.size), flat)
    return np.unravel_index(owner, rows.shape), np.arange(owner.size) - np.repeat(
        np.cumsum(flat) - flat, flat)

  (n, c, b), step = each(sequences.sizes[rows])
  target = (n, of_pass[n, c, b], c, offset[n, c, b] + step)
  prompts = sequences.prompts[rows]
  segment_ids[target], positions[target] = b + 1, step
  sources[target] = b * (prompt_columns + columns) + prompt_columns - prompts[n, c, b] + step
  (n, c, b), step = each(sequences.completions[rows])
  target = (n, of_pass[n, c, b], c, first[n, c, b] + step)
  reads[target] = offset[n, c, b] + prompts[n, c, b] - 1 + step
  targets[target] = b * columns + step
  in_rows = lambda x: x.reshape(*lead, shape.rows, shape.width)
  return RowPacking(
      segment_ids=in_rows(segment_ids), sources=in_rows(sources), positions=in_rows(positions),
      reads=reads, targets=targets, starts=None, lengths=None)
