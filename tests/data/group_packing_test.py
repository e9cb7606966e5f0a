"""Plans of packed groups: by hand, and that no token is lost or duplicated."""

import numpy as np
import pytest

from rlreason.data import group_packing


def test_longest_first_into_the_first_row_with_room():
  rows, starts, counts = group_packing.pack_groups(
      np.array([[3, 1, 2, 0], [4, 4, 4, 4], [0, 0, 0, 0]]), 4)
  # 3 -> row 0; 2 -> row 1; 1 -> row 0, which is then full; 0 takes no space.
  np.testing.assert_array_equal(rows[0], [0, 0, 1, 0])
  np.testing.assert_array_equal(starts[0], [0, 3, 0, 4])
  np.testing.assert_array_equal(rows[1], [0, 1, 2, 3])
  np.testing.assert_array_equal(counts, [2, 4, 0])


@pytest.mark.parametrize("count, rounded", [
    (0, 1), (1, 1), (7, 7), (9, 10), (16, 16), (17, 20), (33, 40), (64, 64), (65, 80),
    (1000, 1024)])
def test_numbers_of_rows_are_few(count, rounded):
  assert group_packing.round_rows(count) == rounded


@pytest.mark.parametrize("per_micro_batch, num_parts, width", [
    (1, 1, None), (2, 2, None), (6, 1, 31), (6, 3, 11)])
def test_every_token_stands_once_in_a_row_of_its_prompt(per_micro_batch, num_parts, width):
  random, columns, size = np.random.default_rng(0), 11, 5
  lengths = random.integers(0, columns + 1, (7, size))
  order = np.stack([random.permutation(7)[:6] for _ in range(3)])
  plan = group_packing.plan_groups(
      lengths, order, per_micro_batch, columns, width=width, num_parts=num_parts)
  packing, width = plan.packing, width or columns
  lead = (3, 6 // per_micro_batch)
  assert plan.indices.shape == (*lead, per_micro_batch * size)
  for minibatch in range(3):
    np.testing.assert_array_equal(
        np.sort(plan.indices[minibatch].reshape(-1, size)[:, 0] // size), np.sort(order[minibatch]))
  share = per_micro_batch * size // num_parts
  for place in np.ndindex(*lead, num_parts):
    first = place[-1] * share
    rows = plan.indices[place[:2]][first:first + share]
    assert np.all(rows.reshape(-1, size) // size == rows[::size, None] // size)
    seen = np.zeros_like(packing.segment_ids[place])
    for sequence, row in enumerate(rows):
      length = lengths.reshape(-1)[row]
      found = packing.places[place][sequence]
      np.testing.assert_array_equal(found >= 0, np.arange(columns) < length)
      if length:
        packed_row, start = divmod(found[0], width)
        np.testing.assert_array_equal(found[:length], found[0] + np.arange(length))
        assert start + length <= width
        assert packing.prompt_of_row[place][packed_row] == sequence // size
        span = (packed_row, slice(start, start + length))
        assert np.all(packing.segment_ids[place][span] == sequence + 1)
        np.testing.assert_array_equal(packing.steps[place][span], np.arange(length))
        seen[span] += 1
    np.testing.assert_array_equal(seen, packing.segment_ids[place] > 0)
    assert not np.any(packing.steps[place][seen == 0])
    assert np.all(packing.prompt_of_row[place] * size < share)


def test_micro_batches_need_about_as_many_rows():
  # Groups of 4, 1, 1, 4, 2 and 2 rows: pairs of 5, 5 and 4 rows, whatever the order is.
  lengths = np.array([[8] * 4, [2] * 4, [1] * 4, [8] * 4, [4] * 4, [4] * 4])
  for order in ([0, 3, 1, 2, 4, 5], [5, 4, 3, 2, 1, 0]):
    plan = group_packing.plan_groups(lengths, np.array([order]), 2, 8)
    used = np.any(plan.packing.segment_ids > 0, axis=-1)[0, :, 0].sum(axis=-1)
    assert sorted(used) == [4, 5, 5] and plan.packing.segment_ids.shape == (1, 3, 1, 5, 8)


def test_what_does_not_fit_is_refused():
  lengths, order = np.array([[3, 5]] * 6), np.arange(6)[None]
  with pytest.raises(ValueError, match="lengths: got 5 tokens, allowed: 0 to 4"):
    group_packing.plan_groups(lengths, order, 2, 6, width=4)
  with pytest.raises(ValueError, match="columns: got 4, allowed: 5 or more"):
    group_packing.plan_groups(lengths, order, 2, 4)
  with pytest.raises(ValueError, match="groups_per_micro_batch: got 4, .* divisor of the 6"):
    group_packing.plan_groups(lengths, order, 4, 6)
  with pytest.raises(ValueError, match="num_parts: got 2, allowed: a divisor of .*=3"):
    group_packing.plan_groups(lengths, order, 3, 6, num_parts=2)
