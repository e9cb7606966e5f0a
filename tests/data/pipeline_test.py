import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from rlreason.data import packing
from rlreason.data import pipeline


def _rows(count):
  return [{"prompt": f"p{number}", "answer": str(number)} for number in range(count)]


def _examples(count):
  lengths = np.random.default_rng(0).integers(2, 9, count)
  return [packing.make_example([number], [number] * (int(length) - 1))
          for number, length in enumerate(lengths)]


def _prompts(**options):
  return pipeline.prompt_batches(_rows(11), 4, seed=5, **options)


def _packed(**options):
  return pipeline.packed_batches(_examples(23), 4, 16, seed=5, **options)


def _plain(batch):
  """A batch as plain values, to compare."""
  if isinstance(batch, list):
    return [row["prompt"] for row in batch]
  return [getattr(batch, name).tolist()
          for name in ("tokens", "segment_ids", "positions", "loss_weights")]


def _take(iterator, count):
  return [_plain(next(iterator)) for _ in range(count)]


def test_every_epoch_shows_every_row_once_in_an_order_of_its_own():
  stream = [prompt for batch in _take(_prompts(), 11) for prompt in batch]
  epochs = [stream[start:start + 11] for start in range(0, 44, 11)]
  for epoch in epochs:
    assert sorted(epoch) == sorted(row["prompt"] for row in _rows(11))
  assert len({tuple(epoch) for epoch in epochs}) == 4


def test_packed_epochs_hold_every_example_once():
  seen = []
  for batch in (next(iterator) for iterator in [_packed()] * 12):
    assert batch.tokens.shape == (4, 16)
    for tokens, segments in zip(batch.tokens, batch.segment_ids):
      seen += [int(tokens[segments == segment][0]) for segment in range(1, segments.max() + 1)]
  counts = np.bincount(seen, minlength=23)
  assert counts.max() - counts.min() <= 1 and counts.min() >= 2


@pytest.mark.parametrize("make", [_prompts, _packed])
@pytest.mark.parametrize("before", [0, 1, 2, 3, 5, 8])
def test_resume_neither_replays_nor_skips(make, before):
  whole = _take(make(), before + 6)
  iterator = make()
  assert _take(iterator, before) == whole[:before]
  state = json.loads(json.dumps(iterator.get_state()))
  assert _take(iterator, 6) == whole[before:]  # taking the state changes nothing
  resumed = make()
  _take(resumed, 2)  # a used iterator can be set as well
  resumed.set_state(state)
  assert _take(resumed, 6) == whole[before:]


def test_a_resume_in_a_new_process_goes_on_where_the_first_stopped():
  iterator = _packed()
  _take(iterator, 3)
  state = iterator.get_state()
  program = (
      "import json, sys\n"
      "from tests.data import pipeline_test as test\n"
      "iterator = test._packed()\n"
      "iterator.set_state(json.loads(sys.argv[1]))\n"
      "print(json.dumps(test._take(iterator, 4)))\n")
  output = subprocess.run(
      [sys.executable, "-c", program, json.dumps(state)], check=True, capture_output=True,
      cwd=pathlib.Path(__file__).parents[2])
  assert json.loads(output.stdout) == _take(iterator, 4)


@pytest.mark.parametrize("count", [2, 4])
def test_the_shards_side_by_side_are_the_batch_of_one_host(count):
  shards = [_prompts(shard_index=index, shard_count=count) for index in range(count)]
  for whole in _take(_prompts(), 8):
    assert [prompt for shard in shards for prompt in _plain(next(shard))] == whole


def test_packed_shards_hold_each_example_once_an_epoch():
  seen = []
  for index in range(2):
    iterator = _packed(shard_index=index, shard_count=2)
    for _ in range(12):
      batch = next(iterator)
      assert batch.tokens.shape == (2, 16)
      for tokens, segments in zip(batch.tokens, batch.segment_ids):
        seen += [int(tokens[segments == segment][0]) for segment in range(1, segments.max() + 1)]
  counts = np.bincount(seen, minlength=23)
  assert counts.max() - counts.min() <= 2


def test_the_seed_sets_the_order():
  first, again = (_take(pipeline.prompt_batches(_rows(50), 10, seed=1), 5) for _ in range(2))
  assert first == again != _take(pipeline.prompt_batches(_rows(50), 10, seed=2), 5)


def test_a_batch_may_be_larger_than_an_epoch():
  batch = next(pipeline.prompt_batches(_rows(3), 8, seed=0))
  assert len(batch) == 8 and {row["prompt"] for row in batch} == {"p0", "p1", "p2"}


def test_a_state_of_other_settings_is_refused():
  state = _prompts().get_state()
  with pytest.raises(ValueError, match="'seed': 5.*'seed': 6"):
    pipeline.prompt_batches(_rows(11), 4, seed=6).set_state(state)


@pytest.mark.parametrize("fields, message", [
    (dict(rows=[]), "rows: got none"), (dict(batch_size=0), "batch_size"),
    (dict(batch_size=3, shard_count=2), "batch_size"), (dict(seed=-1), "seed"),
    (dict(shard_index=1), "shard_index")])
def test_arguments_out_of_range_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    pipeline.prompt_batches(**{"rows": _rows(3), "batch_size": 2, "seed": 0, **fields})


def test_examples_longer_than_a_row_are_refused():
  with pytest.raises(ValueError, match="allowed: at most 4"):
    pipeline.packed_batches(_examples(23), 2, 4, seed=0)
