"""Trees over steps and tokens of a model, against full passes and on several devices."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from rlreason.searching import SearchConfig, nodes, scores, step_tree, tree_search
from tests.sampling import session_test
from tests.searching import beam_test, naive

STEPS = SearchConfig(
    method="mcts", choose="best", scorer="rm", num_samples=1, width=3, max_steps=4, step_tokens=4,
    simulations=5)
TOKENS = SearchConfig(
    method="token_mcts", choose="best", scorer="rm", num_samples=1, width=3, simulations=6,
    max_depth=5)


@functools.cache
def search(config, count=2, devices=1, options=beam_test.OPTIONS, has_scorer=True):
  layout = beam_test.layout_of(devices)
  prepared = beam_test.prepared
  if devices == 1:
    found = prepared(beam_test.PARAMS, beam_test.SCORER)
    found = found if has_scorer else found._replace(scorer=None)
  else:
    found = layout.put_state({"policy": beam_test.PARAMS, "scorer": beam_test.SCORER})
    plain = layout
    layout = layout._replace(compile_sampler=lambda fn: plain.compile_sampler(
        lambda p, rows, key: fn(prepared(p["policy"], p["scorer"]), rows, key)))
  run = tree_search.make_tree_search(config, layout, beam_test.TABLE, options, beam_test.STOP)
  return run(found, session_test.make_prompts(range(count)), beam_test.KEY)


def reference():
  return naive.Naive(beam_test.MODEL, beam_test.PARAMS, beam_test.SCORER, beam_test.OPTIONS,
                     beam_test.STOP, beam_test.KEY)


def prompt_of(index):
  prompts = session_test.make_prompts([index])
  return index, prompts.tokens[0][prompts.mask[0]].tolist()


def ends_of(ids):
  """Columns of the ends of steps, which have at most `step_tokens`."""
  ends, start = [], 0
  for column, token in enumerate(ids):
    if token in beam_test.MARKS or column - start == STEPS.step_tokens - 1 or (
        column == len(ids) - 1):
      ends.append(column)
      start = column + 1
  return ends


@pytest.mark.parametrize("form", ["vanilla", "reroot", "rollout"])
def test_scores_of_steps_are_those_of_full_passes(form):
  """Of every step of every solution: what a node holds of both models is right."""
  for index, found in enumerate(search(dataclasses.replace(STEPS, form=form))):
    assert found.candidates
    for one in found.candidates:
      ends = ends_of(one.ids)
      expected = [reference().score(prompt_of(index), one.ids[:end + 1]) for end in ends]
      count = len(one.step_scores)
      if count <= len(ends):  # the policy continued a path: its last score is that of the end
        expected = [*expected[:count - 1], expected[-1]]
      np.testing.assert_allclose(one.step_scores, expected, rtol=1e-4)
      assert one.is_truncated == (one.ids[-1] not in beam_test.STOP)


@pytest.mark.parametrize("config", [
    TOKENS, dataclasses.replace(STEPS, form="reroot", selection="gumbel")],
    ids=["tokens", "steps"])
def test_the_same_on_eight_devices_and_in_another_batch(config):
  ids = lambda found: [[one.ids for one in each.candidates] for each in found]
  alone, several = ids(search(config, 1)), ids(search(config, 8))
  assert alone[0] == several[0]
  assert several == ids(search(config, 8, devices=8))


@pytest.mark.parametrize("config", [
    dataclasses.replace(TOKENS, width=1, form="reroot", max_depth=14),
    dataclasses.replace(STEPS, form="vanilla", max_steps=14),
    dataclasses.replace(STEPS, form="rollout", max_steps=14, simulations=14)],
    ids=["tokens", "steps", "rollout"])
def test_without_alternatives_a_tree_is_greedy_decoding(config):
  """A single candidate by its width, or because all candidates are the same at temperature 0."""
  greedy = dataclasses.replace(beam_test.OPTIONS, temperature=0.0, top_k=0)
  for index, found in enumerate(search(config, options=greedy)):
    expected = dataclasses.replace(beam_test.CONFIG, num_samples=1, width=1, step_tokens=99)
    run = naive.Naive(beam_test.MODEL, beam_test.PARAMS, beam_test.SCORER, greedy, beam_test.STOP,
                      beam_test.KEY)
    ((ids, _),) = naive.beam_search(
        run, prompt_of(index), dataclasses.replace(expected, max_steps=1), lambda *_: False)
    assert [one.ids for one in found.candidates] == [ids]


def test_trees_of_a_problem_are_several_solutions():
  (one,), (four,) = search(STEPS, 1), search(dataclasses.replace(STEPS, num_samples=4), 1)
  assert len(four.candidates) == 4 and four.candidates[0].ids == one.candidates[0].ids
  assert len({candidate.ids for candidate in four.candidates}) > 1
  assert four.cost.prompt == 4 * one.cost.prompt


def test_a_budget_limits_what_is_generated():
  for form in ("reroot", "rollout"):
    config = dataclasses.replace(STEPS, form=form, simulations=12)
    for full, cut in zip(search(config), search(dataclasses.replace(config, max_tokens=13)),
                         strict=True):
      assert cut.cost.generated < full.cost.generated
      assert len(cut.candidates) <= len(full.candidates)


def test_the_likelihood_of_the_policy_as_a_scorer():
  for config in (STEPS, TOKENS):
    for found in search(dataclasses.replace(config, scorer="likelihood"), has_scorer=False):
      assert found.cost.scored == 0
      assert all(0 <= score <= 1 for one in found.candidates for score in one.step_scores)


def test_candidates_that_are_the_same_have_the_sum_of_their_masses():
  tokens = jnp.array([[[1, 2], [3, 0], [1, 2], [3, 0], [0, 0]]])
  counts = jnp.array([[2, 1, 2, 1, 0]])
  is_first, mass = step_tree.merge(tokens, counts, jnp.array([[0.1, 0.2, 0.3, 0.5, 0.9]]))
  assert is_first[0].tolist() == [True, True, False, False, False]
  np.testing.assert_allclose(mass[0], [0.4, 0.7, 0, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("how", ["last", "min", "product", "mean"])
def test_scores_are_aggregated_step_by_step(how):
  path, given = jnp.zeros(1), [0.9, 0.2, 0.8]
  for steps, score in enumerate(given):
    path = nodes.combine(path, jnp.array([steps]), jnp.array([score]), how)
    assert float(path[0]) == pytest.approx(scores.aggregate(given[:steps + 1], how), rel=1e-6)
