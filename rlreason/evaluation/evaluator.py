"""Evaluation of a policy on held-out problems: accuracy, avg@n, pass@k, maj@k and behaviours."""

from collections.abc import Callable, Hashable, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlreason import processes, tracking
from rlreason.data import fitting, sources
from rlreason.data.messages import add_to_prompt
from rlreason.data.tasks.base import Row, RowSource, Task
from rlreason.evaluation import (
    behaviours, completions as completions_lib, metrics, search as search_lib)
from rlreason.evaluation.completions import Completions
from rlreason.evaluation.config import EvaluationConfig
from rlreason.evaluation.reading import AnswerReader
from rlreason.models import ModelConfig
from rlreason.parallel import Layout
from rlreason.rewards import (
    CombinedReward, RewardSpec, Verifier, answer, combine_rewards, has_math_golds,
    is_built_in, is_right, verifier, verifier_columns, vote_answer)
from rlreason.rollout import forcing as forcing_lib, scored as scored_lib
from rlreason.sampling import Batching, check_memory, sample_queue
from rlreason.searching import Reader
from rlreason.tokenizers import Tokenizer
from rlreason.types import Key, Params, Rollout
from rlreason.workers import WorkerPool

# Batches per queue of prompts: rows are idle at its end; a longer queue hardly has fewer.
_QUEUED = 8


Evaluation = dict[str, dict[str, metrics.Estimate]]  # task -> metric -> estimate


class Evaluated(NamedTuple):
  """The results of an evaluation."""

  estimates: Evaluation
  samples: list[dict[str, Any]]  # the greedy completions, as in samples.jsonl
  completions: Completions  # all of them



class _Solution(NamedTuple):
  """One completion of one problem, scored."""

  text: str
  score: float | None  # the verifier's
  length: int  # generated tokens
  reasoning_length: int  # those before the answer
  truncated: bool
  first_right: int | None  # tokens up to the end of the first right box
  extracted: str | None  # its answer
  vote: Hashable | None  # of maj@k

  @property
  def is_right(self) -> bool | None:
    return is_right(self.score)


class _Grader(NamedTuple):
  """How completions of a task are verified and read."""

  task_verifier: Verifier
  spec: RewardSpec  # of the part "verifier"
  is_built_in: bool  # else a reward function, which may read anything
  reader: AnswerReader
  where: Mapping[str, Any]  # options of `answer.extract_answer`

  def reward(self, pool: WorkerPool | None) -> CombinedReward:
    return combine_rewards([self.spec], verifier=self.task_verifier, pool=pool)

  def find(self, text: str) -> str | None:
    """The answer of a completion."""
    return answer.extract_answer(text, **self.where)

  def vote(self, text: str) -> Hashable | None:
    return self.reader.vote(text, **self.where)

  def for_search(self) -> Reader:
    """Answers with different votes are compared where both are mathematics, by the verifier."""
    is_math = (self.is_built_in and self.task_verifier == "math"
               and self.reader.vote is vote_answer)
    return Reader(self.vote, self.find, search_lib.ANSWERS.is_equal if is_math else None)

  def count_behaviours(self, text: str) -> behaviours.Behaviours:
    """The behaviours of the reasoning."""
    mark = answer.mark_of(self.where)
    return self.reader.count_behaviours(text, **{"mark": mark} if mark else {})


def _make_grader(
    config: EvaluationConfig, task_verifier: Verifier, grading: RewardSpec, reader: AnswerReader
) -> _Grader:
  """The training's part "verifier" with the options of the evaluation."""
  options = {**grading.options, **config.verifier_options}
  reads_boxes = grading.function is None and is_built_in(task_verifier)
  if config.which_box is not None and reads_boxes:
    options["which_box"] = config.which_box
  return _Grader(
      task_verifier, dataclasses.replace(grading, weight=1.0, options=options), reads_boxes,
      reader, {
          "which_box": config.which_box or options.get("which_box", "last"),
          **{name: options[name] for name in ("answer_tags", "answer_after") if name in options}})


def make_evaluator(
    config: EvaluationConfig, task: Task, model: ModelConfig, tokenizer: Tokenizer,
    layout: Layout, *, prompt_buckets: Sequence[int],
    reader: AnswerReader = AnswerReader(), grading: RewardSpec = RewardSpec(name="verifier"),
) -> Callable[..., Evaluated]:
  """Makes `evaluate(params, key, pool=None, before_batch=...) -> Evaluated`.

  The estimates have an entry for the task and, if its rows name sub-tasks (`task_name`), one for
  each of these. `pool` are the worker processes of the verifier (None: the shared ones);
  `before_batch` is called before a batch is sampled or scored, and may raise to stop.

  Args:
    config: the settings.
    task: the held-out problems.
    model: the policy's shape.
    tokenizer: its tokenizer.
    layout: where programs run.
    prompt_buckets: allowed widths of prompts, tokens.
    reader: reads votes and behaviours of completions.
    grading: the verification of completions: the part "verifier" of training's rewards.

  Raises:
    ValueError: no problem fits, or none has the columns of its verifier; a forced text is too long;
      the verifier or one of its options does not exist.
  """
  grader = _make_grader(config, task.verifier, grading, reader)
  grader.reward(None)  # checks it now
  rows = _problems(config, task.rows, grader, tokenizer, max(prompt_buckets))
  batch_size = -(-min(config.batch_size, len(rows)) // layout.num_shards) * layout.num_shards
  queue = _queue_settings(config, len(rows), batch_size, layout)

  def make_run(is_greedy, group_size):
    options = config.options(
        is_greedy=is_greedy, blocked_bigrams=_blocked_bigrams(config, tokenizer))
    check_memory(
        model, prompts=batch_size, columns=min(prompt_buckets), group_size=group_size,
        max_new_tokens=options.max_new_tokens)
    generate = forcing_lib.make_generator(
        model, tokenizer, layout, config.forcing(), options=options, group_size=group_size,
        prompt_buckets=prompt_buckets, **queue)
    name = "evaluation, " + ("greedy" if options.temperature == 0 else f"{group_size} samples")
    rollouts = functools.partial(_rollouts, generate, rows, batch_size, _QUEUED if queue else 1)
    return functools.partial(_run, name, rollouts, len(rows))

  greedy = make_run(True, 1)
  sampled = make_run(False, config.num_samples) if config.num_samples else None
  search = _make_search(config, rows, grader, (model, tokenizer, layout), prompt_buckets)

  def evaluate(params, key, pool=None, before_batch=lambda: None):
    score = functools.partial(_score, grader.reward(pool), tokenizer, grader)
    firsts = [group[0] for group in greedy(score, params, key, before_batch)]
    groups = sampled(score, params, key, before_batch) if sampled else [[] for _ in rows]
    searched = search(params, key, pool, before_batch)
    return _evaluated(config, task.name, rows, list(zip(firsts, groups, searched)), grader)

  return evaluate


def _evaluated(
    config: EvaluationConfig, task_name: str, rows: Sequence[Row], solved, grader: _Grader
) -> Evaluated:
  """The result for rows; `solved` has the greedy, the sampled and the searched solutions of each.
  """
  evaluation = {}
  for name, indices in _task_rows(task_name, rows).items():
    firsts, groups, searched = map(list, zip(*(solved[i] for i in indices), strict=True))
    evaluation[name] = _measure([rows[i] for i in indices], firsts, groups, grader)
    evaluation[name] |= _search_metrics(config, searched)
  completions = [one for i, (row, (first, group, _)) in enumerate(zip(rows, solved, strict=True))
                 for one in _completions(i, row, first, group)]
  completions += [one for i, (row, (*_, found)) in enumerate(zip(rows, solved, strict=True))
                  if found for one in search_lib.completions(_of_row(i, row), *found)]
  samples = [_sample(row, first) for row, (first, *_) in zip(rows, solved, strict=True)]
  return Evaluated(evaluation, samples, completions)


def _make_search(
    config: EvaluationConfig, rows: Sequence[Row], grader: _Grader,
    policy: tuple[ModelConfig, Tokenizer, Layout], prompt_buckets: Sequence[int],
):
  """Makes `search(params, key, pool, before_batch)`: for each of the rows the result of a search
  and the verifier's scores of its solutions, or None without a search.

  `policy` is the model's shape, its tokenizer, and the layout.
  """
  if config.search is None:
    return lambda *unused: [None] * len(rows)
  options = config.options(
      is_greedy=False, blocked_bigrams=_blocked_bigrams(config, policy[1]))
  run = search_lib.make_search(
      config, options, *policy, prompt_buckets=prompt_buckets, reader=grader.for_search())

  def search(params, key, pool, before_batch):
    results = run(rows, params, key, before_batch)
    return list(zip(results, search_lib.verify(grader.reward(pool), rows, results), strict=True))

  return search


def _search_metrics(config: EvaluationConfig, searched) -> dict[str, metrics.Estimate]:
  if config.search is None:
    return {}
  found = search_lib.measure(config, *zip(*searched, strict=True))
  return {metric: _without_nan(estimate) for metric, estimate in found.items()}


def _queue_settings(
    config: EvaluationConfig, total: int, batch_size: int, layout: Layout
) -> dict[str, Callable[..., Rollout]]:
  """The sampler settings of a queue of several batches; empty if there is no queue."""
  if config.forced_answer or config.num_waits or total <= batch_size:
    return {}
  return {"sampler": functools.partial(sample_queue, Batching(
      groups=batch_size // layout.num_replicas,
      parts=layout.prompt_parts(batch_size) // layout.num_replicas, batch=batch_size))}


def metric_names(
    config: EvaluationConfig, task: Task, tokenizer: Tokenizer, *, longest: int,
    reader: AnswerReader = AnswerReader(), grading: RewardSpec = RewardSpec(name="verifier"),
) -> list[str]:
  """The names of an evaluation's metrics, `eval/<task>/<metric>`; arguments as above.

  `longest` is the largest of the prompt buckets. They are computed for a right completion, for
  which all metrics exist.
  """
  grader = _make_grader(config, task.verifier, grading, reader)
  rows = _problems(config, task.rows, grader, tokenizer, longest)
  right = _Solution("", 1.0, 1, 0, False, 1, "", "")
  names = _measure(rows[:1], [right], [[right] * config.num_samples], grader)
  names = [*names, *(search_lib.names(config) if config.search else ())]
  return [f"eval/{name}/{metric}" for name in _task_rows(task.name, rows) for metric in names]


def _problems(
    config: EvaluationConfig, rows: RowSource, grader: _Grader, tokenizer: Tokenizer, longest: int
) -> list[Row]:
  """The first of the problems that fit."""
  is_math = has_math_golds(grader.spec, grader.task_verifier)
  rows = fitting.FittingRows(
      _with_suffix(rows, config.prompt_suffix), tokenizer, longest,
      verifier_columns(grader.spec, grader.task_verifier), is_math)
  rows = [rows[i] for i in range(min(config.num_problems, len(rows)))]
  if is_math:
    fitting.report_golds(rows)
  return rows


def _with_suffix(rows: RowSource, suffix: str) -> RowSource:
  """The rows with another prompt, without the token ids of the old one."""
  if not suffix:
    return rows
  change = lambda row: row | {"prompt": add_to_prompt(row["prompt"], suffix), "prompt_ids": None}
  return sources.FunctionRows(lambda i: change(rows[i]), len(rows), rows)


def _score(
    reward: CombinedReward, tokenizer: Tokenizer, grader: _Grader, rows: Sequence[Row],
    rollout: Rollout,
) -> list[_Solution]:
  def score_part(part):
    some = scored_lib.take_prompts(rollout, part, len(rows))
    return _score_part(reward, tokenizer, grader, rows[part], some)

  found = processes.in_parts(len(rows), score_part)
  return [_Solution(*values, grader.find(values[0]), grader.vote(values[0])) for values in found]


def _score_part(
    reward: CombinedReward, tokenizer: Tokenizer, grader: _Grader, rows: Sequence[Row],
    rollout: Rollout,
) -> list[list[Any]]:
  """The fields of each `_Solution` before its answer."""
  scored = scored_lib.score(reward, tokenizer, rows, rollout)
  ids = [tokens[mask].tolist() for tokens, mask in zip(
      rollout.completion_tokens, rollout.token_mask, strict=True)]
  ends = _first_right_boxes(reward, grader.is_built_in, rows, scored)
  firsts = [None if end is None else scored_lib.tokens_until(tokenizer, ids[i], end)
            for i, end in enumerate(ends)]
  return list(map(list, zip(
      scored.completions, scored.rewards.parts["verifier"], scored.lengths.tolist(),
      scored.reasoning_lengths.tolist(), rollout.truncated.tolist(), firsts, strict=True)))


def _first_right_boxes(
    reward: CombinedReward, is_built_in: bool, rows: Sequence[Row], scored: scored_lib.Scored
) -> list[int | None]:
  """The end of the first right box of each text, in characters; None if the text is wrong.

  If the answer of a right text is not in a box, as may be with `answer_tags` and `answer_after`, or
  the verifier is a custom function, which need not read boxes, it is the end of the text.
  """
  texts, scores = scored.completions, scored.rewards.parts["verifier"]
  boxes = [answer.find_boxes(text) for text in texts]
  ends = [found[0].end if len(found) == 1 and is_right(score) else None
          for found, score in zip(boxes, scores, strict=True)]
  # The verdict on a text concerns one of its boxes: if it has several, each is verified separately.
  several = [(i, box) for i, found in enumerate(boxes) if len(found) > 1 and is_built_in
             for box in found]
  group_size = len(texts) // len(rows)
  columns = {name: [rows[i // group_size][name] for i, _ in several] for name in rows[0]}
  verdicts = reward(
      columns.pop("prompt"), [texts[i][box.start:box.end] for i, box in several], **columns)
  for (i, box), score in zip(several, verdicts.parts["verifier"], strict=True):
    if ends[i] is None and is_right(score):
      ends[i] = box.end
  return [len(text) if end is None and text and is_right(score) else end
          for end, text, score in zip(ends, texts, scores, strict=True)]


def _run(
    name: str, rollouts, total: int, score, params: Params, key: Key,
    before_batch: Callable[[], None],
):
  """A list of `_Solution` for each of the `total` rows."""
  solutions = []
  with tracking.work(name, total) as done:
    for batch, rollout in rollouts(params, key, before_batch):
      group_size = rollout.token_mask.shape[0] // len(batch)
      solutions += score(batch, rollout)
      right = [solution.is_right is True for solution in solutions]
      lengths = [solution.length for solution in solutions]
      done(len(batch), {
          "rollout/accuracy": np.mean(right), "rollout/length/mean": np.mean(lengths)})
  return [solutions[i:i + group_size] for i in range(0, len(solutions), group_size)]


def _rollouts(
    generate, rows: Sequence[Row], batch_size: int, queued: int, params: Params, key: Key,
    before_batch: Callable[[], None],
):
  """Yields the rows of each batch and their rollout; up to `queued` batches form one queue.

  Each batch has its own key, so that its completions do not depend on the queue.
  """
  starts = range(0, len(rows), batch_size)
  per_call = -(-len(starts) // -(-len(starts) // queued))
  for first in range(0, len(starts), per_call):
    before_batch()  # sampling takes long, and so may the scoring of a batch
    chunk = rows[starts[first]:starts[first] + per_call * batch_size]
    missing = per_call * batch_size - len(chunk)  # every call has one shape: the last is filled
    spare = chunk[(len(chunk) - 1) // batch_size * batch_size]
    keys = [jax.random.fold_in(key, (first + i) * batch_size) for i in range(per_call)]
    rollout = generate(
        params, chunk + [spare] * missing, jnp.stack(keys) if per_call > 1 else keys[0])
    group_size = rollout.token_mask.shape[0] // (per_call * batch_size)
    for start in range(0, len(chunk), batch_size):
      batch = chunk[start:start + batch_size]
      before_batch()
      of_batch = slice(start * group_size, (start + len(batch)) * group_size)
      yield batch, jax.tree.map(lambda x, of_batch=of_batch: x[of_batch], rollout)


def _blocked_bigrams(config: EvaluationConfig, tokenizer: Tokenizer) -> tuple:
  """The pairs of `blocked_words`, as token ids."""
  return tuple(tuple(tuple(_token_id(tokenizer, word) for word in words) for words in pair)
               for pair in config.blocked_words)


def _token_id(tokenizer: Tokenizer, word: str) -> int:
  ids = tokenizer.encode(word)
  if len(ids) != 1:
    raise ValueError(f"blocked_words: got {word!r} of {len(ids)} tokens, allowed: words of one")
  return ids[0]


def _task_rows(name: str, rows: Sequence[Row]) -> dict[str, list[int]]:
  """Indices of the rows of the whole task, and of each of several sub-tasks."""
  indices = {name: list(range(len(rows)))}
  parts = sorted({row["task_name"] for row in rows if row.get("task_name")})
  if len(parts) > 1:
    indices |= {part: [i for i, row in enumerate(rows) if row["task_name"] == part]
                for part in parts}
  return indices


def _measure(
    rows, firsts: list[_Solution], groups: list[list[_Solution]], grader: _Grader
) -> dict[str, metrics.Estimate]:
  """All metrics of some problems, by their greedy and their sampled completions, if any."""
  found = _greedy_metrics(firsts, grader)
  found["unscored_fraction"] = _unscored(firsts, groups)
  if grader.is_built_in and grader.task_verifier == "math":
    found["greedy_unboxed"] = _unboxed_accuracy(rows, firsts)
  if groups[0]:
    found |= _sampled_metrics(groups)
  return {metric: _without_nan(estimate) for metric, estimate in found.items()}


def _greedy_metrics(solutions: list[_Solution], grader: _Grader) -> dict[str, metrics.Estimate]:
  counted = [grader.count_behaviours(solution.text) for solution in solutions]
  known = [solution for solution in solutions if solution.is_right is not None]
  lengths = [solution.length for solution in known]
  found = {
      "greedy": metrics.proportion([solution.is_right for solution in solutions]),
      "reasoning_length": metrics.mean([solution.reasoning_length for solution in solutions]),
      "length": metrics.mean([solution.length for solution in solutions]),
      "backtracks": metrics.mean([count.going_back for count in counted]),
      "checks": metrics.mean([count.checking for count in counted]),
      "truncated_fraction": metrics.proportion([solution.truncated for solution in solutions]),
      "boxed_fraction": metrics.proportion(
          [solution.extracted is not None for solution in solutions]),
      "outcome_efficiency": metrics.outcome_efficiency(
          [solution.first_right for solution in known], lengths),
  }
  if any(solution.is_right for solution in known):
    found["tokens_per_right"] = metrics.tokens_per_right(
        lengths, [solution.is_right for solution in known])
  return found


def _unscored(firsts: list[_Solution], groups: list[list[_Solution]]) -> metrics.Estimate:
  return metrics.mean_share([
      [solution.score is None for solution in (first, *group)]
      for first, group in zip(firsts, groups, strict=True)])


def _unboxed_accuracy(rows, solutions: list[_Solution]) -> metrics.Estimate:
  """Greedy accuracy with the last number as the answer of a completion without a box.

  It measures the ability before the format is learned; `greedy` counts such completions as wrong.
  """
  verdicts = [solution.is_right for solution in solutions]
  for i, (row, solution) in enumerate(zip(rows, solutions, strict=True)):
    has_answer = solution.extracted is not None
    number = None if has_answer else answer.last_number(solution.text)
    if number is not None:
      verdicts[i] = verifier.match_text(answer.gold_text(row["answer"]), number)
  return metrics.proportion(verdicts)


def _sampled_metrics(groups: list[list[_Solution]]) -> dict[str, metrics.Estimate]:
  counts = metrics.counts_up_to(len(groups[0]))
  correct = [[solution.is_right for solution in group] for group in groups]
  votes = [[solution.vote for solution in group] for group in groups]
  return {
      f"avg@{counts[-1]}": metrics.mean_share(correct),
      **{f"pass@{k}": metrics.mean_pass_at_k(correct, k) for k in counts},
      **{f"maj@{k}": metrics.mean_maj_at_k(votes, correct, k) for k in counts}}


def _without_nan(estimate: metrics.Estimate) -> metrics.Estimate:
  """Replaces NaN, as when no completion was scored, by None: JSON has no NaN."""
  return {name: None if math.isnan(number) else number for name, number in estimate.items()}


def _sample(row: Row, solution: _Solution) -> dict[str, Any]:
  return {"prompt": row["prompt"], "completion": solution.text, "answer": row["answer"],
          "rewards": {"verifier": solution.score}, "length": solution.length,
          "truncated": solution.truncated}


def _completions(problem: int, row: Row, first: _Solution, group: list[_Solution]) -> Completions:
  """The rows of one problem."""
  of_row, solutions = _of_row(problem, row), [first, *group]
  votes = completions_lib.number_votes(solution.vote for solution in solutions)
  return [
      {**of_row, "sample": None if i == 0 else i - 1, "completion": solution.text,
       "extracted": solution.extracted, "vote": vote, "score": solution.score,
       "length": solution.length, "truncated": solution.truncated}
      for i, (solution, vote) in enumerate(zip(solutions, votes, strict=True))]


def _of_row(problem: int, row: Row) -> dict[str, Any]:
  """What all completions of a problem share."""
  part = {"task_name": row["task_name"]} if row.get("task_name") else {}
  return {"problem": problem, **part, "prompt": row["prompt"], "gold": row["answer"]}
