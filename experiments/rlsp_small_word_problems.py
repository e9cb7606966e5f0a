"""RLSP on word problems in GSM8K's format, from a randomly initialised model of 0.7M parameters.

Like rlsp_word_problems.py, at a size that a CPU core trains in minutes: problems of one or two
operations, generated here, in a closed vocabulary. No held-out problem has the numbers of a
training problem, in any order. Half of the demonstrations answer immediately, and half of these are
wrong; in a quarter of the others one operation has a wrong result.

    make train CONFIG=experiments/rlsp_small_word_problems.py

The argument after the colon may be a finished first stage, from which the controls start:

    .venv/bin/python experiments/controls/word_problems.py --root=runs/small_word_problems \
        --config=experiments/rlsp_small_word_problems.py --seeds=0,1,2

docs/results.md states what has been run.
"""

import operator
from types import SimpleNamespace
from typing import NamedTuple
import zlib

import numpy as np
import rlsp_word_problems

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry")
THINGS = ("apples", "books", "cards", "coins", "eggs", "marbles", "pencils", "stamps")
# The beginnings and continuations of a problem: a sentence, an operation, and its line of the
# working. y is the result for x things and the number n.
BEGIN = (
    ("{name} has {x} {things} and buys {n} more .", "+", "{name} has {x} + {n} = {y} {things} ."),
    ("{name} has {x} {things} and {other} {n} more than that .", "+",
     "{other} has {x} + {n} = {y} {things} ."),
    ("{name} has {n} boxes with {x} {things} in each .", "*",
     "There are {x} * {n} = {y} {things} ."),
    ("{name} gets {x} {things} a day for {n} days .", "*",
     "{name} gets {x} * {n} = {y} {things} ."))
GO_ON = (
    ("Then {n} of these get lost .", "-", "After that {x} - {n} = {y} are left ."),
    ("{friend} takes {n} of these away .", "-", "Then there are {x} - {n} = {y} ."),
    ("{friend} brings {n} more .", "+", "Then there are {x} + {n} = {y} ."),
    ("In the evening {n} more are found .", "+", "With those there are {x} + {n} = {y} ."))
QUESTION = "How many {things} are there in the end ?"
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
LARGEST, LARGEST_FACTOR, MOST_OPERATIONS = 20, 9, 2
MOST = LARGEST_FACTOR**2 + LARGEST * (MOST_OPERATIONS - 1)
SIZES = {"train": 30_000, "validation": 500, "test": 500}
HELD_OUT = {0: "test", 1: "validation"}  # of ten sets of numbers
AT_ONCE = 0.5  # share of the demonstrations
GUESSES, MISTAKES = 0.5, 0.25  # shares of wrong results: of these, and of the others
ERRORS = (-10, -2, -1, 1, 2, 10)  # added to a result
NEW_TOKENS = 32


class Problem(NamedTuple):
  """A question, its first number, and (operator, number, line of the working) of each operation."""

  question: str
  first: int
  steps: list[tuple[str, int, str]]


def get_config(start: str = ""):
  """The recipe.

  Args:
    start: a model folder to start the second stage from; empty for both stages.
  """
  config = rlsp_word_problems.get_config(start)
  if not start:
    config.model = dict(
        kind="new", width=128, num_layers=3, num_heads=4, num_kv_heads=4, head_dim=32,
        mlp_width=384)
    config.sft = dict(
        kind="sft", steps=1200, batch_size=8, length=128, num_examples=SIZES["train"],
        optimizer=dict(learning_rate=2e-3, warmup_steps=100, schedule="cosine", weight_decay=0.01))
  else:
    config.model = dict(kind="pretrained", path=start)
  config.task = dict(kind="own", function=problems, name="word_problems", is_chat=False)
  config.prompt_buckets = (28,)
  config.parallel = dict(cpu_devices=1)
  config.optimizer.update(learning_rate=1e-4, warmup_steps=0)
  del config.optimizer.critic_learning_rate
  # The reasoning tokens are the numbers and signs of an operation.
  config.rl.update(steps=60, num_prompts=128, min_reasoning_tokens=6)
  config.rl.sampling.max_new_tokens = NEW_TOKENS
  config.rl.rewards.exploration.options.c = 4.0
  config.rl.algorithm = dict(
      minibatch_size=128, micro_batch_size=32, kl_coef=0.02, value_coef=0.5,
      critic_warmup_steps=4)
  config.evaluation.update(num_problems=500, batch_size=250, max_new_tokens=NEW_TOKENS)
  config.checkpoint = dict(every_steps=1000, max_to_keep=1)
  return config


def problems() -> dict[str, SimpleNamespace]:
  """The splits, for a custom task."""
  rng = np.random.default_rng(0)
  rows = {split: {} for split in SIZES}
  while any(len(rows[split]) < size for split, size in SIZES.items()):
    problem = draw(rng)
    numbers = sorted([problem.first, *(number for _, number, _ in problem.steps)])
    split = HELD_OUT.get(zlib.crc32(str(numbers).encode()) % 10, "train")
    if len(rows[split]) < SIZES[split]:
      rows[split][problem.question] = dict(
          question=problem.question, answer=str(solve(problem)[1]),
          completion=demonstration(problem, rng))
  return {split: SimpleNamespace(rows=list(made.values()), vocabulary=vocabulary())
          for split, made in rows.items()}


def draw(rng: np.random.Generator) -> Problem:
  """A random problem without negative results."""
  while True:
    name, other, friend = map(str, rng.permutation(NAMES)[:3])
    names = dict(name=name, other=other, friend=friend, things=str(rng.choice(THINGS)))
    count = int(rng.integers(1, MOST_OPERATIONS + 1))
    parts = [BEGIN[rng.integers(len(BEGIN))], *(
        GO_ON[rng.integers(len(GO_ON))] for _ in range(count - 1))]
    top = LARGEST_FACTOR if parts[0][1] == "*" else LARGEST
    first, *numbers = map(int, [*rng.integers(2, top + 1, size=2),
                                *rng.integers(2, LARGEST + 1, size=count - 1)])
    text = [part.format(x=first, n=number, **names)
            for (part, _, _), number in zip(parts, numbers, strict=True)]
    steps = [(sign, number, line.format(x="{x}", n="{n}", y="{y}", **names))
             for (_, sign, line), number in zip(parts, numbers, strict=True)]
    problem = Problem(" ".join([*text, QUESTION.format(**names)]), first, steps)
    values = [solve(problem._replace(steps=steps[:i + 1]))[1] for i in range(count)]
    if min(values) >= 0:
      return problem


def solve(problem: Problem, errors: dict[int, int] | None = None) -> tuple[list[str], int]:
  """Returns the working and the result; errors: operation -> number added to its result."""
  value, lines = problem.first, []
  for i, (sign, number, line) in enumerate(problem.steps):
    result = min(max(OPERATORS[sign](value, number) + (errors or {}).get(i, 0), 0), MOST)
    lines.append(line.format(x=value, n=number, y=result))
    value = result
  return lines, value


def demonstration(problem: Problem, rng: np.random.Generator) -> str:
  """A working in GSM8K's format, or only an answer."""
  is_at_once, errors = rng.random() < AT_ONCE, {}
  if rng.random() < (GUESSES if is_at_once else MISTAKES):
    errors = {int(rng.integers(len(problem.steps))): int(rng.choice(ERRORS))}
  lines, result = solve(problem, errors)
  if is_at_once:
    lines = []
  return " ".join([*lines, rlsp_word_problems.MARK, str(result)])


def vocabulary() -> list[str]:
  """All words of problems and demonstrations."""
  sentences = [QUESTION, *(text for part in BEGIN + GO_ON for text in part)]
  words = {word for text in sentences for word in text.split() if "{" not in word}
  return [*map(str, range(MOST + 1)), rlsp_word_problems.MARK, *sorted(words | {*NAMES, *THINGS})]
