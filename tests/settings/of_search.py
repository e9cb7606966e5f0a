"""Rows of a search at test time: what it finds with a model of random parameters."""

from unittest import mock

from rlreason.evaluation import evaluator
from rlreason.searching import SearchConfig, rewrite
from rlreason.searching.results import Candidate, Cost, score_of
from rlreason.searching.searcher import Searched, Solution, choose_solution
from tests.searching import searcher_test
from tests.settings import fakes
from tests.settings.bases import Row

_ROWS = searcher_test.ROWS[:1]
_SCORED = dict(scorer="rm", delimiter=";", num_samples=4)
_BEAM = dict(_SCORED, method="beam", width=2, max_steps=2, step_tokens=3)
_TREE = dict(
    _SCORED, method="mcts", num_samples=1, width=2, max_steps=3, step_tokens=3, simulations=6)
_TOKENS = dict(scorer="rm", method="token_mcts", num_samples=1, width=2, simulations=6, max_depth=4)
_MANY = dict(_TREE, form="rollout", simulations=16, width=3)


def in_evaluation(config):
  """The search that an evaluation makes."""
  seen = []

  def make_search(config, *unused, **unused_settings):
    seen.append(config.search)
    return lambda rows, *unused: [Searched((), None, Cost(), 0.0) for _ in rows]

  with mock.patch.object(evaluator.search_lib, "make_search", make_search):
    fakes.evaluation_trace(config)
  return [str(search) for search in seen]


def found(config):
  (one,) = searcher_test.search(config, _ROWS)
  return [[solution.text for solution in one.solutions], [solution.score for solution in
          one.solutions], one.chosen, tuple(one.cost)]


def chosen(config):
  """Of two solutions with one answer, and a better one with another."""
  parts = [Solution("", Candidate(()), "", *of) for of in ((0, 0.1), (0, 0.2), (1, 0.9))]
  return choose_solution(parts, config.choose)


def revised(config):
  return [[solution.text for solution in one.solutions]
          for one in searcher_test.search(config, searcher_test.ROWS)]


def price(config):
  return Cost(1_000_000, 2_000_000, 4_000_000).price(config)


def of(value, beside, seen=found):
  return Row(value, seen, beside=beside)


ROWS = {SearchConfig: {
    "method": of("revise", {}), "choose": of("best", _SCORED, chosen),
    "scorer": of("likelihood", _SCORED),
    "aggregate": of(
        "min", _SCORED, lambda config: score_of(config, Candidate((), (0.9, 0.2, 0.8)))),
    "num_samples": of(3, {}), "delimiter": of("b", _SCORED | dict(aggregate="mean")),
    "width": of(4, _BEAM), "lookahead": of(1, _BEAM),
    "subtrees": of(4, _BEAM | dict(num_samples=16, width=4)),
    "max_steps": of(1, _BEAM), "step_tokens": of(2, _BEAM), "simulations": of(1, _TREE),
    "form": of("rollout", _TREE), "selection": of("uct", _MANY | dict(simulations=6)),
    "exploration": of(20.0, _MANY), "max_depth": of(1, _TOKENS),
    "num_revisions": of(1, dict(method="revise", revision="wait", num_samples=32), revised),
    "revision": of("b", dict(method="revise", revision="wait")),
    "rewrite": of("2 {prompt}", dict(method="rewrite"), lambda config: rewrite.request(
        config, _ROWS[0])),
    "keep_original": of(True, dict(method="rewrite"), lambda config: rewrite.rewritten(
        config, _ROWS[0], "Question: 1")),
    "max_tokens": of(1, {}), "price_generated": of(1.0, {}, price),
    "price_scored": of(1.0, _SCORED, price), "price_prompt": of(1.0, {}, price)}}
