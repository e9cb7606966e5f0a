"""What a row of the table is, and an instance of every dataclass of a config to change."""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import optax

from rlreason import losses
from rlreason.algorithms import (
    DistillConfig, PolicyGradientConfig, PreferenceConfig, ProcessRewardConfig,
    RewardModelConfig, SFTConfig)
from rlreason.algorithms import base as algorithms_base
from rlreason.data.tasks import arithmetic, chain, countdown
from rlreason.data.tasks.load import ArithmeticTask, ChainTask, CountdownTask, FileTask, TfdsTask
from rlreason.data.tasks.own import OwnTask
from rlreason.evaluation.config import EvaluationConfig
from rlreason.evaluation.expected import Expected
from rlreason.models import LoRAConfig
from rlreason.parallel import ParallelConfig
from rlreason.rewards import RewardSpec
from rlreason.rollout import step_labels
from rlreason.sampling import SamplingOptions
from rlreason.searching import SearchConfig
from rlreason.slots import Slot
from rlreason.training import stages as stages_lib
from rlreason.training.optimizer import OptimizerConfig
from rlreason.training.settings.custom import CustomStage
from rlreason.training.settings.distill import DistillStage
from rlreason.training.settings.label_steps import LabelStepsStage
from rlreason.training.settings.preference import PreferenceStage
from rlreason.training.settings.process_reward import ProcessRewardStage
from rlreason.training.settings.recipe import CheckpointConfig, NewModel, PretrainedModel, Recipe
from rlreason.training.settings.reward_model import RewardModelStage
from rlreason.training.settings.rl import RLStage
from rlreason.training.settings.sample import SampleStage
from rlreason.training.settings.select import SelectStage
from rlreason.training.settings.sft import SFTStage


class Row(NamedTuple):
  """A field's row: another value, and what must then be seen to differ.

  `seen` takes an instance of the field's class, and is called on two that differ in this field
  (and in `with_other`, where the value could not stand alone). Of several functions each must see a
  difference. To be refused with a ValueError is something to see as well.
  """

  other: Any
  seen: Callable[[Any], Any] | tuple[Callable[[Any], Any], ...]
  beside: dict[str, Any] = {}  # other fields of both instances
  with_other: dict[str, Any] = {}  # and of the one with the other value


OPTIMIZER = OptimizerConfig(learning_rate=0.1, schedule="linear")
SAMPLING = SamplingOptions(max_new_tokens=8)
VERIFIER = RewardSpec(name="verifier")
REINFORCE = PolicyGradientConfig(
    minibatch_size=2, critic="none", share_prompts=False, pack_rows=False)
EVALUATION = EvaluationConfig(num_problems=2, batch_size=2, max_new_tokens=8, num_samples=2)
MODEL = dict(width=16, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=8, mlp_width=16)
_OPTIMIZED = dict(steps=2, optimizer=OPTIMIZER)
_ON_FILES = dict(batch_size=2, completion_length=8, examples="a.jsonl", **_OPTIMIZED)


def own_problems(size=2):
  """Of the user's own."""
  return {"train": [{"question": "1 + 1", "answer": "2"}] * size,
          "test": [{"question": "1 + 2", "answer": "3"}]}


def own_stage(setup, stage, policy, seed, folder, *, count: int):
  """Of the user's own: it says what it was given."""
  def learn(state, number, drawn, key):
    del number, drawn, key
    seen = {"count": count, "seed": seed, "steps": stage.steps}
    return stages_lib.StepOutput(state, {}, seen, tokens=len(setup.tasks["train"].rows))

  del folder
  return stages_lib.Stage(
      "", 0, algorithms_base.init_state({"policy": policy}, optax.identity()), None, learn)


BASES = {
    Recipe: dict(
        seed=0, model=NewModel(kind="new", **MODEL), task=ChainTask(kind="chain"),
        prompt_buckets=(4,), stages=(), evaluation=EVALUATION),
    PretrainedModel: dict(kind="pretrained", path="a"),
    NewModel: dict(kind="new", **MODEL),
    CheckpointConfig: {}, LoRAConfig: {}, ParallelConfig: {}, SFTConfig: {}, RewardModelConfig: {},
    ProcessRewardConfig: {}, DistillConfig: {}, OptimizerConfig: dict(learning_rate=0.1),
    PreferenceConfig: dict(loss=Slot(losses.dpo, {"beta": 0.5}), average_log_probs=False),
    PolicyGradientConfig: dict(minibatch_size=4, share_prompts=False, pack_rows=False),
    EvaluationConfig: {field.name: getattr(EVALUATION, field.name)
                       for field in dataclasses.fields(EvaluationConfig)},
    SearchConfig: {},
    Expected: dict(points={"start": (0.25, 0.5)}, source="here"),
    SamplingOptions: dict(max_new_tokens=8), RewardSpec: dict(name="verifier"),
    Slot: dict(function=losses.clipped_surrogate),
    RLStage: dict(
        kind="rl", name="rl", num_prompts=2, group_size=2, sampling=SAMPLING, rewards=(VERIFIER,),
        algorithm=REINFORCE, **_OPTIMIZED),
    CustomStage: dict(
        kind="custom", name="custom", steps=2, make=Slot(own_stage, {"count": 1})),
    SampleStage: dict(
        kind="sample", name="sample", steps=2, num_prompts=2, group_size=2, sampling=SAMPLING,
        rewards=(VERIFIER,)),
    SFTStage: dict(
        kind="sft", name="sft", batch_size=1, length=12, answer_template="a {answer}",
        **_OPTIMIZED),
    SelectStage: dict(
        kind="select", name="select", inputs=("one",), select=Slot(
            "rlreason.data.selections.completions:right_completions", {"max_per_question": 9})),
    PreferenceStage: dict(
        kind="preference", name="preference", preference=PreferenceConfig(
            loss=Slot(losses.dpo, {"beta": 0.5}), average_log_probs=False), **_ON_FILES),
    RewardModelStage: dict(kind="reward_model", name="reward_model", **_ON_FILES),
    LabelStepsStage: dict(
        kind="label_steps", name="label_steps", steps=2, num_prompts=2, num_completions=2,
        examples="a.jsonl", search=Slot(step_labels.every_step), sampling=SAMPLING,
        rewards=(VERIFIER,)),
    ProcessRewardStage: dict(kind="process_reward", name="process_reward", **_ON_FILES),
    DistillStage: dict(
        kind="distill", name="distill", teacher="a", num_prompts=2, sampling=SAMPLING,
        distill=DistillConfig(), **_OPTIMIZED),
    ChainTask: dict(kind="chain"), CountdownTask: dict(kind="countdown"),
    chain.ChainConfig: dict(num_train=50, num_validation=4, num_test=4),
    countdown.CountdownConfig: dict(max_number=6, max_target=20, num_validation=4, num_test=4),
    ArithmeticTask: dict(
        kind="arithmetic", problems=arithmetic.ArithmeticConfig(tasks={"a": {}})),
    arithmetic.ArithmeticConfig: dict(tasks={"a": {}, "b": {}}),
    FileTask: dict(kind="file", name="toy", train="train.jsonl", test="test.jsonl"),
    TfdsTask: dict(kind="tfds", name="toy", fields={"prompt": "q"}),
    OwnTask: dict(kind="own", function=own_problems),
}


def make_recipe(**fields) -> Recipe:
  return Recipe(**BASES[Recipe] | fields)
