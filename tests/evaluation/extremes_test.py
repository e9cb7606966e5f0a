"""A model that always writes one wrong text, and one that writes the answer: exactly 0 and 1."""

import jax
import numpy as np
import pytest

from rlreason.data.tasks import chain, countdown
from rlreason.data.tasks.base import Task
from rlreason.data.tasks.load import CountdownTask
from rlreason.evaluation.config import EvaluationConfig
from rlreason.evaluation.evaluator import make_evaluator
from rlreason.evaluation.reading import AnswerReader, make_reader
from rlreason.rewards import RewardSpec
from rlreason.rollout import generate as generate_lib
from rlreason.types import Rollout
from tests.algorithms import tiny
from tests.settings import fakes

NUM_SAMPLES = 3
CONFIG = EvaluationConfig(num_problems=6, batch_size=4, max_new_tokens=8, num_samples=NUM_SAMPLES)
BOXED = lambda row: f"So \\boxed{{{row['answer']}}}."
SHARES = ["greedy", "avg@3", "pass@1", "pass@2", "pass@3", "maj@1", "maj@2", "maj@3"]


def rows_of(*golds):
  return [{"prompt": f"p{i}", "answer": gold} for i, gold in enumerate(golds)]


MATHS = rows_of("7", "\\frac{1}{2}", "x + 1", "(2, 3)", "\\boxed{12}", "1,000")
CHOICES = rows_of("A", "B", "C", "D", "A", "B")
# Task, the wrong text, the right one of a row, and the options of the verifier.
TASKS = {
    "math": (Task(name="m", rows=MATHS, verifier="math"), "\\boxed{123456789}", BOXED, {}),
    "choices": (Task(name="m", rows=CHOICES, verifier="math"), "\\boxed{E}", BOXED, {}),
    "hashes": (
        Task(name="m", rows=MATHS[:1] + MATHS[5:], verifier="math"), "#### 123456789",
        lambda row: f"So\n#### {row['answer']}", {"answer_after": "####"}),
    "tags": (
        Task(name="m", rows=MATHS, verifier="math"), "<answer>123456789</answer>",
        lambda row: f"<answer>{row['answer']}</answer>", {"answer_tags": True}),
    "countdown": (
        countdown.make_task(countdown.CountdownConfig(), "test"), "\\boxed{ 1 + 1 }", BOXED, {}),
    "chain": (chain.make_task(chain.ChainConfig(), "test"), "\\boxed{ 123456789 }", BOXED, {}),
}


class Texts:
  """A tokenizer whose completions are one token each: the number of a text."""

  eos_ids, pad_id, vocab_size = (0,), 0, 9

  def __init__(self):
    self.texts = [""]

  def encode(self, text, **unused):
    self.texts.append(text)
    return [len(self.texts) - 1]

  def decode(self, ids, **unused):
    return "".join(self.texts[i] for i in ids)


def evaluate(name, write, monkeypatch):
  """Every completion of a problem is what `write` makes of its row."""
  task, _, _, options = TASKS[name]
  tokenizer = Texts()

  def make_generator(*unused, group_size, **unused_settings):
    def generate(params, rows, key):
      ids = [tokenizer.encode(write(row)) for row in rows for _ in range(group_size)]
      mask = np.ones((len(ids), 1), bool)
      return Rollout(
          prompt_tokens=np.array(ids), prompt_mask=mask, completion_tokens=np.array(ids),
          token_mask=mask, action_mask=mask, log_probs=np.zeros(mask.shape), values=None,
          truncated=np.zeros(len(ids), bool))
    return generate

  monkeypatch.setattr(generate_lib, "make_generator", make_generator)
  reader = make_reader(CountdownTask(kind="countdown")) if name == "countdown" else AnswerReader()
  run = make_evaluator(
      CONFIG, task, tiny.MODEL, tokenizer, fakes.LAYOUT, prompt_buckets=(4,), reader=reader,
      grading=RewardSpec(name="verifier", options=options))
  return run(None, jax.random.key(0))


def whole(found):
  """The estimates of the whole task."""
  return next(iter(found.estimates.values()))


@pytest.mark.parametrize("name", TASKS)
def test_a_null_model_is_never_right(name, monkeypatch):
  found = evaluate(name, lambda row: TASKS[name][1], monkeypatch)
  estimates = whole(found)
  n = estimates["greedy"]["n"]
  assert n == min(6, len(TASKS[name][0].rows))
  for metric in SHARES:
    # Nothing right in n problems: [0, z² / (n + z²)].
    assert estimates[metric] == dict(
        value=0.0, low=0.0, high=pytest.approx(3.8415 / (n + 3.8415), abs=1e-4), n=n), metric
  assert estimates["outcome_efficiency"]["high"] > 0 and "tokens_per_right" not in estimates
  assert {row["score"] for row in found.completions} == {0.0}


@pytest.mark.parametrize("name", TASKS)
def test_an_oracle_is_always_right(name, monkeypatch):
  found = evaluate(name, TASKS[name][2], monkeypatch)
  estimates = whole(found)
  n = estimates["greedy"]["n"]
  for metric in SHARES:
    assert estimates[metric] == dict(
        value=1.0, low=pytest.approx(n / (n + 3.8415), abs=1e-4), high=1.0, n=n), metric
  assert estimates["outcome_efficiency"]["value"] == 1.0
  assert {row["score"] for row in found.completions} == {1.0}

