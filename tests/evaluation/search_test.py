"""A search within an evaluation: metrics by hand, rows, and what it is given."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from rlreason import api, models, weights
from rlreason.algorithms import init_reward_params, score_steps
from rlreason.data.tasks.base import Task
from rlreason.evaluation import completions as completions_lib, evaluator, search as search_lib
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.searching import SearchConfig, scorer as scorer_lib
from rlreason.searching.results import Candidate, Cost
from rlreason.searching.searcher import Searched, Solution
from rlreason.types import Prompts
from tests.algorithms import tiny
from tests.evaluation import evaluator_test
from tests.evaluation.evaluator_test import canned_generator_fixture  # noqa: F401
from tests.searching import searcher_test

SEARCH = SearchConfig(
    scorer="rm", choose="weighted_vote", price_generated=2.0, price_scored=4.0, price_prompt=1.0)
CONFIG = dataclasses.replace(evaluator_test.CONFIG, search=SEARCH, num_problems=2)


def solutions(*parts):
  """(text, class, score) of each."""
  return tuple(Solution(f"\\boxed{{ {text} }}" if text else "", Candidate((1, 2), (score,)),
                        text or None, number, score) for text, number, score in parts)


RESULTS = [
    # Votes and the best say 2; with their weights 1, which is right.
    Searched(solutions(("2", 0, 0.1), ("2", 0, 0.2), ("1", 1, 0.4), ("3", 2, 0.5)), 2,
             Cost(100, 50, 10), 0.5),
    Searched(solutions(("2", 0, 0.9), ("", None, 0.1)), 0, Cost(300, 150, 30), 0.5)]
RESULTS[0] = RESULTS[0]._replace(chosen=RESULTS[0].choose("weighted_vote"))


@pytest.fixture(name="given")
def canned_search_fixture(monkeypatch):
  """Results come from the table; returns the rows that a search was given."""
  rows_seen = []

  def make_search(config, options, model, tokenizer, layout, *, prompt_buckets, reader):
    del options, model, tokenizer, layout, prompt_buckets
    assert config.search == SEARCH and reader.is_equal("0.5", "1/2")
    return lambda rows, *unused: rows_seen.append(rows) or RESULTS

  monkeypatch.setattr(search_lib, "make_search", make_search)
  return rows_seen


def test_metrics_by_hand(given):
  found = evaluator_test.run(CONFIG, evaluator_test.ROWS[:2])
  values = {name: estimate["value"] for name, estimate in found.estimates["toy"].items()
            if name.startswith("search_")}
  # Sums of 0.3, 0.4 and 0.5: the weighted vote of the first problem is for 3.
  assert values == pytest.approx({
      "search_accuracy": 0.0, "search_vote": 0.0, "search_weighted_vote": 0.0, "search_best": 0.0,
      "search_any": 0.5, "search_solutions": 3, "search_tokens_generated": 200,
      "search_tokens_scored": 100, "search_tokens_prompt": 20, "search_seconds": 0.5,
      "search_cost": 1000 * (2 * 200 + 4 * 100 + 20) / 1e6})
  assert len(given) == 1


def test_solutions_are_rows_and_no_samples(given):
  del given
  found = evaluator_test.run(CONFIG, evaluator_test.ROWS[:2])
  rows = [row for row in found.completions if row.get("search")]
  assert [row["sample"] for row in rows] == [0, 1, 2, 3, 0, 1]
  assert [row["chosen"] for row in rows] == [False, False, False, True, True, False]
  assert [row["score"] for row in rows] == [0, 0, 1, 0, 0, 0]
  assert rows[0]["step_scores"] == [0.1] and rows[0]["gold"] == "1"
  plain = evaluator_test.run(
      dataclasses.replace(CONFIG, search=None), evaluator_test.ROWS[:2]).completions
  for metric in ("greedy", "avg@3", "maj@3"):
    assert completions_lib.per_problem(found.completions, metric) == (
        completions_lib.per_problem(plain, metric))
  assert completions_lib.digest(found.completions) == completions_lib.digest(plain)


def test_names_of_metrics_are_known_before(given):
  del given
  found = evaluator_test.run(CONFIG, evaluator_test.ROWS[:2]).estimates["toy"]
  names = evaluator.metric_names(
      CONFIG, Task(name="toy", rows=evaluator_test.ROWS[:2], verifier="math"),
      evaluator_test.TOKENIZER, longest=4)
  assert {f"eval/toy/{name}" for name in found} == set(names)


def test_prompts_are_all_that_a_search_is_given(monkeypatch):
  seen = []

  def make_searcher(*unused, **unused_settings):
    return lambda params: lambda rows, key: seen.extend(rows) or [RESULTS[0]] * len(rows)

  monkeypatch.setattr(search_lib, "make_searcher", make_searcher)
  config = dataclasses.replace(CONFIG, search=SearchConfig(), num_problems=3)
  monkeypatch.setattr(evaluator_test, "SAMPLED", evaluator_test.SAMPLED | {"policy": None})
  evaluator_test.run(config, evaluator_test.ROWS[:3])
  assert len(seen) == 4  # batches of 2, the last one filled
  assert all(set(row) == {"prompt"} for row in seen)


def test_a_reward_model_with_other_token_ids_is_refused(tmp_path):
  params = init_reward_params(tiny.MODEL, searcher_test.POLICY, jax.random.key(0))
  weights.save_scalar_model(tmp_path / "rm", tiny.MODEL, params, searcher_test.TOKENIZER)
  layout = make_layout(ParallelConfig(data=1))
  shape, _ = search_lib.load_scorer(
      str(tmp_path / "rm"), tiny.MODEL, searcher_test.TOKENIZER, layout)
  assert shape.reads_end  # an outcome reward model
  with pytest.raises(ValueError, match="search.scorer: got a model that knows .* another id"):
    search_lib.load_scorer(
        str(tmp_path / "rm"), tiny.MODEL, evaluator_test.TOKENIZER, layout)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_process_reward_models_score_steps(tmp_path, num_classes):
  """A score is the probability that the step is not wrong, as `algorithms.score_steps` has it; the
  end token belongs to no step.
  """
  params = {"trunk": searcher_test.POLICY, "value_head": models.init_reward_head(
      tiny.MODEL.width, jax.random.key(0), num_classes)}
  weights.save_process_model(tmp_path / "prm", tiny.MODEL, params, searcher_test.TOKENIZER)
  shape, found = search_lib.load_scorer(
      str(tmp_path / "prm"), tiny.MODEL, searcher_test.TOKENIZER,
      make_layout(ParallelConfig(data=1)))
  prompts = Prompts(np.array([[0, 3, 4], [5, 6, 7]]), np.array([[0, 1, 1], [1, 1, 1]], bool),
                    np.arange(2))
  tokens = np.random.default_rng(0).integers(1, 9, (2, 6)).astype(np.int32)
  tokens[0, 5] = tokens[1, 3] = 9  # the end
  model = scorer_lib.prepare(shape.config, found, (9,))
  scores = jax.jit(scorer_lib.score_rows)(model, prompts, tokens, np.array([6, 4]))
  assert not shape.reads_end
  batch = types.SimpleNamespace(
      prompt_tokens=prompts.tokens, prompt_mask=prompts.mask, completion_tokens=tokens)
  expected = jax.nn.sigmoid(score_steps(
      tiny.MODEL, params, batch, np.broadcast_to(np.arange(6), (2, 6))))
  for row, end in enumerate((5, 3)):
    np.testing.assert_allclose(scores[row, :end], expected[row, :end], atol=1e-5)
    assert scores[row, end] == scores[row, end - 1]


def test_the_function_of_the_library(tmp_path):
  """`rr.search` with a reward model of a folder is the search of the same settings."""
  params = init_reward_params(tiny.MODEL, searcher_test.POLICY, jax.random.key(0))
  weights.save_scalar_model(tmp_path / "rm", tiny.MODEL, params, searcher_test.TOKENIZER)
  policy = api.Policy(tiny.MODEL, searcher_test.POLICY, searcher_test.TOKENIZER)
  run = lambda key: api.search(
      policy, ["p0 1", "p1"], jax.random.key(key), method="sample", choose="best", num_samples=3,
      scorer=str(tmp_path / "rm"), delimiter=";", max_new_tokens=12)
  first, again, other = run(0), run(0), run(1)
  texts = lambda found: [[one.text for one in each.solutions] for each in found]
  assert texts(first) == texts(again) != texts(other)
  for one in first:
    assert one.solutions[one.chosen].score == max(part.score for part in one.solutions)
  with pytest.raises(ValueError, match="scorer: got ''"):
    api.search(policy, ["p1"], jax.random.key(0), choose="best")
  with pytest.raises(ValueError, match="prompts: got"):
    api.search(policy, "p1", jax.random.key(0))
