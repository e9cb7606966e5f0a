"""Beams over steps against a search that recomputes everything, on one device and on several."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rlreason import models
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.sampling import SamplingOptions
from rlreason.searching import SearchConfig, beam, scorer as scorer_lib, stepping
from rlreason.sampling.decoder import prepare
from tests.sampling import session_test
from tests.searching import naive

MODEL, STOP = session_test.UNEVEN, (3,)
OPTIONS = SamplingOptions(max_new_tokens=14, temperature=0.9, top_k=9)
KEY = jax.random.key(3)
MARKS = (5, 11)  # each ends a step
TABLE = np.zeros((2, MODEL.vocab_size), np.int32)
TABLE[:, MARKS] = 2  # beyond the states: a step ends, and the state is the first again
PARAMS = session_test.params_of(MODEL, False)
SCORER = {"trunk": {name: part for name, part in session_test.params_of(MODEL, False).items()},
          "value_head": session_test.HEAD}
CONFIG = SearchConfig(
    method="beam", choose="best", scorer="rm", num_samples=4, width=2, max_steps=6, step_tokens=4)


@functools.cache
def layout_of(devices):
  return make_layout(ParallelConfig(data=devices))


@jax.jit
def prepared(params, scorer):
  return stepping.Models(prepare(MODEL, params), scorer_lib.prepare(MODEL, scorer))


def search(config, count=2, devices=1):
  layout = layout_of(devices)
  if devices == 1:
    found = prepared(PARAMS, SCORER)
  else:
    found = layout.put_state({"policy": PARAMS, "scorer": SCORER})
    make = lambda fn: lambda p, rows, key: fn(prepared(p["policy"], p["scorer"]), rows, key)
    plain = layout
    layout = layout._replace(compile_sampler=lambda fn: plain.compile_sampler(make(fn)))
  run = beam.make_beam_search(config, layout, TABLE, OPTIONS, STOP)
  return run(found, session_test.make_prompts(range(count)), KEY)


def as_naive(config, count=2):
  prompts, found = session_test.make_prompts(range(count)), []
  reference = naive.Naive(MODEL, PARAMS, SCORER, OPTIONS, STOP, KEY)
  for i in range(count):
    prompt = i, prompts.tokens[i][prompts.mask[i]].tolist()
    reference.generated = 0
    found.append((naive.beam_search(reference, prompt, config, naive.ends_by(MARKS)),
                  reference.generated))
  return found


@pytest.mark.parametrize("changes", [
    {}, dict(subtrees=2), dict(lookahead=1), dict(aggregate="product", num_samples=6, width=3),
    dict(aggregate="min", max_steps=2), dict(num_samples=1, width=1)], ids=str)
def test_as_a_search_that_recomputes_everything(changes):
  """The same tokens, scores and cost."""
  config = dataclasses.replace(CONFIG, **changes)
  prompts = session_test.make_prompts(range(2))
  for i, (found, (expected, generated)) in enumerate(zip(
      search(config), as_naive(config), strict=True)):
    assert [one.ids for one in found.candidates] == [ids for ids, _ in expected]
    for one, (_, scores) in zip(found.candidates, expected, strict=True):
      np.testing.assert_allclose(one.step_scores, scores, rtol=1e-4)
    assert found.cost.generated == generated
    length = int(prompts.mask[i].sum())
    assert found.cost.prompt == length and found.cost.scored == generated + length


def test_the_same_on_eight_devices_and_in_another_batch():
  alone, together = search(CONFIG, 1), search(CONFIG, 8, devices=8)
  ids = lambda found: [one.ids for one in found.candidates]
  assert ids(alone[0]) == ids(together[0])
  several = search(CONFIG, 8)
  assert list(map(ids, several)) == list(map(ids, together))


def test_solutions_end_by_an_end_token_or_are_truncated():
  for found in search(CONFIG, 8):
    assert 0 < len(found.candidates) <= CONFIG.width
    for one in found.candidates:
      assert one.is_truncated == (one.ids[-1] not in STOP)
      assert not set(one.ids[:-1]) & set(STOP)


def test_a_budget_ends_the_beam():
  config = dataclasses.replace(CONFIG, max_tokens=1)
  for found in search(config):
    assert all(len(one.step_scores) == 1 for one in found.candidates)


def test_rows_with_the_same_tokens_are_one():
  greedy = dataclasses.replace(OPTIONS, temperature=0.0, top_k=0)
  run = beam.make_beam_search(CONFIG, layout_of(1), TABLE, greedy, STOP)
  (found,) = run(prepared(PARAMS, SCORER), session_test.make_prompts([0]), KEY)
  assert len(found.candidates) == 1


def test_the_likelihood_of_the_policy_as_a_scorer():
  config = dataclasses.replace(CONFIG, scorer="likelihood")
  run = beam.make_beam_search(config, layout_of(1), TABLE, OPTIONS, STOP)
  models_of = prepared(PARAMS, SCORER)._replace(scorer=None)
  found = run(models_of, session_test.make_prompts([0, 1]), KEY)
  for one in found:
    assert one.cost.scored == 0 and one.cost.generated > 0
    assert all(0 < score <= 1 for each in one.candidates for score in each.step_scores)


def test_scores_of_complete_rows_are_those_of_a_full_pass():
  prompts, random = session_test.make_prompts([0, 1]), np.random.default_rng(0)
  tokens = random.integers(0, MODEL.vocab_size, (6, 40)).astype(np.int32)
  lengths = np.array([40, 1, 33, 32, 31, 17], np.int32)
  model = scorer_lib.prepare(MODEL, SCORER)
  scores = np.asarray(jax.jit(scorer_lib.score_rows)(model, prompts, tokens, lengths))
  join = lambda prompt, completion: np.concatenate([np.repeat(prompt, 3, axis=0), completion], 1)
  hidden = session_test.forward(
      MODEL, PARAMS, join(prompts.tokens, tokens), join(prompts.mask, np.ones_like(tokens, bool)))
  expected = jax.nn.sigmoid(models.apply_value_head(
      session_test.HEAD, hidden[:, prompts.tokens.shape[1]:]))
  for row, length in enumerate(lengths):
    np.testing.assert_allclose(scores[row, :length], expected[row, :length], rtol=1e-4)
