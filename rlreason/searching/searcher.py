"""A search over the problems of a batch: programs of its method, and the choice of an answer.

A search reads prompts and nothing else of a problem: right answers, and verifiers that know them,
come after it (`evaluation/search.py`).
"""

from collections.abc import Callable, Hashable, Sequence
import functools
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from rlreason.data import fitting
from rlreason.models import ModelConfig
from rlreason.parallel import Layout
from rlreason.sampling import SamplingOptions
from rlreason.sampling.decoder import prepare
from rlreason.searching import delimiter, rewrite, scorer as scorer_lib, stepping, votes
from rlreason.searching.beam import make_beam_search
from rlreason.searching.config import SearchConfig
from rlreason.searching.results import Candidate, Cost, Found, score_of
from rlreason.searching.revise import make_revision_search
from rlreason.searching.sampled import make_sampled_search
from rlreason.searching.tree_search import make_tree_search
from rlreason.tokenizers import Tokenizer
from rlreason.types import Key, Params

# Of whole prompts; `_solver` adds those that make prompts or texts of their own.
METHODS = {
    "sample": make_sampled_search, "beam": make_beam_search, "mcts": make_tree_search,
    "token_mcts": make_tree_search, "rewrite": make_sampled_search,
    "revise": make_revision_search}


class Reader(NamedTuple):
  """How the answers of solutions are read, and compared with each other."""

  vote: Callable[[str], Hashable | None]  # of a text; equal ones are one answer
  extract: Callable[[str], str | None]  # the answer as text
  is_equal: Callable[[str, str], bool] | None = None  # of answers with different votes


class Solution(NamedTuple):
  """A solution of a search, read."""

  text: str
  candidate: Candidate
  answer: str | None
  answer_class: int | None  # equal answers of a problem have equal numbers; None: no answer
  score: float | None  # None without a scorer


class Searched(NamedTuple):
  """The result of one problem."""

  solutions: tuple[Solution, ...]
  chosen: int | None  # index of the solution that is the answer; None: there is none
  cost: Cost
  seconds: float  # of its batch, divided by the number of its problems

  def choose(self, how: votes.Choice) -> int | None:
    """The index that another way to choose would give."""
    return choose_solution(self.solutions, how)


def make_searcher(
    config: SearchConfig, model: ModelConfig, tokenizer: Tokenizer, layout: Layout, *,
    options: SamplingOptions, prompt_buckets: Sequence[int], reader: Reader,
    scorer: scorer_lib.Shape | None = None,
) -> Callable[[dict[str, Params]], Callable[[Sequence[Any], Key], list[Searched]]]:
  """Makes `place(params) -> search(rows, key)`, one result for each row.

  `params` are {"policy"} and, with a reward model, {"scorer": {"trunk", "value_head"}}, on the
  devices. `rows` are of a task, as many as a multiple of the shards; only their prompts are read.
  On one device the forms of the parameters that decode steps read are made once for all programs,
  when they are placed; on several each program makes its own, as a sampler does.

  Args:
    config: the settings.
    model: the policy's shape.
    tokenizer: its tokenizer.
    layout: where programs run.
    options: of the policy's sampler.
    prompt_buckets: allowed widths of prompts, tokens.
    reader: of answers.
    scorer: the reward model; None: the config names none.

  Raises:
    ValueError: the delimiter cannot be written by the tokenizer.
  """
  if config.reads_model and scorer is None:
    raise ValueError(f"scorer: got {config.scorer!r} without its model, allowed: one")
  reads_steps = config.scorer and config.method != "token_mcts"
  table = delimiter.make_table(
      tokenizer, model.vocab_size, config.delimiter) if reads_steps else np.zeros((1, 1), np.int32)

  def models_of(params):
    policy = prepare(model, params["policy"], is_int8=options.is_int8)
    if scorer is None:
      return stepping.Models(policy, None)
    unread = () if scorer.reads_end else tuple(tokenizer.eos_ids)
    return stepping.Models(policy, scorer_lib.prepare(scorer.config, params["scorer"], unread))

  # One device: the forms of parameters are made once, not in every program.
  is_alone = len(layout.param_shardings(None).device_set) == 1 and layout.num_replicas == 1
  place = jax.jit(models_of) if is_alone else lambda params: params
  arguments = (layout if is_alone else _preparing(layout, models_of), table, options,
               tuple(tokenizer.eos_ids))
  solve = _make_solver(config, tokenizer, prompt_buckets, arguments)

  def bind(params):
    placed = place(params)

    def search(rows, key):
      start = time.perf_counter()
      found = solve(placed, rows, key)
      seconds = (time.perf_counter() - start) / len(rows)
      return [_read(config, tokenizer, reader, one, seconds) for one in found]

    return search

  return bind


def _make_solver(
    config: SearchConfig, tokenizer: Tokenizer, prompt_buckets: Sequence[int], arguments: tuple
) -> Callable[..., list[Found]]:
  """Makes `solve(models, rows, key)`; `arguments` are those of a method after the config."""
  more = ()
  if config.method == "revise":
    more = (tuple(tokenizer.encode(config.revision)),)
    if not more[0]:
      raise ValueError(f"revision: got {config.revision!r} of 0 tokens, allowed: 1 or more")
  run = METHODS[config.method](config, *arguments, *more)

  def solve(found, rows, key, run=run):
    prompts = fitting.make_prompts(
        [fitting.encode_prompt(tokenizer, row) for row in rows], prompt_buckets,
        pad_id=tokenizer.pad_id)
    return run(found, prompts, key)

  if config.method != "rewrite":
    return solve
  first = make_sampled_search(SearchConfig(num_samples=1), *arguments)
  fits = lambda row: len(fitting.encode_prompt(tokenizer, row)) <= max(prompt_buckets)

  def solve_rewritten(found, rows, key):
    calls = solve(
        found, [rewrite.request(config, row) for row in rows], jax.random.fold_in(key, 1), first)
    texts = [tokenizer.decode(list(call.candidates[0].ids)) for call in calls]
    new = [rewrite.rewritten(config, row, text) for row, text in zip(rows, texts, strict=True)]
    new = [row if one is None or not fits(one) else one
           for one, row in zip(new, rows, strict=True)]
    return [one._replace(cost=one.cost.plus(call.cost))
            for one, call in zip(solve(found, new, key), calls, strict=True)]

  return solve_rewritten


def _preparing(layout: Layout, models_of: Callable[[dict[str, Params]], Any]) -> Layout:
  """A layout whose programs of samplers begin by preparing the models."""
  def compile_sampler(fn):
    @functools.wraps(fn)
    def prepared(params, rows, key):
      return fn(models_of(params), rows, key)
    return layout.compile_sampler(prepared)

  return layout._replace(compile_sampler=compile_sampler)


def _read(config, tokenizer: Tokenizer, reader: Reader, found, seconds: float) -> Searched:
  texts = [tokenizer.decode(list(one.ids)) for one in found.candidates]
  cast, answers = list(map(reader.vote, texts)), list(map(reader.extract, texts))
  # A vote without a text to compare stands alone.
  is_equal = reader.is_equal or (lambda left, right: False)
  classes = votes.merge_equal(
      cast, answers, lambda left, right: None not in (left, right) and is_equal(left, right))
  scores = [score_of(config, one) if config.scorer else None for one in found.candidates]
  solutions = tuple(map(Solution, texts, found.candidates, answers, classes, scores))
  return Searched(solutions, choose_solution(solutions, config.choose), found.cost, seconds)


def choose_solution(solutions: Sequence[Solution], how: votes.Choice) -> int | None:
  """The index of the chosen one, as `votes.choose`."""
  scores = [solution.score for solution in solutions]
  return votes.choose(
      [solution.answer_class for solution in solutions],
      None if None in scores or not scores else scores, how)
