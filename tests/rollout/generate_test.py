"""Prompts to completions with a tiny model, and completions cut to a bucket."""

import jax
import numpy as np
import pytest

from rlreason.parallel import ParallelConfig, make_layout
from rlreason.rollout.generate import crop, make_generator
from rlreason.rollout.scored import completion_texts
from rlreason.sampling import SamplingOptions
from tests.algorithms import tiny
from tests.rollout.made import TOKENIZER, make_rollout


def test_crop_to_the_smallest_bucket_that_holds_all():
  rollout = make_rollout(["a b c", "a", "a b"])
  for buckets, width in (((2, 5, 8), 5), ((3, 8), 3), ((8,), 8)):
    cropped = crop(rollout, buckets)
    assert cropped.completion_tokens.shape == cropped.log_probs.shape == (3, width)
    assert cropped.token_mask.sum() == 6 and cropped.values is None
    np.testing.assert_array_equal(cropped.action_mask, cropped.token_mask)
    assert cropped.prompt_tokens.shape == (3, 3)


@pytest.fixture(scope="module", name="generate")
def generate_fixture():
  return make_generator(
      tiny.MODEL, TOKENIZER, make_layout(ParallelConfig(data=2)),
      options=SamplingOptions(max_new_tokens=4), group_size=2, prompt_buckets=(3, 5))


def test_generated_rows_follow_their_prompts(generate):
  assert TOKENIZER.vocab_size == tiny.MODEL.vocab_size
  rows = [{"prompt": "a b"}, {"prompt": "c"}]
  params = {"policy": jax.device_put(tiny.random_params())}
  rollout = generate(params, rows, jax.random.key(0))
  assert isinstance(rollout.completion_tokens, np.ndarray) and rollout.values is None
  assert rollout.completion_tokens.shape == (4, 4) and rollout.prompt_tokens.shape == (4, 3)
  prompts = [TOKENIZER.decode(ids[mask]) for ids, mask in zip(
      rollout.prompt_tokens, rollout.prompt_mask)]
  assert prompts == ["a b", "a b", "c", "c"]
  again = generate(params, rows, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, rollout, again)
  other = generate(params, rows, jax.random.key(1))
  assert np.any(other.completion_tokens != rollout.completion_tokens)
  texts = completion_texts(TOKENIZER, rollout)
  assert texts[0] == TOKENIZER.decode(rollout.completion_tokens[0][rollout.token_mask[0]])


def test_prompts_and_rows_that_do_not_fit_are_refused(generate):
  params = {"policy": tiny.random_params()}
  with pytest.raises(ValueError, match="token_lists: got .*, allowed: at most 5"):
    generate(params, [{"prompt": "a " * 6}] * 2, jax.random.key(0))
  with pytest.raises(ValueError, match="rows: got 3, allowed: a multiple of 2"):
    generate(params, [{"prompt": "a"}] * 3, jax.random.key(0))
