"""Tests of rlreason.training.settings.graph and of how stages name each other."""

import types

import pytest

from rlreason.training.settings.base import StageConfig, named_stages, stage_of
from rlreason.training.settings.graph import check_sources, start_of
from rlreason.training.settings.kinds import STAGES


class Stage(StageConfig):
  """A stage of no kind: by default one that trains."""

  def __init__(self, name, start="previous", kind="toy", trains=True, **fields):
    self.name, self.start, self.kind, self.trains = name, start, kind, trains
    vars(self).update(fields)

  @property
  def writes_data(self):
    return not self.trains

  def model_sources(self):
    return named_stages(self, "reward_model", "process_model")


def test_a_source_is_a_stage_or_a_path():
  assert [stage_of(text) for text in ("stage:a", "stage:", "a", "", "x/stage:a", "stages")] == [
      "a", "", None, None, None, None]


def test_stages_start_from_the_last_that_trains():
  stages = [Stage("a"), Stage("b", trains=False), Stage("c"), Stage("d", "initial"),
            Stage("e", "a"), Stage("f", "runs/x")]
  assert [start_of(stages, number) for number in range(6)] == [None, "a", "a", None, "a", "runs/x"]


@pytest.mark.parametrize("stages, message", [
    ([Stage("a", examples="stage:b"), Stage("b", trains=False)],
     r"a.examples: got 'b', allowed: earlier stages that write data \(there are none\)"),
    ([Stage("b", trains=False), Stage("c"), Stage("a", problems="stage:c")],
     r"a.problems: got 'c', allowed: earlier stages that write data \(b\)"),
    ([Stage("b"), Stage("m", kind="reward_model", trains=False),
      Stage("a", reward_model="stage:b")],
     r"a.reward_model: got 'b', allowed: earlier stages of kind 'reward_model' \(m\)"),
    ([Stage("m", kind="reward_model", trains=False), Stage("p", kind="sft"),
      Stage("a", process_model="stage:p")],
     r"a.process_model: got 'p', .* kind 'process_reward' or 'reward_model' \(m\)"),
    ([Stage("p", kind="process_reward", trains=False), Stage("a", reward_model="stage:p")],
     r"a.reward_model: got 'p', .* of kind 'reward_model' \(there are none\)"),
    ([Stage("a", "b"), Stage("b")], "a.start: got 'b', which does not come before"),
    ([Stage("a", trains=False), Stage("b", "a")], "b.start: got 'a', which trains nothing"),
])
def test_what_a_stage_names_has_to_be_there_before(stages, message):
  with pytest.raises(ValueError, match=message):
    check_sources(stages)


def test_good_names_are_taken():
  check_sources([
      Stage("a"), Stage("data", trains=False), Stage("m", kind="reward_model", trains=False),
      Stage("b", "a", examples="stage:data", problems="files/x", reward_model="stage:m")])


def test_every_kind_says_what_it_is():
  flags = {kind: (cls.trains, cls.has_steps, cls.has_preflight) for kind, cls in STAGES.items()}
  assert flags == {
      "sft": (True, True, False), "rl": (True, True, True), "sample": (False, True, False),
      "select": (False, False, False), "preference": (True, True, False),
      "reward_model": (False, True, False), "process_reward": (False, True, False),
      "label_steps": (False, True, False), "distill": (True, True, False),
      "custom": (True, True, False)}
  rl = types.SimpleNamespace(writes_accuracy=True)
  assert STAGES["rl"].writes_data.fget(rl) and STAGES["sample"].writes_data.fget(rl)
