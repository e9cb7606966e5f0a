"""Countdown: reach a target from a few numbers, each used once, with + - * /.

Problems are enumerated, not drawn: every solvable pair (sorted numbers, target) within the limits
of the config appears once, and a seeded permutation of that list is divided into splits, which are
thus disjoint. Two splits may share the numbers, but never both numbers and target.

Demonstrations show a search, not a solution: a depth-first search in random order that writes its
tries, compares each result with the target, backtracks, and finally boxes an expression. Most
searches give up too early and box an expression that failed: a model fine-tuned on them is weak,
but sometimes backtracks, which RL can then make more frequent.

All text is made of words separated by single spaces; `vocabulary` lists them. Not here: the
verifier (`rewards/verifier.py`) and the tokenizer (`tokenizers/`).
"""

import bisect
import dataclasses
import functools
import itertools
import math
from typing import Annotated, Any, NamedTuple

import numpy as np

from rlreason.config import AtMost, Examples, Tokens
from rlreason.data.tasks import base

EOS_WORD = "<eos>"  # ends a demonstration; every tokenizer of words has it
ANSWER_WORD = "answer"
BACK_WORDS = ("back",)
# Words that compare the result of a try with the target. A small model hardly learns a yes/no
# check; it learns three words, best with a larger loss weight on them.
CHECK_WORDS = ("lower", "higher", "equal")
_SYMBOLS = ("+", "-", "*", "/", "(", ")", "=", ",", ":", "target", "try", ANSWER_WORD)
_BOX_OPEN, _BOX_CLOSE = "\\boxed{", "}"
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
SPLITS = ("train", "validation", "test")
_DEMONSTRATION_STREAM = len(SPLITS)  # random stream of demonstrations, after one for each split

_Number = Annotated[int, AtMost(100_000, "each number is a word of the vocabulary")]
_MAX_SETS = 10_000_000  # of numbers, each of which is searched

# An expression is a number, or (operator, left, right).
Expression = int | tuple[str, "Expression", "Expression"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountdownConfig:
  """Limits of the problems, sizes of the splits, and habits of the demonstrated search.

  Attributes:
    num_numbers: how many numbers a problem gives, 3 or 4.
    max_number: the numbers are from 1..max_number.
    max_target: the targets are from min_target..max_target.
    max_intermediate: results of operations are integers from 1..max_intermediate.
    num_validation: rows of the validation split.
    num_test: rows of the test split; training gets the rest.
    seed: of the division into splits, the order of numbers in a prompt, and demonstrations.
    give_up: probability in [0, 1] that a demonstrated search stops after a failed try.
    restart: probability in [0, 1] that backtracking returns to the start; otherwise it returns to
      the deepest step with an operation not yet tried.
    insight: probability in [0, 1] that a step first tries an operation that leads to the target, if
      there is one; 0 is a search in purely random order.
    max_words: longest demonstration, in words, `<eos>` included.
    min_target: fewer expressions reach large targets, so that guessing finds them less often.
    at_once: probability in [0, 1] of an answer without a try: the first number, which is wrong.
  """

  num_numbers: int = 3
  max_number: _Number = 12
  max_target: _Number = 50
  max_intermediate: _Number = 50
  num_validation: Examples = 500
  num_test: Examples = 500
  seed: int = 0
  give_up: float = 0.8
  restart: float = 0.5
  insight: float = 0.0
  max_words: Tokens = 96
  min_target: int = 1
  at_once: float = 0.0

  def __post_init__(self):
    if self.num_numbers not in (3, 4):
      raise ValueError(f"num_numbers: got {self.num_numbers}, allowed: 3 or 4")
    for name in ("max_number", "max_target", "num_validation", "num_test"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}: got {getattr(self, name)}, allowed: 1 or more")
    if not 1 <= self.min_target <= self.max_target:
      raise ValueError(
          f"min_target: got {self.min_target}, allowed: 1 to max_target={self.max_target}")
    smallest = max(self.max_number, self.max_target)
    if self.max_intermediate < smallest:
      raise ValueError(
          f"max_intermediate: got {self.max_intermediate}, allowed: at least max_number and "
          f"max_target ({smallest})")
    sets = math.comb(self.max_number + self.num_numbers - 1, self.num_numbers)
    if sets > _MAX_SETS:
      raise ValueError(
          f"max_number: got {self.max_number}, which makes {sets} sets of numbers to look at, "
          f"allowed: at most {_MAX_SETS} of them")
    if self.seed < 0:
      raise ValueError(f"seed: got {self.seed}, allowed: 0 or more")
    for name in ("give_up", "restart", "insight", "at_once"):
      if not 0.0 <= getattr(self, name) <= 1.0:
        raise ValueError(f"{name}: got {getattr(self, name)}, allowed: 0 to 1")
    shortest = _try_words(self.num_numbers) + _answer_words(self.num_numbers)
    if self.max_words < shortest:
      raise ValueError(f"max_words: got {self.max_words}, allowed: {shortest} or more")


class Problem(NamedTuple):
  """A solvable problem in canonical form: sorted numbers, target, and one solution."""

  numbers: tuple[int, ...]
  target: int
  solution: Expression


class CountdownRows:
  """Rows of one split: prompt, answer (one solution), numbers, target.

  Row i shows the numbers of problem i in a random order that depends only on the seed, the split
  and i.
  """

  def __init__(self, config: CountdownConfig, split: str):
    if split not in SPLITS:
      raise ValueError(f"split: got {split!r}, allowed: {', '.join(SPLITS)}")
    self.problems = split_problems(config)[split]
    self._config = config
    self._stream = SPLITS.index(split)

  def __len__(self) -> int:
    return len(self.problems)

  def __getitem__(self, index: int) -> base.Row:
    problem = self.problems[index]
    index = int(index) % len(self.problems)
    rng = _generator(self._config.seed, self._stream, index)
    numbers = [int(number) for number in rng.permutation(problem.numbers)]
    return dict(
        prompt=prompt_text(numbers, problem.target),
        answer=expression_text(problem.solution),
        numbers=numbers,
        target=problem.target,
    )


class CountdownDemonstrations:
  """`size` examples {prompt, completion} of search on problems of the training split.

  Example i depends only on (config, i): a larger `size` keeps the earlier examples.
  """

  def __init__(self, config: CountdownConfig, size: int):
    if size < 1:
      raise ValueError(f"size: got {size}, allowed: 1 or more")
    self._config = config
    self._size = size
    self._problems = split_problems(config)["train"]

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> base.Row:
    if not 0 <= index < self._size:
      raise IndexError(f"index: got {index}, allowed: 0 to {self._size - 1}")
    rng = _generator(self._config.seed, _DEMONSTRATION_STREAM, int(index))
    problem = self._problems[rng.integers(len(self._problems))]
    numbers = [int(number) for number in rng.permutation(problem.numbers)]
    return dict(
        prompt=prompt_text(numbers, problem.target),
        completion=demonstration(numbers, problem.target, rng, self._config),
    )


def make_task(config: CountdownConfig, split: str) -> base.Task:
  """The Countdown task of a split: 'train', 'validation' or 'test'."""
  return base.Task(name="countdown", rows=CountdownRows(config, split), verifier="countdown")


def vocabulary(config: CountdownConfig) -> list[str]:
  """All words of prompts and completions, except `<eos>`, which tokenizers add."""
  numbers = [str(number) for number in range(config.max_intermediate + 1)]
  return [*numbers, *_SYMBOLS, *BACK_WORDS, *CHECK_WORDS, _BOX_OPEN, _BOX_CLOSE]


def prompt_text(numbers: list[int], target: int) -> str:
  """The problem as words, such as `3 7 12 target 45 :`."""
  return " ".join([*map(str, numbers), "target", str(target), ":"])


def expression_text(expression: Expression) -> str:
  """The expression as words with the parentheses it needs, such as `( 3 + 7 ) * 12`."""
  return " ".join(_expression_words(expression))


def enumerate_problems(config: CountdownConfig) -> tuple[Problem, ...]:
  """Every solvable problem within the limits, ordered by numbers, then target."""
  return _enumerate_problems(
      config.num_numbers, config.max_number, config.min_target, config.max_target,
      config.max_intermediate)


def split_problems(config: CountdownConfig) -> dict[str, list[Problem]]:
  """The problems of each split: disjoint, and together all of `enumerate_problems`.

  Raises:
    ValueError: the held-out splits leave nothing to train on.
  """
  problems = enumerate_problems(config)
  held_out = config.num_validation + config.num_test
  if held_out >= len(problems):
    raise ValueError(
        f"config.task.problems: num_validation, num_test: got {held_out} together, allowed: less "
        f"than the {len(problems)} problems there are")
  order = np.random.default_rng(config.seed).permutation(len(problems))
  validation, test, train = np.split(order, [config.num_validation, held_out])
  parts = dict(train=train, validation=validation, test=test)
  return {name: [problems[index] for index in parts[name]] for name in SPLITS}


def demonstration(
    numbers: list[int], target: int, rng: np.random.Generator, config: CountdownConfig) -> str:
  """Writes a depth-first search for the target, in random order, as words.

  Such as `try 12 + 7 = 19 , 19 + 3 = 22 lower back 19 * 3 = 57 higher answer \\boxed{ ... } <eos>`:
  `try` starts from the given numbers; without it, the operations after `back` continue from the
  results before them. `lower` means that the result is lower than the target.

  Args:
    numbers: the given numbers, in the order of the prompt.
    target: the number to reach.
    rng: consumed.
    config: habits of the search.

  Returns:
    At most `config.max_words` words, ending in a boxed expression and `<eos>`. The box holds the
    last expression tried: a solution if the search found one, else a wrong one.
  """
  reserved = len(BACK_WORDS) + _try_words(len(numbers)) + _answer_words(len(numbers))
  if config.at_once and rng.random() < config.at_once:
    return f"{ANSWER_WORD} {_BOX_OPEN} {numbers[0]} {_BOX_CLOSE} {EOS_WORD}"
  words = []
  nodes = [_make_node([(number, number) for number in numbers], target, rng, config)]
  while True:
    words += _try_once(nodes, target, rng, config)
    _, expression = nodes.pop().items[0]
    if words[-1] == "equal" or rng.random() < config.give_up:
      break
    if rng.random() < config.restart:
      del nodes[1:]
    while nodes and not nodes[-1].moves:
      nodes.pop()
    if not nodes or len(words) + reserved > config.max_words:
      break
    words += BACK_WORDS
  words += [ANSWER_WORD, _BOX_OPEN, *_expression_words(expression), _BOX_CLOSE, EOS_WORD]
  return " ".join(words)


class _Node(NamedTuple):
  """A step of the search: available (value, expression) pairs, and moves not yet tried."""

  items: list[tuple[int, Expression]]
  moves: list[tuple[list[str], list[tuple[int, Expression]]]]  # words, items after the move


def _try_once(nodes: list[_Node], target: int, rng: np.random.Generator, config: CountdownConfig):
  """Reduces the last node to one number; pushes the nodes on the way; returns the words."""
  words = ["try"] if len(nodes) == 1 else []
  while len(nodes[-1].items) > 1:
    step, items = nodes[-1].moves.pop()
    words += step
    nodes.append(_make_node(items, target, rng, config))
    if len(items) > 1:
      words.append(",")
  value = nodes[-1].items[0][0]
  words.append("lower" if value < target else "higher" if value > target else "equal")
  return words


def _make_node(items, target: int, rng: np.random.Generator, config: CountdownConfig) -> _Node:
  """A node whose moves are in random order, to be taken from the end."""
  moves = {}
  for first, second in itertools.combinations(range(len(items)), 2):
    if items[first][0] < items[second][0]:
      first, second = second, first
    left, right = items[first], items[second]
    rest = [item for i, item in enumerate(items) if i not in (first, second)]
    for operator, value in _operations(left[0], right[0], config.max_intermediate):
      step = (str(left[0]), operator, str(right[0]), "=", str(value))
      moves[step] = (list(step), [(value, (operator, left[1], right[1])), *rest])
  moves = list(moves.values())  # equal numbers give equal steps: one of each is kept
  moves = [moves[i] for i in rng.permutation(len(moves))]
  if config.insight and rng.random() < config.insight:
    # A stable sort: the moves that lead to the target come last, so that they are taken first.
    moves.sort(key=lambda move: target in _solutions(
        tuple(sorted(value for value, _ in move[1])), config.max_intermediate))
  return _Node(items, moves)


def _operations(left: int, right: int, limit: int) -> list[tuple[str, int]]:
  """(operator, value) of left >= right, keeping integers from 1..limit."""
  results = [("+", left + right), ("-", left - right), ("*", left * right)]
  if left % right == 0:
    results.append(("/", left // right))
  return [(operator, value) for operator, value in results if 1 <= value <= limit]


@functools.lru_cache(maxsize=None)
def _enumerate_problems(
    num_numbers, max_number, min_target, max_target, limit
) -> tuple[Problem, ...]:
  problems = []
  for numbers in itertools.combinations_with_replacement(range(1, max_number + 1), num_numbers):
    for target, solution in sorted(_solutions(numbers, limit).items()):
      if min_target <= target <= max_target:
        problems.append(Problem(numbers, target, solution))
  return tuple(problems)


@functools.lru_cache(maxsize=None)
def _solutions(numbers: tuple[int, ...], limit: int) -> dict[int, Any]:
  """Every value that the sorted numbers reach, each used once, with one expression for it."""
  if len(numbers) == 1:
    return {numbers[0]: numbers[0]}
  solutions = {}
  for first, second in itertools.combinations(range(len(numbers)), 2):
    right, left = numbers[first], numbers[second]
    rest = [number for i, number in enumerate(numbers) if i not in (first, second)]
    for operator, value in _operations(left, right, limit):
      remaining = list(rest)
      bisect.insort(remaining, value)
      for target, expression in _solutions(tuple(remaining), limit).items():
        if target not in solutions:
          solutions[target] = _substitute(expression, value, (operator, left, right))[0]
  return solutions


def _substitute(expression: Expression, value: int, part: Expression) -> tuple[Expression, bool]:
  """Replaces one leaf equal to `value` by `part`; also returns whether there was one."""
  if isinstance(expression, int):
    return (part, True) if expression == value else (expression, False)
  operator, left, right = expression
  left, is_done = _substitute(left, value, part)
  if not is_done:
    right, is_done = _substitute(right, value, part)
  return (operator, left, right), is_done


def _expression_words(expression: Expression, minimum: int = 0) -> list[str]:
  """Words of an expression, in parentheses if its precedence is below `minimum`."""
  if isinstance(expression, int):
    return [str(expression)]
  operator, left, right = expression
  precedence = _PRECEDENCE[operator]
  # a - (b + c) and a / (b * c) need their parentheses; a + (b - c) and a * (b / c) do not.
  right_minimum = precedence + 1 if operator in "-/" else precedence
  words = [*_expression_words(left, precedence), operator, *_expression_words(right, right_minimum)]
  return ["(", *words, ")"] if precedence < minimum else words


def _try_words(num_numbers: int) -> int:
  """Most words of one try: `try`, five an operation, commas between, and the check."""
  return 1 + 5 * (num_numbers - 1) + (num_numbers - 2) + 1


def _answer_words(num_numbers: int) -> int:
  """Most words of an answer: `answer`, the box, an expression, and `<eos>`."""
  return 1 + 2 + (2 * num_numbers - 1) + 2 * (num_numbers - 2) + 1


def _generator(seed: int, stream: int, index: int) -> np.random.Generator:
  return np.random.default_rng(np.random.SeedSequence([seed, stream, index]))
