"""Whole searches through `make_searcher`: what they read, choose and cost."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rlreason import sampling
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.rewards import answer, vote_answer
from rlreason.sampling import SamplingOptions
from rlreason.searching import (
    Reader, SearchConfig, make_searcher, rewrite, scorer as scorer_lib)
from rlreason.searching.results import Cost
from rlreason.tokenizers import WordTokenizer
from tests.algorithms import tiny

TOKENIZER = WordTokenizer.from_words(
    ("p0", "p1", "\\boxed{", "}", "1", "2", ";", "wait", "b"))  # 11 words, as the model has
READER = Reader(vote_answer, answer.extract_answer)
OPTIONS = SamplingOptions(max_new_tokens=12)
ROWS = [{"prompt": "p0 1", "answer": "1"}, {"prompt": "p1", "answer": "2"}]
POLICY = tiny.random_params()
SCORER = {"trunk": tiny.random_params(seed=1), "value_head": tiny.random_value_head()}
WITH = dict(scorer="rm", delimiter=";")


@functools.cache
def searcher(config, options=OPTIONS):
  return make_searcher(
      config, tiny.MODEL, TOKENIZER, make_layout(ParallelConfig(data=1)), options=options,
      prompt_buckets=(4, 16), reader=READER,
      scorer=scorer_lib.Shape(tiny.MODEL) if config.reads_model else None)


def search(config, rows=ROWS, options=OPTIONS, key=0):
  params = {"policy": POLICY} | ({"scorer": SCORER} if config.reads_model else {})
  return searcher(config, options)(params)(rows, jax.random.key(key))


def test_samples_are_those_of_the_sampler():
  """The same tokens, and all that was generated is paid."""
  found = search(SearchConfig(num_samples=3))
  prompts = [TOKENIZER.encode(row["prompt"]) for row in ROWS]
  from rlreason.data.fitting import make_prompts  # pylint: disable=import-outside-toplevel
  rollout = sampling.sample(
      tiny.MODEL, POLICY, make_prompts(prompts, (4,)), jax.random.key(0), options=OPTIONS,
      stop_ids=(1,), group_size=3)
  for i, one in enumerate(found):
    for j, solution in enumerate(one.solutions):
      mask = np.asarray(rollout.token_mask)[3 * i + j]
      tokens = np.asarray(rollout.completion_tokens)[3 * i + j][mask]
      assert solution.candidate.ids == tuple(tokens.tolist())
      assert solution.score is None
    total = sum(len(solution.candidate.ids) for solution in one.solutions)
    assert one.cost == Cost(generated=total, scored=0, prompt=len(prompts[i]))


def test_a_budget_ends_the_samples():
  (full, _), (cut, _) = search(SearchConfig(num_samples=4)), search(
      SearchConfig(num_samples=4, max_tokens=1))
  assert cut.solutions == full.solutions[:1]
  assert cut.cost.generated == len(full.solutions[0].candidate.ids)


@pytest.mark.parametrize("how", ["last", "min", "product", "mean"])
def test_the_best_of_n_is_the_best_by_its_aggregate(how):
  config = SearchConfig(num_samples=6, choose="best", aggregate=how, **WITH)
  for one in search(config):
    best = max(solution.score for solution in one.solutions)
    assert one.solutions[one.chosen].score == best
    assert one.choose("vote") is not None
    assert one.cost.scored == one.cost.generated + one.cost.prompt


@pytest.mark.parametrize("config", [
    SearchConfig(num_samples=3, choose="weighted_vote", **WITH),
    SearchConfig(method="beam", choose="best", num_samples=4, width=2, max_steps=3, step_tokens=4,
                 **WITH),
    SearchConfig(method="mcts", choose="best", num_samples=1, width=2, simulations=3, max_steps=3,
                 step_tokens=4, **WITH),
    SearchConfig(method="revise", num_samples=2, revision="wait", num_revisions=1),
    SearchConfig(method="rewrite", num_samples=2, rewrite="b {prompt}")],
    ids=lambda config: config.method)
def test_right_answers_never_reach_a_search(config):
  """Rows without an answer, or with a wrong one, give the same; an access to it would fail."""
  class Guarded(dict):
    def __getitem__(self, name):
      assert name != "answer", "a search reads the answer"
      return super().__getitem__(name)

    def get(self, name, default=None):
      assert name != "answer", "a search reads the answer"
      return super().get(name, default)

  texts = lambda rows: [[solution.text for solution in one.solutions]
                        for one in search(config, rows)]
  plain = texts(ROWS)
  assert texts([{"prompt": row["prompt"]} for row in ROWS]) == plain
  assert texts([Guarded(row) for row in ROWS]) == plain


def test_revisions_are_solutions_and_the_text_is_given():
  """Each row gives its first solution, and one after every "wait" that fits."""
  config = SearchConfig(method="revise", num_samples=8, revision="wait", num_revisions=2)
  (first, _), (plain, _) = search(config), search(SearchConfig(num_samples=8))
  wait = TOKENIZER.encode("wait")[0]
  firsts = [one for one in first.solutions]
  assert len(firsts) > 8
  number = 0
  for one in plain.solutions:
    ids = one.candidate.ids
    body = ids[:-1] if ids[-1] == 1 else ids
    assert firsts[number].candidate.ids[:len(body)] == body
    number += 1
    while number < len(firsts) and firsts[number].candidate.ids[:len(body) + 1] == (*body, wait):
      body = tuple(i for i in firsts[number].candidate.ids if i != 1)
      number += 1
  assert number == len(firsts)
  assert plain.cost.generated < first.cost.generated <= 8 * 12


@pytest.mark.parametrize("text, expected", [
    ("Sure! Context: 3 apples. Question: How many?", "3 apples.\nHow many?"),
    ("context:  Question: How many?", "How many?"), ("Question: Why?", "Why?"),
    ("no such parts", None), ("Context: a", None), ("Context: a Question: ", None)])
def test_rewritten_prompts(text, expected):
  config = SearchConfig(method="rewrite")
  row = rewrite.rewritten(config, {"prompt": "the original", "answer": 1}, text)
  assert row == (None if expected is None else {"prompt": expected})
  kept = rewrite.rewritten(
      dataclasses.replace(config, keep_original=True),
      {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "o"}]}, text)
  if expected is not None:
    assert kept["prompt"] == [{"role": "system", "content": "s"},
                              {"role": "user", "content": f"o\n\n{expected}"}]


def test_the_answer_of_a_rewritten_prompt_never_sees_the_original(monkeypatch):
  config = SearchConfig(method="rewrite", num_samples=2, rewrite="b {prompt}")
  monkeypatch.setattr(rewrite, "rewritten", lambda config, row, text: {"prompt": "2 2 2"})
  found, plain = search(config), search(
      SearchConfig(num_samples=2), [{"prompt": "2 2 2"}] * 2)
  for one, other in zip(found, plain, strict=True):
    assert [s.text for s in one.solutions] == [s.text for s in other.solutions]
    assert one.cost.generated > other.cost.generated  # the rewriting is paid
  assert found[0].cost.prompt == 3 + 3  # "b p0 1" and "2 2 2"


def test_costs_by_hand():
  """2 and 4 for a million tokens: 3e5 generated and 1e5 scored are 0.6 + 0.4; prompts 1."""
  config = SearchConfig(scorer="rm", price_generated=2.0, price_scored=4.0, price_prompt=1.0)
  assert Cost(300_000, 100_000, 500_000).price(config) == pytest.approx(1.5)


@pytest.mark.parametrize("fields, message", [
    (dict(method="beam"), "scorer: got '' with method='beam'"),
    (dict(choose="best"), "scorer: got '' with choose='best'"),
    (dict(method="beam", scorer="rm", num_samples=6, width=4), "width: got 4 with num_samples=6"),
    (dict(width=2), "width: got 2 with method='sample'"),
    (dict(delimiter=";"), "delimiter: got ';' without a scorer"),
    (dict(num_samples=0), "num_samples: got 0, allowed: 1 or more"),
    (dict(max_tokens=-1), "max_tokens: got -1, allowed: 0 or more"),
    (dict(method="mcts", scorer="rm", max_tokens=9), "max_tokens: got 9 with form='vanilla'"),
    (dict(method="rewrite", rewrite="x"), "rewrite: got 'x', allowed: a text with {prompt}"),
    (dict(method="revise", revision=""), "revision: got ''"),
    (dict(scorer="likelihood", price_scored=1.0), "price_scored: got 1.0 with scorer='likelihood'"),
])
def test_settings_without_effect_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    SearchConfig(**fields)
