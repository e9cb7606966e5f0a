"""Completions of prefixes: those of a naive way, true values by enumeration, tokens computed."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models, rollout
from rlreason.data.fitting import make_prompts
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.sampling import SamplingOptions, session as session_lib
from rlreason.tokenizers import WordTokenizer
from tests.algorithms import tiny

TOKENIZER = WordTokenizer.from_words([f"w{i}" for i in range(tiny.MODEL.vocab_size - 2)])
CAPACITY, ANSWER = 10, 4
OPTIONS = SamplingOptions(max_new_tokens=CAPACITY)
ROWS = [{"prompt": "", "prompt_ids": ids} for ids in ([5, 6, 7], [3], [8, 2, 9, 4])]
SOLUTIONS = [(3, 5, 2, 7, 6, 9, 8), (2, 2, 6, 5, 7, 1), (9, 3, 10)]
PARAMS = {"policy": tiny.random_params()}


def score(rows, given):
  """Right: the last token before the end, or the capacity, is `ANSWER` or one above it."""
  del rows
  is_kept = given.token_mask & (given.completion_tokens != 1)
  last = [ids[mask][-1] if mask.any() else 0
          for ids, mask in zip(given.completion_tokens, is_kept, strict=True)]
  return types.SimpleNamespace(is_right=np.array(last) >= ANSWER)


@functools.cache
def completer(count, parallel=ParallelConfig(data=1), capacity=CAPACITY):
  return rollout.Completer(
      tiny.MODEL, TOKENIZER, make_layout(parallel),
      options=SamplingOptions(max_new_tokens=capacity), num_completions=count,
      prompt_buckets=(4,))


def start(count, rows=None, key=3, **settings):
  layout = make_layout(settings.get("parallel", ParallelConfig(data=1)))
  return completer(count, **settings).start(
      layout.put_state(PARAMS), ROWS if rows is None else rows, jax.random.key(key), score)


def naive(index, ids, count, key=3):
  """The completions of one prefix, each computed for itself from its prompt on."""
  prompts = make_prompts([ROWS[index]["prompt_ids"]], [4]).replace(
      index=np.array([index], np.int32))
  decoder = session_lib.prepare(tiny.MODEL, PARAMS["policy"])
  session = session_lib.begin(
      decoder, prompts, jax.random.key(key), options=OPTIONS, stop_ids=(1,), group_size=count)
  if ids:
    session = session_lib.append(decoder, session, jnp.tile(jnp.array([ids]), (count, 1)))
  session = session.replace(keys=jax.vmap(jax.random.fold_in)(session.keys, session.lengths))
  found = session_lib.to_rollout(jax.jit(session_lib.run)(decoder, session))
  return [tuple(tokens[mask].tolist()) for tokens, mask in zip(
      np.asarray(found.completion_tokens), np.asarray(found.token_mask), strict=True)]


def test_completions_are_those_of_the_naive_way_in_any_order():
  """Back and forth in a solution, and to another that begins alike and to one that does not."""
  complete, _ = start(3)
  other = (*SOLUTIONS[0][:4], 10, 3)
  asked = [{0: (SOLUTIONS[0], 5), 1: (SOLUTIONS[1], 2)}, {0: (SOLUTIONS[0], 0)},
           {0: (other, 5), 2: (SOLUTIONS[2], 1)}, {0: (SOLUTIONS[0], 6), 1: (SOLUTIONS[1], 5)},
           {2: ((6, 6), 2)}]
  for prefixes in asked:
    found = complete({i: rollout.Prefix(*prefix) for i, prefix in prefixes.items()})
    assert set(found) == set(prefixes)
    for i, (ids, length) in prefixes.items():
      assert [one.ids for one in found[i]] == naive(i, ids[:length], 3)


def test_samples_do_not_depend_on_the_batch_nor_on_what_was_asked_before():
  together, _ = start(4)
  alone, _ = start(4, rows=ROWS[:1])
  first = together({i: rollout.Prefix(ids, 2) for i, ids in enumerate(SOLUTIONS)})
  alone({0: rollout.Prefix(SOLUTIONS[0], 6)})
  assert alone({0: rollout.Prefix(SOLUTIONS[0], 2)})[0] == first[0]
  again = together({0: rollout.Prefix(SOLUTIONS[0], 2)})
  assert again[0] == first[0] and len({one.ids for one in first[0]}) > 1


def test_several_devices_find_the_same():
  rows = ROWS + ROWS[:1]
  prefixes = {i: rollout.Prefix(SOLUTIONS[i % 3], 2) for i in range(4)}
  expected = start(2, rows)[0](prefixes)
  for parallel in (ParallelConfig(mode="jit", data=2), ParallelConfig(mode="pmap", data=2)):
    assert start(2, rows, parallel=parallel)[0](prefixes) == expected


def test_shares_approach_the_values_that_enumeration_gives():
  """All continuations of a prefix to the capacity, and the probability of those that are right."""
  capacity, count = 4, 2000
  prefix = SOLUTIONS[0][:2]
  words = tiny.MODEL.vocab_size
  pairs = np.stack(np.meshgrid(np.arange(words), np.arange(words), indexing="ij"), -1)
  tokens = np.concatenate([
      np.tile([*ROWS[0]["prompt_ids"], *prefix], (words * words, 1)), pairs.reshape(-1, 2)], 1)
  hidden = models.forward(
      tiny.MODEL, PARAMS["policy"], tokens.astype(np.int32), np.ones(tokens.shape, bool))
  logits = models.logits(tiny.MODEL, PARAMS["policy"], hidden[:, -3:-1])
  log_probs = jax.nn.log_softmax(logits, axis=-1)
  chosen = np.take_along_axis(np.asarray(log_probs), tokens[:, -2:, None], axis=-1)[..., 0]
  value = 0.0
  for (first, second), (p, q) in zip(tokens[:, -2:], np.exp(chosen), strict=True):
    if first == 1:  # ended: the second token is never sampled
      value += p * q * (prefix[-1] >= ANSWER)
    else:
      value += p * q * ((first if second == 1 else second) >= ANSWER)
  value = float(value)
  complete, _ = start(count, capacity=capacity)
  share = np.mean([one.is_right for one in complete({0: rollout.Prefix(SOLUTIONS[0][:4], 2)})[0]])
  assert 0.05 < value < 0.95
  assert share == pytest.approx(value, abs=4 * np.sqrt(value * (1 - value) / count))


def test_no_token_is_computed_twice():
  complete, counts = start(3)
  assert (counts.generated, counts.computed, counts.naive) == (0, 8, 0)
  generated = naive_tokens = 0
  for length in (1, 3, 5):
    found = complete({0: rollout.Prefix(SOLUTIONS[0], length)})[0]
    generated += sum(len(one.ids) - length for one in found)
    naive_tokens += 3 * (3 + length)
  assert counts.generated == generated
  assert counts.computed == 8 + len(SOLUTIONS[0]) + generated
  assert counts.naive == generated + naive_tokens
  complete({0: rollout.Prefix((*SOLUTIONS[0][:6], 2, 2), 7)})
  assert counts.computed - counts.generated == 8 + len(SOLUTIONS[0]) + 2
