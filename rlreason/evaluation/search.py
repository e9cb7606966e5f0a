"""The search at test time of an evaluation: its batches, its metrics, and its rows.

A search gets the prompts of problems. Right answers are read here, after it has chosen.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from rlreason import processes, tracking, weights
from rlreason.data.tasks.base import Row
from rlreason.evaluation import metrics
from rlreason.evaluation.config import EvaluationConfig
from rlreason.models import ModelConfig, abstract_boxed_params
from rlreason.parallel import Layout
from rlreason.rewards import CombinedReward, answer, is_right, verifier, vote_answer
from rlreason.sampling import SamplingOptions, check_memory
from rlreason.searching import Reader, Searched, make_searcher, scorer as scorer_lib
from rlreason.tokenizers import Tokenizer
from rlreason.types import Key, Params

# Boxed answers; those with different votes are compared by the verifier of mathematics.
ANSWERS = Reader(
    vote_answer, answer.extract_answer,
    lambda left, right: bool(verifier.match_text(left, right)))
_KEY = 1  # folded into the key: a search draws other samples than the evaluation
_BEGINNING = "search_"  # of the names of metrics


def load_scorer(
    path: str, model: ModelConfig, tokenizer: Tokenizer, layout: Layout
) -> tuple[scorer_lib.Shape, Params]:
  """A reward model for a policy, and its parameters on the devices.

  Raises:
    FileNotFoundError, ValueError: as `weights.load_scalar_model`; or other token ids.
  """
  sharding = lambda config: layout.param_shardings(abstract_boxed_params(config))
  folder = weights.find_model(path)
  config, params, own = weights.load_scalar_model(
      folder, dtype=model.param_dtype, compute_dtype=model.dtype,
      sharding=sharding, labels=weights.STEP_LABELS)
  ids = own.get_vocab()
  other = [word for word, token in tokenizer.get_vocab().items() if ids.get(word) != token]
  if other:
    raise ValueError(f"search.scorer: got a model that knows {len(other)} of the policy's tokens "
                     f"by another id, or not at all ({other[0]!r}), allowed: one of its vocabulary")
  return scorer_lib.Shape(config, not weights.is_process_model(folder)), layout.put_state(params)


def make_search(
    config: EvaluationConfig, options: SamplingOptions, model: ModelConfig, tokenizer: Tokenizer,
    layout: Layout, *, prompt_buckets: Sequence[int], reader: Reader,
) -> Callable[..., list[Searched]]:
  """Makes `run(rows, params, key, before_batch)`: the results of a search for rows.

  Args:
    config: with a search.
    options: of the policy's sampler.
    model: the policy's shape.
    tokenizer: its tokenizer.
    layout: where programs run.
    prompt_buckets: allowed widths of prompts, tokens.
    reader: of answers.

  Raises:
    FileNotFoundError, ValueError: the scorer cannot be loaded, or does not fit the policy.
  """
  search, scorer, scorer_params = config.search, None, {}
  if search.reads_model:
    scorer, params = load_scorer(search.scorer, model, tokenizer, layout)
    scorer_params = {"scorer": params}
  bind = make_searcher(
      search, model, tokenizer, layout, options=options, prompt_buckets=prompt_buckets,
      reader=reader, scorer=scorer)

  def run(rows: Sequence[Row], params: Any, key: Key, before_batch: Callable[[], None]):
    shards = layout.num_shards
    size = -(-min(config.batch_size, len(rows)) // shards) * shards
    check_memory(
        model, prompts=size, columns=min(prompt_buckets), group_size=search.rows_per_problem,
        max_new_tokens=options.max_new_tokens)
    # Only what a search may know.
    problems = [_prompt_of(row) for row in rows]
    searching, results = bind({"policy": params["policy"], **scorer_params}), []
    with tracking.work(f"search, {search.method}", len(rows)) as done:
      for start in range(0, len(rows), size):
        before_batch()
        batch = problems[start:start + size]
        filled = batch + [batch[-1]] * (size - len(batch))
        of_batch = jax.random.fold_in(jax.random.fold_in(key, _KEY), start)
        results += searching(filled, of_batch)[:len(batch)]
        done(len(batch))
    return results

  return run


def _prompt_of(row: Row) -> Row:
  """A row without its answer, and everything else but the prompt."""
  if hasattr(row, "ids"):  # an `EncodedRow` knows its tokens
    return type(row)({"prompt": row["prompt"]}, row.tokenizer, row.ids)
  return {name: row[name] for name in ("prompt", "prompt_ids") if name in row}


def verify(
    reward: CombinedReward, rows: Sequence[Row], results: Sequence[Searched]
) -> list[list[float | None]]:
  """The scores of the verifier for all solutions; each process verifies some."""
  def verify_part(part):
    pairs = [(row, solution) for row, result in zip(rows[part], results[part], strict=True)
             for solution in result.solutions]
    if not pairs:
      return [[] for _ in results[part]]
    columns = {name: [row[name] for row, _ in pairs] for name in pairs[0][0]}
    scores = iter(reward(
        columns.pop("prompt"), [solution.text for _, solution in pairs], **columns
    ).parts["verifier"])
    return [[next(scores) for _ in result.solutions] for result in results[part]]

  return processes.in_parts(len(rows), verify_part)


def measure(
    config: EvaluationConfig, results: Sequence[Searched], scores: Sequence[Sequence[float | None]]
) -> dict[str, metrics.Estimate]:
  """The metrics of a search over some problems.

  `search_accuracy` is that of the chosen solution; `search_vote`, `search_weighted_vote` and
  `search_best` that of other ways to choose from the same solutions, and `search_any` the share of
  problems that any of them solves. Tokens and seconds are means per problem, with the time of the
  first compilation; the cost is that of 1,000 problems.
  """
  search = config.search
  verdicts = [list(map(is_right, row)) for row in scores]
  right = lambda chosen: metrics.proportion([
      False if i is None else row[i] for i, row in zip(chosen, verdicts, strict=True)])
  ways = ("vote", "weighted_vote", "best") if search.scorer else ("vote",)
  found = {"accuracy": right([result.chosen for result in results])}
  found |= {how: right([result.choose(how) for result in results]) for how in ways}
  found["any"] = metrics.proportion([
      any(row) if any(row) or None not in row else None for row in verdicts])
  costs = [result.cost for result in results]
  found |= {
      "solutions": metrics.mean([len(result.solutions) for result in results]),
      "tokens_generated": metrics.mean([cost.generated for cost in costs]),
      "tokens_scored": metrics.mean([cost.scored for cost in costs]),
      "tokens_prompt": metrics.mean([cost.prompt for cost in costs]),
      "seconds": metrics.mean([result.seconds for result in results]),
      "cost": metrics.mean([1000 * cost.price(search) for cost in costs])}
  return {f"{_BEGINNING}{name}": estimate for name, estimate in found.items()}


def names(config: EvaluationConfig) -> list[str]:
  """The names of the metrics."""
  return list(measure(config, [], []))


def completions(of_row: dict[str, Any], result: Searched, scores: Sequence[float | None]):
  """The rows of one problem, laid out as in `evaluation.completions`, with what a search adds."""
  return [
      {**of_row, "sample": i, "search": True, "chosen": i == result.chosen,
       "completion": solution.text, "extracted": solution.answer, "vote": solution.answer_class,
       "score": score, "length": len(solution.candidate.ids),
       "truncated": solution.candidate.is_truncated,
       "step_scores": list(solution.candidate.step_scores)}
      for i, (solution, score) in enumerate(zip(result.solutions, scores, strict=True))]
