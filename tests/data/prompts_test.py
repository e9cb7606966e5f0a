import numpy as np
import pytest

from rlreason.data import fitting as prompts, messages


def test_prompts_are_padded_on_the_left_by_hand():
  batch = prompts.make_prompts([[5, 6], [7, 8, 9], [0]], buckets=(4, 8), first_index=6, pad_id=3)
  np.testing.assert_array_equal(batch.tokens, [[3, 3, 5, 6], [3, 7, 8, 9], [3, 3, 3, 0]])
  np.testing.assert_array_equal(batch.mask, [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]])
  np.testing.assert_array_equal(batch.index, [6, 7, 8])
  assert (batch.tokens.dtype, batch.mask.dtype, batch.index.dtype) == (np.int32, bool, np.int32)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 17, 20])
def test_the_smallest_bucket_that_fits_is_taken(length):
  for buckets in ((8, 16, 20), prompts.doubling_buckets(4, 20)):
    width = prompts.make_prompts([[1] * length, [2]], buckets).tokens.shape[1]
    assert width == min(bucket for bucket in buckets if bucket >= length)


def test_buckets():
  assert prompts.doubling_buckets(4, 20) == (4, 8, 16, 20)
  assert prompts.doubling_buckets(4, 16) == (4, 8, 16)
  assert prompts.doubling_buckets(32, 20) == (20,)
  with pytest.raises(ValueError, match="smallest"):
    prompts.doubling_buckets(0, 8)


def test_long_and_empty_prompts_are_left_out_and_counted():
  assert prompts.fit_prompts([[1, 2], [], [1, 2, 3], [1]], 2) == ([0, 3], 2)
  with pytest.raises(ValueError, match="got a prompt of 3 tokens, allowed: at most 2"):
    prompts.make_prompts([[1, 2, 3]], (2,))
  with pytest.raises(ValueError, match=r"\[1\]"):
    prompts.make_prompts([[1], []], (2,))
  with pytest.raises(ValueError, match="token_lists: got 0 prompts.*allowed: one or more"):
    prompts.make_prompts([], (2,))


def test_a_text_after_a_prompt():
  chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
  assert messages.add_to_prompt("a b", " GOOD") == "a b GOOD"
  assert messages.add_to_prompt(chat, " GOOD") == [chat[0], {"role": "user", "content": "u GOOD"}]
  assert chat[1]["content"] == "u"
