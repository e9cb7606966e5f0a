"""Plans of passes without padding, by hand and of any lengths."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from rlreason.data.row_packing import Sequences, padding_waste, plan_rows

S, T = 5, 6


def make_sequences(prompts, completions):
  return Sequences(np.array(prompts), np.array(completions), (S, T))


def tokens_of(sequences):
  """Made up: prompts -1, -2, ... and completions 1, 2, ..., each row a hundred further."""
  count = len(sequences.prompts)
  prompts = np.zeros((count, S), int)
  for row, length in enumerate(sequences.prompts):
    prompts[row, S - length:] = -1 - np.arange(length) - 100 * row
  return prompts, np.arange(1, T + 1) + 100 * np.arange(count)[:, None]


def test_two_sequences_and_one_that_is_left_out_by_hand():
  """A prompt of 2 with 3 tokens is 4 to compute, one of 1 with 1 is 1: nobody reads the last."""
  plan = plan_rows(make_sequences([2, 1, 3], [3, 1, 0]), np.array([[2, 0, 1]]), 5, width=5)
  packing = plan.packing
  np.testing.assert_array_equal(plan.rows, [[2, 0, 1]])
  np.testing.assert_array_equal(plan.is_needed, [[True, False, False]])
  np.testing.assert_array_equal(packing.segment_ids[0, 0, 0], [[2, 2, 2, 2, 3]])
  np.testing.assert_array_equal(packing.positions[0, 0, 0], [[0, 1, 2, 3, 0]])
  np.testing.assert_array_equal(packing.sources[0, 0, 0], [[14, 15, 16, 17, 26]])
  np.testing.assert_array_equal(packing.starts[0, 0, 0], [-1, 0, 3])
  np.testing.assert_array_equal(packing.lengths[0, 0, 0], [0, 3, 1])
  np.testing.assert_array_equal(packing.reads[0, 0, 0][:4], [1, 2, 3, 4])
  np.testing.assert_array_equal(packing.targets[0, 0, 0][:4], [6, 7, 8, 12])
  assert padding_waste(plan) == 0.0


def test_passes_that_nobody_needs_hold_nothing():
  """Rows of 6 tokens, one in each pass: 3 passes of the first minibatch and 1 of the second."""
  sequences = make_sequences([3, 3, 3, 3, 1, 1], [4, 4, 4, 0, 1, 1])
  plan = plan_rows(sequences, np.array([[0, 1, 2], [3, 4, 5]]), 6, width=6)
  np.testing.assert_array_equal(plan.is_needed, [[1, 1, 1], [1, 0, 0]])
  assert not plan.packing.segment_ids[~plan.is_needed].any()
  assert (plan.packing.starts[~plan.is_needed] == -1).all()
  assert padding_waste(plan) == pytest.approx(4 / 24)


LENGTHS = st.lists(st.tuples(st.integers(1, S), st.integers(0, T)), min_size=4, max_size=24)


@hypothesis.given(
    LENGTHS, st.sampled_from([1, 2, 4]), st.integers(1, 60), st.sampled_from([10, 13, 24]),
    st.booleans())
def test_every_token_stands_in_one_place(lengths, parts, max_tokens, width, deals):
  lengths = lengths[:len(lengths) // 4 * 4]
  sequences = make_sequences(*zip(*lengths))
  order = np.random.default_rng(0).permutation(len(lengths)).reshape(-1, 4)
  plan = plan_rows(sequences, order, max_tokens, num_parts=parts, width=width, deals=deals)
  packing, (prompts, completions) = plan.packing, tokens_of(sequences)
  np.testing.assert_array_equal(np.sort(plan.rows, axis=1), np.sort(order, axis=1))
  if not deals:
    np.testing.assert_array_equal(plan.rows, order)
  for n, rows in enumerate(plan.rows.reshape(-1, parts, 4 // parts)):
    found = {row: [] for row in range(len(lengths))}
    for m, c in np.ndindex(packing.starts.shape[1:3]):
      both = np.concatenate([prompts, completions], axis=1)[rows[c]].reshape(-1)
      is_token = packing.segment_ids[n, m, c] > 0
      packed = np.where(is_token, both[packing.sources[n, m, c]], 0)
      targets = completions[rows[c]].reshape(-1)[packing.targets[n, m, c]]
      for b, row in enumerate(rows[c]):
        is_mine = packing.segment_ids[n, m, c] == b + 1
        start, length = packing.starts[n, m, c, b], sequences.completions[row]
        assert is_mine.any() == (start >= 0)
        if start < 0:
          continue
        whole = [*prompts[row, S - sequences.prompts[row]:], *completions[row, :length]]
        assert packed[is_mine].tolist() == whole[:-1]
        assert packing.positions[n, m, c][is_mine].tolist() == list(range(len(whole) - 1))
        found[row] += targets[start:start + length].tolist()
        before = packed.reshape(-1)[packing.reads[n, m, c][start:start + length]]
        assert before.tolist() == whole[len(whole) - length - 1:-1]
    for row in rows.reshape(-1):
      assert found[row] == completions[row, :sequences.completions[row]].tolist()


@hypothesis.given(st.integers(1, 2000), st.integers(0, 2 ** 20))
def test_a_pass_has_no_more_tokens_than_allowed(seed, max_tokens):
  random = np.random.default_rng(seed)
  sequences = Sequences(random.integers(1, 30, 16), random.integers(0, 90, 16), (30, 90))
  plan = plan_rows(sequences, np.arange(16)[None], max_tokens)
  hypothesis.assume(plan is not None)
  rows, width = plan.packing.segment_ids.shape[-2:]
  assert rows == 1 or rows * width <= max_tokens
  assert width >= 119 and width % 8 == 0


def test_the_waste_of_usual_lengths_is_small_and_the_programs_are_few():
  random, wastes, shapes = np.random.default_rng(0), [], set()
  for _ in range(20):
    completions = np.clip(random.normal(62, 25, 256).astype(int), 5, 96)
    sequences = Sequences(np.full(256, 6), completions, (6, 96))
    plan = plan_rows(
        sequences, random.permutation(256).reshape(4, 64), 32 * 102, model_width=128)
    wastes.append(padding_waste(plan))
    shapes.add((plan.packing.segment_ids.shape, plan.packing.reads.shape))
  assert np.mean(wastes) < 0.1 and max(wastes) < 0.13 and len(shapes) <= 4


def test_rows_without_padding_are_not_packed():
  full, half = (make_sequences([S] * 32, [length] * 32) for length in (T, 1))
  assert plan_rows(full, np.arange(32)[None], 32 * (S + T)) is None
  assert plan_rows(half, np.arange(32)[None], 32 * (S + T)) is not None


@pytest.mark.parametrize("settings, message", [
    (dict(num_parts=3), "num_parts: got 3, allowed: a divisor of the 4 rows"),
    (dict(width=6), "width: got 6, allowed: 7 or more, the longest sequence")])
def test_what_cannot_be_packed_is_named(settings, message):
  with pytest.raises(ValueError, match=message):
    plan_rows(make_sequences([2, 2, 2, 2], [6, 1, 1, 1]), np.arange(4)[None], 50, **settings)


@pytest.mark.parametrize("micro", [1, 2, 4, 16])
def test_a_pass_takes_no_more_memory_than_one_of_padded_rows(micro):
  """Neither tokens nor attention scores, which grow with the square of a row's width."""
  random, columns, plans = np.random.default_rng(0), (64, 192), []
  for mean in (8, 30, 100):
    sequences = Sequences(
        random.integers(10, 65, 32), np.minimum(random.geometric(1 / mean, 32), 192), columns)
    plans.append(plan_rows(
        sequences, np.arange(32)[None], micro * sum(columns), model_width=4096))
  for plan in plans:
    if plan is not None:
      rows, width = plan.packing.segment_ids.shape[-2:]
      assert rows * width <= micro * sum(columns)
      assert rows * width**2 <= micro * sum(columns)**2
  assert micro == 1 or any(plan is not None for plan in plans)
