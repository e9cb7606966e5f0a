"""Chains: `3 + 4 * 7 = ?` from left to right, modulo 10; every step can be verified.

This small task serves to test claims about reasoning: the label of each step and the value of each
prefix are computed exactly (`read_steps`). A prompt may hold clauses to be ignored (`3 + 4 ignore 5
* 2 * 7 = ?`).

A demonstration writes one step a line, a line ending in `;`, and boxes the last value:
`3 + 4 = 7 ; 7 * 7 = 9 ; \\boxed{ 9 } <eos>`. Its habits are options: wrong steps that are corrected
or not, unboxed answers, words that announce the kind of the next step, the same chain solved
several times.

All text is made of words separated by single spaces; `vocabulary` lists them. Held-out problems are
drawn first and training draws from all others: the splits are disjoint. Not here: the verifier
(`rewards/verifier.py`) and the tokenizer (`tokenizers/`).
"""

from collections.abc import Sequence
import dataclasses
import operator
from typing import Annotated, NamedTuple

import numpy as np

from rlreason.config import AtMost, Examples, check_unread
from rlreason.data.tasks import base

EOS_WORD = "<eos>"  # ends a demonstration; every tokenizer of words has it
LINE_END = ";"
CONTINUE_WORD = "continue"
BACK_WORDS = ("back", "reflect", "explore")  # take back the last step; explore: all steps
CHECK_WORDS = ("check",)  # the chain is solved once more
_BACK, _REFLECT, _EXPLORE = BACK_WORDS
_IGNORE, _ANSWER = "ignore", "answer"
_BOX_OPEN, _BOX_CLOSE = "\\boxed{", "}"
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
SPLITS = ("train", "validation", "test")
_DEMONSTRATION_STREAM = len(SPLITS)  # random stream of demonstrations, after one for each split
_CLAUSE_STREAM = _DEMONSTRATION_STREAM + 1  # the first of those of the clauses to be ignored
_EXPLORE_SHARE = 0.25  # of corrected steps, if the words are of several kinds


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainConfig:
  """Length of the chains, sizes of the splits, and habits of the demonstrations.

  Attributes:
    min_steps: operations of the shortest chains.
    max_steps: operations of the longest; all lengths between are equally frequent.
    modulus: every value is taken modulo this, 2..100.
    operators: those that occur, of + - *.
    distractors: clauses of a prompt that are to be ignored.
    num_train: rows of the training split; they may repeat.
    num_validation: rows of the validation split, all different.
    num_test: rows of the test split, all different.
    seed: of everything that is drawn.
    mistakes: probability in [0, 1] that a solution has an uncorrected wrong step.
    slip: probability in [0, 1] that a step is wrong, is taken back at once, and repeated.
    messy: probability in [0, 1] that the last value is not boxed: `answer 9`, or not repeated.
    meta: begin each step with `continue`, `reflect` (repeat it) or `explore` (from the start).
    rounds: most times that a demonstration solves its chain, each ending in an answer; all numbers
      from 1 are equally frequent.
    answers_only: no steps, only the boxed answer.
    extra_words: further words of the vocabulary, such as labels of returns; no text here has them.
  """

  min_steps: int = 2
  max_steps: Annotated[int, AtMost(1000, "steps of one problem")] = 4
  modulus: int = 10
  operators: tuple[str, ...] = tuple(_OPERATORS)
  distractors: Annotated[int, AtMost(1000, "clauses of one problem")] = 0
  num_train: Examples = 20_000
  num_validation: Examples = 200
  num_test: Examples = 200
  seed: int = 0
  mistakes: float = 0.0
  slip: float = 0.0
  messy: float = 0.0
  meta: bool = False
  rounds: Annotated[int, AtMost(1000, "solutions in one text")] = 1
  answers_only: bool = False
  extra_words: tuple[str, ...] = ()

  def __post_init__(self):
    if not 1 <= self.min_steps <= self.max_steps:
      raise ValueError(
          f"min_steps: got {self.min_steps}, allowed: 1 to max_steps={self.max_steps}")
    if not 2 <= self.modulus <= 100:
      raise ValueError(f"modulus: got {self.modulus}, allowed: 2 to 100")
    if not self.operators or len(set(self.operators) & set(_OPERATORS)) != len(self.operators):
      raise ValueError(
          f"operators: got {self.operators}, allowed: some of {tuple(_OPERATORS)}, each once")
    for name, least in (("distractors", 0), ("num_train", 1), ("num_validation", 1),
                        ("num_test", 1), ("seed", 0), ("rounds", 1)):
      if getattr(self, name) < least:
        raise ValueError(f"{name}: got {getattr(self, name)}, allowed: {least} or more")
    for name in ("mistakes", "slip", "messy"):
      if not 0.0 <= getattr(self, name) <= 1.0:
        raise ValueError(f"{name}: got {getattr(self, name)}, allowed: 0 to 1")
    if self.answers_only:
      check_unread(self, "with answers_only", "mistakes", "slip", "messy", "meta", "rounds")
    words = vocabulary(self)
    bad = [word for word in self.extra_words if word.split() != [word] or words.count(word) > 1]
    if bad or EOS_WORD in self.extra_words:
      raise ValueError(
          f"extra_words: got {bad or EOS_WORD}, allowed: words without spaces that are not in the "
          "vocabulary yet, each once")
    # Half of the problems of each length stay for training.
    most = self.modulus * (len(self.operators) * (self.modulus - 1)) ** self.min_steps // 2
    lengths = self.max_steps - self.min_steps + 1
    if -(-self.num_validation // lengths) - (-self.num_test // lengths) > most:
      raise ValueError(
          f"num_validation + num_test: got {self.num_validation + self.num_test}, allowed: at most "
          f"{most} for each of the {lengths} lengths")


class Problem(NamedTuple):
  """A chain: start, then (operator, operand) pairs."""

  start: int
  steps: tuple[tuple[str, int], ...]
  modulus: int


class Step(NamedTuple):
  """One line of a completion.

  Attributes:
    end: number of words of the completion up to and including the end of the line.
    is_right: whether it correctly does the next operation of the problem, from the value of the
      previous lines.
    leads_to_answer: the value of the prefix that ends here: whether continuing correctly from its
      last value gives the answer.
  """

  end: int
  is_right: bool
  leads_to_answer: bool


class ChainRows:
  """Rows of one split: prompt, answer, and `task_name`, which states the number of steps.

  The problems are the same with and without `distractors`.
  """

  def __init__(self, config: ChainConfig, split: str):
    if split not in SPLITS:
      raise ValueError(f"split: got {split!r}, allowed: {SPLITS}")
    self._config, self._stream = config, SPLITS.index(split)
    self._held_out = _held_out(config)
    self._problems = self._held_out.get(split)
    self._size = config.num_train if self._problems is None else len(self._problems)
    self._taken = {problem for part in self._held_out.values() for problem in part}

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> base.Row:
    if not 0 <= index < self._size:
      raise IndexError(f"index: got {index}, allowed: 0 to {self._size - 1}")
    problem = self.problem(int(index))
    return dict(
        prompt=_row_prompt(problem, self._config, self._stream, int(index)),
        answer=str(running_values(problem)[-1]), task_name=f"chain-{len(problem.steps)}")

  def problem(self, index: int) -> Problem:
    """The problem of a row."""
    if self._problems is not None:
      return self._problems[index]
    return _draw_new(_generator(self._config.seed, self._stream, index), self._config, self._taken)


class ChainDemonstrations:
  """`size` examples {prompt, completion} on problems that are not held out.

  Example i depends only on (config, i): a larger `size` keeps the earlier examples.
  """

  def __init__(self, config: ChainConfig, size: int):
    if size < 1:
      raise ValueError(f"size: got {size}, allowed: 1 or more")
    self._config, self._size = config, size
    self._taken = {problem for part in _held_out(config).values() for problem in part}

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> base.Row:
    if not 0 <= index < self._size:
      raise IndexError(f"index: got {index}, allowed: 0 to {self._size - 1}")
    rng = _generator(self._config.seed, _DEMONSTRATION_STREAM, int(index))
    problem = _draw_new(rng, self._config, self._taken)
    return dict(
        prompt=_row_prompt(problem, self._config, _DEMONSTRATION_STREAM, int(index)),
        completion=demonstration(problem, rng, self._config))


def make_task(config: ChainConfig, split: str) -> base.Task:
  """The chain task of a split: 'train', 'validation' or 'test'."""
  return base.Task(name="chain", rows=ChainRows(config, split), verifier="math")


def vocabulary(config: ChainConfig) -> list[str]:
  """All words of prompts and completions, except `<eos>`, which tokenizers add.

  It is the same for all habits, so that a model may start from one trained with others. Extra words
  come last.
  """
  return [*map(str, range(config.modulus)), *_OPERATORS, "=", "?", LINE_END, _IGNORE, _ANSWER,
          CONTINUE_WORD, *BACK_WORDS, *CHECK_WORDS, _BOX_OPEN, _BOX_CLOSE,
          *config.extra_words]


def prompt_text(problem: Problem) -> str:
  """The problem as words, such as `3 + 4 * 7 = ?`."""
  return " ".join([str(problem.start), *_step_words(problem), "=", "?"])


def read_prompt(prompt: str, modulus: int = 10) -> Problem:
  """The problem of a prompt, with or without clauses to be ignored."""
  words = relevant_prompt(prompt).split()
  operands = [int(word) for word in words[2:-2:2]]
  return Problem(int(words[0]), tuple(zip(words[1:-2:2], operands, strict=True)), modulus)


def relevant_prompt(prompt: str) -> str:
  """The prompt without its clauses that are to be ignored."""
  words = prompt.split()
  while _IGNORE in words:
    index = words.index(_IGNORE)
    del words[index:index + 4]
  return " ".join(words)


def running_values(problem: Problem) -> list[int]:
  """[m + 1] the start, and the value after each of the m operations; the last is the answer."""
  values = [problem.start]
  for step in problem.steps:
    values.append(_apply(values[-1], step, problem.modulus))
  return values


def demonstration(problem: Problem, rng: np.random.Generator, config: ChainConfig) -> str:
  """Solves a chain in words, as the module's docstring shows; consumes `rng`."""
  if config.answers_only:
    return " ".join([*_box(running_values(problem)[-1]), EOS_WORD])
  words = []
  is_messy, is_repeated = rng.random() < config.messy, rng.random() < 0.5
  for turn in range(rng.integers(1, config.rounds + 1)):
    words += CHECK_WORDS if turn else ()
    lines, value = _solve(problem, rng, config)
    words += lines
    if not is_messy:
      words += _box(value)
    elif is_repeated:
      words += [_ANSWER, str(value)]
  return " ".join([*words, EOS_WORD])


def read_steps(problem: Problem, words: Sequence[str]) -> list[Step]:
  """Evaluates each line of a completion from any source.

  A line `7 * 7 = 9 ;` may begin with words that take steps back or with `continue`; the words
  before `check` in it belong to an answer. A line of any other form is wrong and changes no value.
  Words after the last `;` do not form a line.
  """
  answer, steps, values, begin = running_values(problem)[-1], [], [problem.start], 0
  numbers = {str(value): value for value in range(problem.modulus)}
  for end in [index + 1 for index, word in enumerate(words) if word == LINE_END]:
    for word in words[begin:end]:
      if word in (_EXPLORE, *CHECK_WORDS):
        del values[1:]
      elif word in (_BACK, _REFLECT):
        del values[max(1, len(values) - 1):]
    line, todo = _after_marks(words[begin:end - 1]), problem.steps[len(values) - 1:]
    is_line = bool(todo) and len(line) == 5 and line[3] == "=" and line[4] in numbers
    is_right = is_line and line == _line(
        values[-1], todo[0], _apply(values[-1], todo[0], problem.modulus))
    if is_line:
      values.append(numbers[line[4]])
    rest = problem._replace(start=values[-1], steps=todo[is_line:])
    steps.append(Step(end, is_right, running_values(rest)[-1] == answer))
    begin = end
  return steps


def step_labels(problem: Problem, words: Sequence[str]) -> list[bool]:
  """Whether each line of a completion is right, given the lines before it."""
  return [step.is_right for step in read_steps(problem, words)]


def _solve(problem: Problem, rng, config: ChainConfig) -> tuple[list[str], int]:
  """The lines of one solution, and the value it ends with."""
  count = len(problem.steps)
  wrong_step = rng.integers(count) if rng.random() < config.mistakes else None
  words, values, mark, slipped = [], [problem.start], CONTINUE_WORD, set()
  while len(values) <= count:
    index = len(values) - 1
    result = _apply(values[-1], problem.steps[index], problem.modulus)
    is_slip = index not in slipped and rng.random() < config.slip
    if is_slip or index == wrong_step:
      result = int(result + rng.integers(1, problem.modulus)) % problem.modulus
    words += [mark] if config.meta or mark != CONTINUE_WORD else []
    words += [*_line(values[-1], problem.steps[index], result), LINE_END]
    mark = CONTINUE_WORD
    if not is_slip:
      values.append(result)
      continue
    slipped.add(index)  # a repeated step is right: the demonstration terminates
    mark = _REFLECT if config.meta else _BACK
    if config.meta and rng.random() < _EXPLORE_SHARE:
      mark = _EXPLORE
      del values[1:]
  return words, values[-1]


def _apply(value: int, step: tuple[str, int], modulus: int) -> int:
  sign, operand = step
  return _OPERATORS[sign](value, operand) % modulus


def _line(value: int, step: tuple[str, int], result: int) -> list[str]:
  return [str(value), step[0], str(step[1]), "=", str(result)]


def _box(value: int) -> list[str]:
  return [_BOX_OPEN, str(value), _BOX_CLOSE]


def _step_words(problem: Problem) -> list[str]:
  return [word for sign, operand in problem.steps for word in (sign, str(operand))]


def _after_marks(words: Sequence[str]) -> list[str]:
  """A line without the answer and `check` before it, and without its initial words."""
  words = list(words)
  for mark in CHECK_WORDS:
    words = words[len(words) - words[::-1].index(mark):] if mark in words else words
  while words and words[0] in (CONTINUE_WORD, *BACK_WORDS):
    words.pop(0)
  return words


def _row_prompt(problem: Problem, config: ChainConfig, stream: int, index: int) -> str:
  """The prompt, with clauses to be ignored after random numbers."""
  rng = _generator(config.seed, _CLAUSE_STREAM + stream, index)
  words = prompt_text(problem).split()
  gaps = rng.integers(len(problem.steps) + 1, size=config.distractors)
  for gap in sorted(gaps, reverse=True):
    clause = _draw(rng, config, 1)
    words[2 * gap + 1:2 * gap + 1] = [_IGNORE, str(clause.start), *_step_words(clause)]
  return " ".join(words)


def _held_out(config: ChainConfig) -> dict[str, list[Problem]]:
  """The problems of the held-out splits, in which the lengths alternate."""
  taken, parts = set(), {}
  for split in ("test", "validation"):
    rng = _generator(config.seed, SPLITS.index(split), 0)
    size = config.num_test if split == "test" else config.num_validation
    lengths = range(config.min_steps, config.max_steps + 1)
    parts[split] = []
    for i in range(size):
      parts[split].append(_draw_new(rng, config, taken, lengths[i % len(lengths)]))
      taken.add(parts[split][-1])
  return parts


def _draw_new(rng, config: ChainConfig, taken: set[Problem], length: int | None = None) -> Problem:
  """A new problem that is not in `taken`, of a given length or of any."""
  while True:
    count = length or int(rng.integers(config.min_steps, config.max_steps + 1))
    problem = _draw(rng, config, count)
    if problem not in taken:
      return problem


def _draw(rng, config: ChainConfig, count: int) -> Problem:
  """A chain of `count` operations; the operand 0 is excluded because its steps are trivial."""
  signs = [config.operators[i] for i in rng.integers(len(config.operators), size=count)]
  operands = rng.integers(1, config.modulus, size=count).tolist()
  return Problem(int(rng.integers(config.modulus)), tuple(zip(signs, operands)), config.modulus)


def _generator(seed: int, stream: int, index: int) -> np.random.Generator:
  return np.random.default_rng(np.random.SeedSequence([seed, stream, index]))
