import grain
import numpy as np
import pytest

from rlreason.data import packing


def _examples(count, longest, seed=0):
  rng = np.random.default_rng(seed)
  examples = []
  for number in range(count):
    size = int(rng.integers(2, longest + 1))
    cut = int(rng.integers(1, size))
    examples.append(packing.make_example([number] * cut, [number] * (size - cut)))
  return examples


def _pack(examples, batch_size, length):
  stream = grain.MapDataset.source(examples).to_iter_dataset(
      grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
  return list(packing.pack(stream, batch_size, length))


def test_loss_weights_are_zero_on_the_prompt_and_given_by_token():
  example = packing.make_example([5, 6], [7, 8, 1], {8: 3.0, 5: 9.0})
  np.testing.assert_array_equal(example["tokens"], [5, 6, 7, 8, 1])
  np.testing.assert_array_equal(example["loss_weights"], [0, 0, 1, 3, 1])
  assert example["tokens"].dtype == np.int32 and example["loss_weights"].dtype == np.float32


def test_the_first_token_has_nothing_to_be_predicted_from():
  np.testing.assert_array_equal(packing.make_example([], [7, 8])["loss_weights"], [0, 1])


def test_a_mask_may_keep_several_turns():
  example = packing.mask_example([1, 2, 3, 4], [False, True, False, True], {4: 0.5})
  np.testing.assert_array_equal(example["loss_weights"], [0, 1, 0, 0.5])
  with pytest.raises(ValueError, match="completion_mask: got .*, allowed: .*, as many as"):
    packing.mask_example([1, 2], [True])


def test_first_fit_by_hand():
  examples = [packing.make_example([number], [number] * (size - 1))
              for number, size in enumerate([4, 3, 2, 1 + 1, 5], start=1)]
  first, second = _pack(examples, batch_size=2, length=6)
  # 4 -> row 0; 3 -> row 1; 2 -> row 0 (full); 2 -> row 1; 5 fits nowhere: the batch is done.
  np.testing.assert_array_equal(first.tokens, [[1, 1, 1, 1, 3, 3], [2, 2, 2, 4, 4, 0]])
  np.testing.assert_array_equal(first.segment_ids, [[1, 1, 1, 1, 2, 2], [1, 1, 1, 2, 2, 0]])
  np.testing.assert_array_equal(first.positions, [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 0]])
  np.testing.assert_array_equal(first.loss_weights, [[0, 1, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0]])
  np.testing.assert_array_equal(second.tokens[0], [5, 5, 5, 5, 5, 0])


@pytest.mark.parametrize("batch_size, length", [(1, 7), (3, 7), (4, 33)])
def test_packing_loses_nothing(batch_size, length):
  examples = _examples(50, 7)
  recovered = {}
  for batch in _pack(examples, batch_size, length):
    assert batch.tokens.shape[1] == length
    for row in range(len(batch.tokens)):
      for segment in range(1, batch.segment_ids[row].max() + 1):
        kept = batch.segment_ids[row] == segment
        np.testing.assert_array_equal(batch.positions[row][kept], np.arange(kept.sum()))
        recovered[int(batch.tokens[row][kept][0])] = dict(
            tokens=batch.tokens[row][kept], loss_weights=batch.loss_weights[row][kept])
      assert not batch.loss_weights[row][batch.segment_ids[row] == 0].any()
  assert sorted(recovered) == list(range(50))
  for number, example in recovered.items():
    for name in example:
      np.testing.assert_array_equal(example[name], examples[number][name])


def test_too_long_examples_are_dropped_and_counted():
  examples = [packing.make_example([1, 1], [2, 2]), packing.make_example([1], [2] * 9),
              packing.make_example([1] * 8, [2]), packing.make_example([1], [])]
  kept, dropped = packing.fit_examples(examples, 5)
  assert (len(kept), dropped) == (1, 3)
