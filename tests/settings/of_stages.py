"""Rows of the stages: most are seen in what a stage hands to its sampler and to its algorithm."""

import dataclasses
import functools
import json
import pathlib
import tempfile
from unittest import mock

import numpy as np

from rlreason import losses
from rlreason.algorithms import (
    DistillConfig, PreferenceConfig, ProcessRewardConfig, RewardModelConfig)
from rlreason.rewards import RewardSpec
from rlreason.rollout import step_labels
from rlreason.sampling import SamplingOptions
from rlreason.slots import Slot
from rlreason.training import stages as stages_lib
from rlreason.training.settings.custom import CustomStage
from rlreason.training.settings.distill import DistillStage
from rlreason.training.settings.graph import start_of
from rlreason.training.settings.label_steps import LabelStepsStage
from rlreason.training.settings.preference import PreferenceStage
from rlreason.training.settings.process_reward import ProcessRewardStage
from rlreason.training.settings.reward_model import RewardModelStage
from rlreason.training.settings.rl import RLStage
from rlreason.training.settings.sample import SampleStage
from rlreason.training.settings.select import SelectStage
from rlreason.training.settings.sft import SFTStage
from rlreason.training.stages import checks
from rlreason.training.stages.select import select
from tests.settings import bases, fakes
from tests.settings.bases import OPTIMIZER, REINFORCE, VERIFIER, Row

WARM = SamplingOptions(max_new_tokens=8, temperature=0.5)
FAST = dataclasses.replace(OPTIMIZER, learning_rate=0.2)
EXPLORATION = RewardSpec(name="exploration", options={"c": 0.1, "unit": "tokens"})
LEARNED = RewardSpec(name="learned", weight=0.0)
PROCESS = RewardSpec(name="process", step_separator="a")
HALF = (dataclasses.replace(VERIFIER, weight=0.5),)
DIFFERS = dict(num_prompts=4, max_resample_rounds=2, rewards=(VERIFIER, EXPLORATION))


def seen(name, stage):
  """A list of the stage's trace."""
  return fakes.stage_trace(stage).get(name)


def read_file(stage):
  """What it asks of a file that is not there."""
  with mock.patch.object(checks, "check_source"):
    return seen("read", stage)


def of(name):
  return functools.partial(seen, name)


def labelled(stage):
  """The rows that it writes, of solutions whose first box is right and whose last is wrong."""
  rows = [row | {"completion": "\\boxed{ 2 } 1 \\boxed{ 1 }"} for row in fakes.FILE_ROWS]
  with mock.patch.object(fakes, "FILE_ROWS", rows):
    return seen("rows", stage)


def lr(stage):
  return [metrics["optim/lr"] for metrics in fakes.stage_trace(stage)["host"]]


def temperature(stage):
  """Of the algorithm."""
  return fakes.stage_trace(stage)["algorithm"][0][2]["temperature"]


def widths(stage):
  return [rollout.completion_tokens.shape for rollout in fakes.stage_trace(stage)["scored"]]


def pairs_seen(stage):
  trace = fakes.stage_trace(stage)
  return [batch.prompt_tokens.shape for batch in trace.get("scored", trace["batches"])]


def start(stage):
  """What the stage starts from, after one that trains."""
  return start_of((dataclasses.replace(SFT, name="first"), stage), 1)


def standardized(stage):
  """The reward model that the stage writes."""
  written = []
  scores = lambda model, params, rows: np.arange(len(rows.completion_tokens), dtype=np.float32)
  recipe = bases.make_recipe(stages=(stage,))
  with fakes.stand_ins(fakes.Trace(list)), mock.patch.object(
      fakes.REWARD_MODEL, "score_completions", scores), mock.patch.object(
          fakes.REWARD_MODEL.weights, "save_scalar_model", lambda *args: written.append(args[2])):
    made = stages_lib.make_stage(
        fakes.make_setup(recipe), stage, fakes.POLICY, 0, fakes.POOL, None)
    made.finish({"trunk": {}, "value_head": {"kernel": np.ones(2, np.float32),
                                             "bias": np.float32(0.5)}}, None)
  return written


def selected(stage):
  """The files that it writes, from two of other stages."""
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    (folder / "data").mkdir()
    for name in ("one", "two"):
      row = dict(prompt="p", answer="1", completion=name, is_right=True, reward=1.0, tokens=2,
                 truncated=False, prompt_ids=[2], completion_ids=[3, 4], rewards={})
      (folder / "data" / f"{name}.jsonl").write_text(
          "".join(json.dumps(row | {"completion": f"{name} {i}", "completion_ids": [3, i]}) + "\n"
                  for i in range(3)))
    select(fakes.make_setup(bases.make_recipe()), stage, folder)
    return {file.name: file.read_text() for file in (folder / "data").iterdir()}


SFT = SFTStage(**bases.BASES[SFTStage])
_COMMON = {
    "name": Row("other", of("stage")), "start": Row("initial", start),
    "steps": Row(4, (of("rates"), lr)), "optimizer": Row(FAST, (of("rates"), lr))}
_ON_FILES = _COMMON | {
    "batch_size": Row(4, pairs_seen), "completion_length": Row(5, of("host")),
    "examples": Row("stage:first", of("read")), "fields": Row({"prompt": "q"}, of("read"))}
_ON_PROBLEMS = {
    "problems": Row("stage:first", of("read")),
    "fields": Row({"prompt": "q"}, of("read"), beside=dict(problems="a.jsonl"))}
ROWS = {
    RLStage: _COMMON | _ON_PROBLEMS | {
        "num_prompts": Row(4, of("prompts")), "group_size": Row(4, of("outcomes")),
        "sampling": Row(WARM, (of("generators"), temperature)),
        "rewards": Row(HALF, of("outcomes")), "reward_clip": Row((-0.5, 0.5), of("outcomes")),
        "algorithm": Row(dataclasses.replace(REINFORCE, kl_coef=0.1), of("algorithm")),
        "reward_model": Row("b", of("loaded"), with_other=dict(rewards=(VERIFIER, LEARNED))),
        "process_model": Row("b", of("outcomes"), with_other=dict(rewards=(VERIFIER, PROCESS))),
        "critic_path": Row("b", of("loaded"), beside=dict(
            algorithm=dataclasses.replace(REINFORCE, critic="separate"))),
        "reference_path": Row("b", of("loaded"), beside=dict(
            algorithm=dataclasses.replace(REINFORCE, kl_coef=0.1))),
        "min_reasoning_tokens": Row(
            5, of("outcomes"), beside=dict(rewards=(VERIFIER, EXPLORATION))),
        "allow_length_over_correctness": Row(True, of("stage"), beside=dict(
            rewards=(VERIFIER, dataclasses.replace(EXPLORATION, weight=100.0)))),
        "length_buckets": Row((7,), widths, beside=dict(num_prompts=1)),
        "draws_ahead": Row(1, of("stage")),
        "carried_prompts": Row(2, of("partial")),
        "max_resample_rounds": Row(2, of("prompts"), beside=dict(num_prompts=4)),
        "filter_groups_by": Row("accuracy", of("outcomes"), beside=DIFFERS),
        "answer_template": Row("a {answer}", lambda stage: [
            rollout.completion_tokens for rollout in fakes.stage_trace(stage)["scored"]],
                               beside=dict(algorithm=dataclasses.replace(
                                   REINFORCE, recompute_log_probs=True))),
        "writes_accuracy": Row(True, of("rows"))},
    SampleStage: _ON_PROBLEMS | {
        "name": _COMMON["name"], "start": _COMMON["start"], "steps": Row(4, of("stage")),
        "num_prompts": Row(4, of("prompts")), "group_size": Row(4, of("rows")),
        "prompts_at_once": Row(1, of("generators")),
        "sampling": Row(WARM, of("generators")), "rewards": Row(HALF, of("rows")),
        "reward_clip": Row((-0.5, 0.5), of("rows")),
        "reward_model": Row("b", of("loaded"), with_other=dict(rewards=(VERIFIER, LEARNED))),
        "process_model": Row("b", of("rows"), with_other=dict(rewards=(VERIFIER, PROCESS))),
        "model": Row("b", (of("loaded"), of("sampled_from")))},
    SFTStage: _COMMON | {
        "batch_size": Row(2, lambda stage: [
            batch.tokens.shape for batch in fakes.stage_trace(stage)["batches"]]),
        "length": Row(16, lambda stage: [
            batch.tokens.shape for batch in fakes.stage_trace(stage)["batches"]]),
        "examples": Row("stage:first", of("read"), with_other=dict(answer_template="")),
        "fields": Row({"prompt": "q"}, read_file, beside=dict(
            examples="a.jsonl", answer_template="")),
        "answer_template": Row("b {answer}", of("batches")),
        "num_examples": Row(1, of("batches")), "token_weights": Row({"a": 2.0}, of("batches")),
        "sft": Row(dataclasses.replace(SFT.sft, micro_batch_size=1), of("algorithm"))},
    CustomStage: {
        "name": Row("other", of("stage")), "start": Row("initial", start),
        "steps": Row(4, (of("stage"), of("host"))),
        "make": Row(Slot(bases.own_stage, {"count": 2}), of("host"))},
    SelectStage: {
        "name": Row("other", selected), "inputs": Row(("two",), selected),
        "select": Row(Slot("rlreason.data.selections.completions:right_completions",
                           {"max_per_question": 1, "dedupe": "nothing"}), selected)},
    PreferenceStage: _ON_FILES | {
        "preference": Row(PreferenceConfig(
            loss=Slot(losses.dpo, {"beta": 0.1}), average_log_probs=False), of("algorithm"))},
    RewardModelStage: _ON_FILES | {
        "reward_model": Row(RewardModelConfig(
            loss=Slot(losses.bradley_terry, {"margin": 1.0})), of("algorithm")),
        "standardize": Row(False, standardized)},
    LabelStepsStage: {
        "name": _COMMON["name"], "start": _COMMON["start"], "steps": Row(4, of("stage")),
        "num_prompts": Row(1, of("prompts")), "num_completions": Row(3, of("generators")),
        "examples": Row("stage:first", of("read")), "fields": Row({"prompt": "q"}, of("read")),
        "step_separator": Row("1", labelled),
        "search": Row(Slot(step_labels.first_error), labelled, beside=dict(step_separator="1")),
        "sampling": Row(WARM, of("generators")),
        "rewards": Row((RewardSpec(name="verifier", options={"which_box": "first"}),), labelled)},
    ProcessRewardStage: _ON_FILES | {
        "step_separator": Row(" 2", of("batches")),
        "neutral": Row("wrong", of("batches")), "held_out_share": Row(0.0, of("host")),
        "completion_length": Row(5, of("batches")),
        "threshold": Row(0.4, of("host")),
        "process_reward": Row(ProcessRewardConfig(
            loss=Slot(losses.three_way_cross_entropy)), of("batches"))},
    DistillStage: _COMMON | _ON_PROBLEMS | {
        "teacher": Row("b", of("loaded")), "num_prompts": Row(4, of("prompts")),
        "sampling": Row(WARM, of("generators")), "group_size": Row(2, of("generators")),
        "distill": Row(DistillConfig(temperature=2.0), of("algorithm")),
        "student_fraction": Row(0.0, of("host"), beside=dict(examples="a.jsonl")),
        "examples": Row("stage:first", of("read"))},
}
