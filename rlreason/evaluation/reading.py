"""Reads the votes and behaviours of a task's completions, in addition to verification."""

from collections.abc import Callable, Hashable
import dataclasses
import functools
from typing import Any

from rlreason.data.tasks.load import CountdownTask, TaskConfig, behaviour_words
from rlreason.evaluation import behaviours
from rlreason.rewards import answer, vote_answer
from rlreason.rewards.countdown import evaluate_expression


@dataclasses.dataclass(frozen=True)
class AnswerReader:
  """Reads votes and behaviours of completions."""

  count_behaviours: Callable[[str], behaviours.Behaviours] = behaviours.text_behaviours
  # (text, options of `answer.extract_answer`) -> its vote; equal values are one answer.
  vote: Callable[..., Hashable | None] = vote_answer


def make_reader(task: TaskConfig) -> AnswerReader:
  """The reader of a task: votes are cast by value, behaviours counted by the task's own words."""
  words = behaviour_words(task)
  if words is None:
    return AnswerReader()
  count = functools.partial(
      behaviours.trace_behaviours, back_words=words[0], check_words=words[1])
  vote = _expression_value if isinstance(task, CountdownTask) else vote_answer
  return AnswerReader(count_behaviours=count, vote=vote)


def _expression_value(
    text: str, which_box: answer.WhichBox, **where: Any) -> Hashable | None:
  """The value of the boxed expression: two ways to make 24 are one answer."""
  found = answer.extract_answer(text, which_box=which_box, **where)
  evaluated = None if found is None else evaluate_expression(found)
  return None if evaluated is None else evaluated.value
