"""Processes without JAX: their parts of the work, the errors of joining, and the last words."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from rlreason import last_words, processes
from rlreason.rewards import RewardSpec, combine_rewards
from rlreason.rollout.scored import score, score_together
from tests.rollout.made import TOKENIZER, make_rollout

MAIN = pathlib.Path(last_words.__file__)


class Together:
  """Several processes, one after the other: each is asked what it says, then hears all."""

  def __init__(self, monkeypatch, count):
    self._patch, self._count = monkeypatch, count

  def run(self, work):
    """The result of each process."""
    self._patch.setattr(processes, "count", lambda: self._count)
    self._patch.setattr(processes, "_link", "there is one")
    said = []
    for index in range(self._count):  # to hear what each says
      self._patch.setattr(processes, "index", lambda index=index: index)
      self._patch.setattr(processes, "gather", lambda value: said.append(value) or _end())
      with pytest.raises(StopIteration):
        work()
    self._patch.setattr(processes, "gather", lambda value: json.loads(json.dumps(said)))
    results = []
    for index in range(self._count):
      self._patch.setattr(processes, "index", lambda index=index: index)
      results.append(work())
    return results


def _end():
  raise StopIteration


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [0, 1, 2, 7])
def test_parts_are_all_of_the_items_once(monkeypatch, count, size):
  monkeypatch.setattr(processes, "count", lambda: count)
  found = []
  for index in range(count):
    monkeypatch.setattr(processes, "index", lambda index=index: index)
    found += range(size)[processes.my_part(size)]
  assert found == list(range(size))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_work_in_parts_is_the_same_on_all(monkeypatch, count):
  work = lambda: processes.in_parts(3, lambda part: [f"item {i}" for i in range(3)[part]])
  assert work() == ["item 0", "item 1", "item 2"]
  assert Together(monkeypatch, count).run(work) == [["item 0", "item 1", "item 2"]] * count


@pytest.mark.parametrize("count", [2, 3])
def test_scores_of_parts_are_those_of_the_whole(monkeypatch, count):
  """Rewards of groups, of positions in some rows only, unscored rows, and counts."""
  texts = ["\\boxed{ 1 }", "a \\boxed{ 2 } <eos>", "a b c", "b", "\\boxed{ 1 } <eos>", "c c"]
  lists = lambda prompts, completions, group, **rest: [
      [(0, 0.5)] if prompt == 2 else None if text == "b" else 1.5
      for text, prompt in zip(completions, group)]
  reward = combine_rewards([
      RewardSpec(name="verifier"), RewardSpec(name="majority", weight=0.5),
      RewardSpec(name="learned", weight=0.1),
      RewardSpec(name="lists", function=lists, step_separator=" ")])
  rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"},
          {"prompt": "c", "answer": "1"}]
  given, rollout = {"model_score": list(range(6))}, make_rollout(texts)
  expected = score(reward, TOKENIZER, rows, rollout, given)
  assert expected.rewards.placed is not None and expected.rewards.counts["unscored"] == 1
  for found in Together(monkeypatch, count).run(
      lambda: score_together(reward, TOKENIZER, rows, rollout, given)):
    assert found.completions == expected.completions and found.rewards == expected.rewards
    for name in ("totals", "is_scored", "lengths", "reasoning_lengths"):
      np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("arguments, words", [
    (("here",), "coordinator: got 'here', allowed: HOST:PORT of process 0, or 'auto'"),
    (("host:1",), "num_processes, process: got None, None, allowed: both"),
    (("host:1", 2), "num_processes, process: got 2, None, allowed: both"),
    (("auto", 0), "num_processes: got 0, allowed: 1 or more"),
    (("host:1", 2, 2), "process: got 2, allowed: 0 to 1"),
    (("host:99999", 2, 0), "coordinator: got 'host:99999', whose port cannot be used")])
def test_arguments_out_of_range_are_refused(arguments, words):
  with pytest.raises(ValueError) as error:
    processes.connect(*arguments)
  assert words in str(error.value)


def test_one_process_is_alone():
  processes.connect("host:1", 1, 0)
  assert (processes.index(), processes.count(), processes.is_writer()) == (0, 1, True)
  assert processes.gather({"a": 1}) == [{"a": 1}] and processes.any_process(True)
  assert processes.from_writer(lambda: (1, 2)) == (1, 2)


def test_values_that_differ_are_named(monkeypatch):
  monkeypatch.setattr(processes, "gather", lambda value: ["a", "a", "b"])
  with pytest.raises(ValueError, match="the data: process 2 has 'b', allowed: 'a', what process 0"):
    processes.check_same("the data", "a")


def test_last_words_replace_a_stack_trace():
  errors = b"warning: x\n" + last_words.MARK + b"first\n" + last_words.MARK + b"it is gone\n" + (
      b"F1130 client.h:80] Terminating process because the JAX distributed service detected fatal "
      b"errors. This\n*** Check failure stack trace: ***\n    @ 0x7f\n")
  ended = subprocess.run([sys.executable, "-I", str(MAIN)], input=errors, capture_output=True,
                         check=True)
  assert ended.stderr == b"warning: x\nit is gone\n" and not ended.stdout
