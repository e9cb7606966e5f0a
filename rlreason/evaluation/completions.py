"""The completions of an evaluation as rows, and metrics of each problem from these.

A row is one completion:

    problem    index of the problem among those evaluated
    sample     None: the greedy completion; else 0, 1, ... of the sampled ones
    task_name  of the sub-task, where the problem names one
    prompt     text or chat messages
    gold       the right answer, as the task gives it
    completion the text
    extracted  the answer in it, as text; None where there is none
    vote       a number: equal ones of a problem are one answer for maj@k; None: no vote
    score      of the verifier; 1 or more is right, None could not be scored
    length     generated tokens
    truncated  whether the length limit ended it

Solutions of a search (`evaluation/search.py`) also have

    search      true: it is no sample of the metrics below
    chosen      whether it is the search's answer
    step_scores of its scorer

Not here: sampling and scoring (evaluator.py), estimates over problems (metrics.py), files.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
import hashlib
import json
from typing import Any

from rlreason.evaluation import metrics
from rlreason.rewards import is_right

Completions = list[dict[str, Any]]

METRICS = "greedy, avg@n, pass@k and maj@k"


def number_votes(votes: Iterable[Hashable | None]) -> list[int | None]:
  """Numbers equal votes equally, in the order of their occurrence; None stays None."""
  numbers = {}
  return [None if vote is None else numbers.setdefault(vote, len(numbers)) for vote in votes]


def digest(completions: Completions) -> str:
  """SHA-256 of the problems: of each one's prompt and right answer, in order."""
  total = hashlib.sha256()
  for row in _firsts(completions):
    total.update(json.dumps([row["prompt"], row["gold"]]).encode() + b"\n")
  return total.hexdigest()


def per_problem(completions: Completions, metric: str) -> dict[int, float]:
  """A metric of each problem: problem -> value; problems without a scored completion are omitted.

  For maj@k all are omitted if right completions cast no vote (`metrics.has_votes`).

  Args:
    completions: of one evaluation.
    metric: greedy, avg@n, pass@k or maj@k.

  Raises:
    ValueError: another metric, or one that needs more samples than there are.
  """
  name, at, count = metric.partition("@")
  k = int(count) if count.isdigit() else 0
  measures = {"avg": _avg, "pass": _pass, "maj": _maj}
  if metric != "greedy" and (name not in measures or not at or k < 1):
    raise ValueError(f"metric: got {metric!r}, allowed: {METRICS}")
  groups = {}
  for row in completions:
    if not row.get("search") and (row["sample"] is None) == (metric == "greedy"):
      groups.setdefault(row["problem"], []).append(row)
  if k > min(map(len, groups.values()), default=0):
    raise ValueError(f"metric: got {metric!r}, allowed: at most the number of samples")
  if name == "maj" and not metrics.has_votes(map(_votes, groups.values())):
    return {}
  measure: Callable = _avg if metric == "greedy" else measures[name]
  found = {problem: measure(rows, k) for problem, rows in groups.items()}
  return {problem: value for problem, value in found.items() if value is not None}


def _avg(rows: Sequence[dict[str, Any]], unused_k: int) -> float | None:
  known = [verdict for verdict in map(_is_right, rows) if verdict is not None]
  return sum(known) / len(known) if known else None


def _pass(rows: Sequence[dict[str, Any]], k: int) -> float | None:
  known = [verdict for verdict in map(_is_right, rows) if verdict is not None]
  return metrics.pass_at_k(len(known), sum(known), k) if len(known) >= k else None


def _maj(rows: Sequence[dict[str, Any]], k: int) -> float | None:
  return metrics.maj_of_parts(*_votes(rows), k)


def _votes(rows: Sequence[dict[str, Any]]) -> tuple[list[int | None], list[bool | None]]:
  return [row["vote"] for row in rows], list(map(_is_right, rows))


def _is_right(row: dict[str, Any]) -> bool | None:
  return is_right(row["score"])


def _firsts(completions: Completions) -> Iterable[dict[str, Any]]:
  """The first row of each problem."""
  seen = set()
  for row in completions:
    if row["problem"] not in seen:
      seen.add(row["problem"])
      yield row
