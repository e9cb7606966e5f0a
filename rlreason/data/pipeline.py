"""Endless, seeded, shuffled batches that resume at the row at which they stopped.

Built on grain, in this process and without worker processes. Every epoch contains each row once, in
a new order; batches cross the ends of epochs, so none is short. Each host makes its own shard of
every global batch, without communication. Not here: rows (`data/sources.py`, `data/tasks/`) and how
examples share a row (`data/packing.py`).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import grain

from rlreason import types
from rlreason.data import packing
from rlreason.data.tasks.base import Row, RowSource

T = TypeVar("T")

# Rows are cheap to make: prefetching in threads would cost memory and prevent a clean exit.
_READ_OPTIONS = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
# Rows of an endless stream. Not grain's own infinity, which overflows in batches of one row.
_ENDLESS = 2**50


class BatchIterator(Iterator[T], Generic[T]):
  """An endless iterator whose state can be saved and restored.

  The state is a dict that `json.dumps` takes. After `set_state(state)` the next batch is the one
  that came next when `get_state()` gave that state: none is replayed, none skipped.
  """

  def __init__(self, iterator: grain.DatasetIterator, settings: dict[str, int]):
    self._iterator = iterator
    self._settings = settings

  def __next__(self) -> T:
    return next(self._iterator)

  def get_state(self) -> dict[str, Any]:
    return {"settings": self._settings, "position": self._iterator.get_state()}

  def set_state(self, state: dict[str, Any]) -> None:
    """Moves to a saved position.

    Raises:
      ValueError: the state belongs to other data or settings, for which its position means other
        rows.
    """
    if state["settings"] != self._settings:
      raise ValueError(
          f"the saved data position is of {state['settings']}; this run has {self._settings}. "
          "Resume with the same data, seed, batch size and number of hosts.")
    self._iterator.set_state(state["position"])


def prompt_batches(
    rows: RowSource,
    batch_size: int,
    seed: int,
    *,
    shard_index: int = 0,
    shard_count: int = 1,
) -> BatchIterator[list[Row]]:
  """Batches of task rows.

  The concatenated shards of a batch are the batch that one host would make.

  Args:
    rows: random-access source of rows.
    batch_size: rows of a global batch; a multiple of `shard_count`.
    seed: of the order, in 0..2**32 - 1.
    shard_index: index of this host.
    shard_count: number of hosts.

  Returns:
    An endless iterator over lists of `batch_size / shard_count` rows.

  Raises:
    ValueError: there are no rows, or an argument is out of range.
  """
  settings = _check_settings(rows, batch_size, seed, shard_index, shard_count)
  batches = _shuffle(rows, seed).batch(batch_size // shard_count, batch_fn=list)
  batches = batches[shard_index::shard_count]
  return BatchIterator(iter(batches.to_iter_dataset(_READ_OPTIONS)), settings)


def packed_batches(
    examples: Sequence[packing.Example],
    batch_size: int,
    length: int,
    seed: int,
    *,
    shard_index: int = 0,
    shard_count: int = 1,
) -> BatchIterator[types.PackedBatch]:
  """Packed batches of supervised examples, as numpy arrays.

  Hosts take examples in turn and pack their own: together they see each example once per epoch, in
  other rows than with one host.

  Args:
    examples: each of at most `length` tokens (`packing.fit_examples`).
    batch_size: rows of a global batch; a multiple of `shard_count`.
    length: T, tokens of a row.
    seed: of the order, in 0..2**32 - 1.
    shard_index: index of this host.
    shard_count: number of hosts.

  Returns:
    An endless iterator over `PackedBatch`, B = `batch_size / shard_count` rows of T tokens.

  Raises:
    ValueError: there are no examples, one is too long, or an argument is out of range.
  """
  settings = _check_settings(examples, batch_size, seed, shard_index, shard_count)
  longest = max(len(examples[index]["tokens"]) for index in range(len(examples)))
  if longest > length:
    raise ValueError(f"examples: got one of {longest} tokens, allowed: at most {length}")
  stream = _shuffle(examples, seed)[shard_index::shard_count].to_iter_dataset(_READ_OPTIONS)
  batches = packing.pack(stream, batch_size // shard_count, length)
  return BatchIterator(iter(batches), {**settings, "length": length})


def _shuffle(rows: RowSource, seed: int) -> grain.MapDataset:
  """All rows, repeated in a new order each epoch."""
  return grain.MapDataset.source(rows).shuffle(seed).repeat(max(1, _ENDLESS // len(rows)))


def _check_settings(
    rows: RowSource, batch_size: int, seed: int, shard_index: int, shard_count: int,
) -> dict[str, int]:
  """Checks the common settings of the iterators, and collects those that a position depends on."""
  if not len(rows):
    raise ValueError("rows: got none, allowed: one or more")
  if not 0 <= seed < 2**32:
    raise ValueError(f"seed: got {seed}, allowed: 0 to 2**32 - 1")
  if not 0 <= shard_index < shard_count:
    raise ValueError(
        f"shard_index: got {shard_index}, allowed: 0 to shard_count - 1 = {shard_count - 1}")
  if batch_size < 1 or batch_size % shard_count:
    raise ValueError(
        f"batch_size: got {batch_size}, allowed: a positive multiple of shard_count={shard_count}")
  return {
      "num_rows": len(rows), "batch_size": batch_size, "seed": seed,
      "shard_index": shard_index, "shard_count": shard_count,
  }
