"""The settings of a run's stages: what each does, on what data, and what it starts from.

A stage that trains starts from the policy before it, from the initial weights, from the end of an
earlier stage, or from a folder. Data that a stage writes (`data/<stage>.jsonl`) is named
"stage:NAME" by the stages after it.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Literal

from rlreason import losses
from rlreason.algorithms import (
    DistillConfig, PolicyGradientConfig, PreferenceConfig, RewardModelConfig, SFTConfig)
from rlreason.config import Examples, Path, Rows, Tokens, Unread, check_unread
from rlreason.rewards import RewardSpec, check_correctness_beats_length
from rlreason.sampling import SamplingOptions
from rlreason.slots import Slot
from rlreason.training.checks import (
    STAGE_PREFIX, check_critic_rate, check_fields, check_filters, check_learned,
    check_lengths_paid, check_micro_batch, check_positive, check_rows, check_samples_differ,
    check_steps)
from rlreason.training.custom_stage import CustomStage
from rlreason.training.optimizer import OptimizerConfig

# Where a stage's policy comes from: the last stage before that trains, the recipe's model, or else
# the name of an earlier stage that trains, or a folder as a run writes it.
START = ("previous", "initial")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTStage:
  """Supervised fine-tuning on demonstrations."""

  kind: Literal["sft"]
  name: str
  steps: int  # optimiser steps
  batch_size: Rows  # packed rows per step, over all devices
  length: Tokens  # of a packed row
  optimizer: OptimizerConfig
  # Files of {prompt, completion}, or "stage:NAME"; empty = the task's demonstrations.
  examples: Path = ""
  # Of `examples`: our column -> the file's, or a path in it such as "messages.0.content".
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  # Or: completions made of the task's answers, e.g. "\\boxed{{answer}}"; empty = none.
  answer_template: str = ""
  num_examples: Examples = 50_000  # most examples made, where they do not come from a file
  token_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)  # word -> weight
  sft: SFTConfig = SFTConfig()
  start: Path = "previous"  # or initial, an earlier stage that trains, a folder: see `START`

  def __post_init__(self):
    check_positive(self, "batch_size", "length", "num_examples")
    check_steps(self.steps, self.steps, self.optimizer)
    check_fields(self, self.examples)
    check_micro_batch(
        "sft.micro_batch_size", self.sft.micro_batch_size, "batch_size", self.batch_size)
    check_critic_rate(self.optimizer, "in a supervised stage, which has no critic")
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
  num_prompts: Rows  # P per step, over all devices
  group_size: Rows = 1  # G completions per prompt
  sampling: SamplingOptions
  rewards: tuple[RewardSpec, ...]  # a section for each, by its name
  reward_clip: tuple[float, float] = (-10.0, 10.0)  # range of the sum of the rewards
  algorithm: PolicyGradientConfig
  optimizer: OptimizerConfig
  # What gives the reward `learned`: the folder of a reward model of the policy's vocabulary, or
  # "stage:NAME", a stage that trains one.
  reward_model: Path = ""
  # A separate critic starts from this model (a folder or .gguf file, or "stage:NAME" as above; a
  # reward model brings its head); empty: from the policy.
  critic_path: Path = ""
  # The KL is to this model, a folder or .gguf file of the policy's vocabulary, in the place of what
  # the stage starts from. With the KL in the reward it is a teacher (on-policy distillation).
  reference_path: Path = ""
  # Reasoning shorter than this many tokens counts as this long to the exploration reward, so that a
  # right answer always beats the longest wrong one.
  min_reasoning: int = 1
  # Runs even where that does not hold: the exploration reward may then pay more than being right.
  allow_length_over_correctness: bool = False
  length_buckets: tuple[int, ...] = ()  # widths completions are cut to, besides max_new_tokens
  start: Path = "previous"  # or initial, an earlier stage that trains, a folder: see `START`
  problems: Path = ""  # files of {prompt, answer}, or "stage:NAME"; empty = the task's
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of them, as of `SFTStage`
  # Groups whose completions all score the same teach little: with this, up to so many batches of
  # prompts are sampled in a step until num_prompts groups differ; 1 = one batch, as it comes.
  max_rounds: int = 1
  # What has to differ: the whole reward, or whether the verifier says right (DAPO: 0 < right < G),
  # so that a penalty of length alone makes no group useful.
  useful_by: Literal["reward", "accuracy"] = "reward"
  # The likelihood of the problem's answer after the reasoning is the reward (LaTRO): this text,
  # such as "The answer is {answer}.", takes the place of the completion's own answer.
  answer_template: str = ""
  writes_accuracy: bool = False  # data/<stage>.jsonl: how many were right, by step and problem

  def __post_init__(self):
    check_positive(self, "num_prompts", "group_size", "min_reasoning", "max_rounds")
    check_rows(self)
    check_fields(self, self.problems)
    if self.max_rounds > 1 and self.group_size == 1:
      raise ValueError(
          f"max_rounds: got {self.max_rounds} with group_size=1, allowed: 1 (a group of one always "
          "scores the same)")
    num_rows = self.num_prompts * self.group_size
    if num_rows % self.algorithm.minibatch_size:
      raise ValueError(
          f"algorithm.minibatch_size: got {self.algorithm.minibatch_size}, allowed: a divisor of "
          f"num_prompts * group_size = {num_rows}")
    check_steps(self.steps, self.steps * self.updates_per_step, self.optimizer)
    self._check_answers()
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
    if self.algorithm.uses_sampler_log_probs and not self.algorithm.recompute_log_probs:
      raise ValueError(
          "algorithm.recompute_log_probs: got False with a correction for what the sampler did "
          "otherwise, allowed: True (old log-probs are else the sampler's own, and all weights 1)")
    if self.critic_path and self.algorithm.critic != "separate":
      raise Unread(
          f"critic_path: got {self.critic_path!r} with algorithm.critic="
          f"{self.algorithm.critic!r}, allowed: algorithm.critic='separate'")
    if self.reference_path and not self.algorithm.has_fixed_reference:
      raise Unread(
          f"reference_path: got {self.reference_path!r} with algorithm.kl_coef="
          f"{self.algorithm.kl_coef} and reference_every={self.algorithm.reference_every}, "
          "allowed: with a kl_coef above 0, and a reference that stays")
    check_learned(self.rewards, self.reward_model)
    if not self.reward_clip[0] < self.reward_clip[1]:
      raise ValueError(f"reward_clip: got {self.reward_clip}, allowed: (low, high) with low < high")
    if not self.allow_length_over_correctness:
      self._check_exploration()
    self._check_advantage()
    self._check_unread()

  @property
  def updates_per_step(self) -> int:
    """Optimiser updates made of one rollout."""
    rows = self.algorithm.epochs * self.num_prompts * self.group_size
    return rows // self.algorithm.minibatch_size

  def _check_advantage(self):
    """Raises ValueError where no completion could ever be worth more than another."""
    advantage, algorithm = self.algorithm.advantage, self.algorithm
    has_teacher = bool(self.reference_path) and algorithm.kl_placement != "score"
    if not (algorithm.nll_coef or has_teacher) and losses.is_always_zero(
        advantage.function, advantage.options, self.group_size):
      raise ValueError(
          f"group_size: got {self.group_size} with algorithm.advantage={advantage.name}, which "
          "gives 0 to every completion of so small a group, allowed: more, or another advantage "
          "(such as no_baseline; group_of_one='raw' where it has that option)")
    if not (self.answer_template or algorithm.nll_coef or self.reference_path or any(
        spec.weight for spec in self.rewards)):
      raise ValueError(
          f"rewards: got the weight 0 for each of {[spec.name for spec in self.rewards]}, allowed: "
          "one at least with another weight")
    check_samples_differ(self.sampling, self.group_size)
    if self.steps and algorithm.critic_warmup_steps >= self.steps:
      raise ValueError(
          f"algorithm.critic_warmup_steps: got {algorithm.critic_warmup_steps}, allowed: less than "
          f"steps={self.steps} (the policy would not learn)")
    if algorithm.has_critic and not algorithm.value_coef and not self.critic_path:
      raise ValueError(
          "algorithm.value_coef: got 0 with a new critic, allowed: above 0, algorithm.critic="
          "'none', or a critic_path")

  def _check_unread(self):
    names = [spec.name for spec in self.rewards]
    check_lengths_paid(self.rewards, self.sampling, self.group_size)
    if not self.algorithm.has_critic:
      check_critic_rate(self.optimizer, "with algorithm.critic='none'")
    if self.max_rounds == 1:
      check_unread(self, "with max_rounds=1", "useful_by")
    explorations = [spec for spec in self.rewards
                    if spec.name == "exploration" and spec.function is None]
    if not explorations:
      check_unread(self, "without a reward 'exploration'", "min_reasoning")
    elif explorations[0].options.get("min_length", self.min_reasoning) != self.min_reasoning:
      check_unread(self, "beside rewards.exploration.options.min_length", "min_reasoning")
    if "verifier" not in names:
      check_unread(self, "without a reward 'verifier'", "useful_by", "writes_accuracy",
                   allowed="such a reward (its weight may be 0)")
      if self.algorithm.nll_coef and not self.answer_template:
        raise ValueError(
            f"algorithm.nll_coef: got {self.algorithm.nll_coef} without a reward 'verifier', which "
            "says what is right, allowed: 0, or such a reward (its weight may be 0)")

  def _check_answers(self):
    if not self.answer_template:
      try:
        check_unread(self.algorithm, "without answer_template", "answer_score")
      except ValueError as error:
        raise ValueError(f"algorithm.{error}") from error
      return
    if "{answer}" not in self.answer_template:
      raise ValueError(
          f"answer_template: got {self.answer_template!r}, allowed: text with {{answer}} in it")
    if "scores" not in self.algorithm.advantage.arrays:
      raise ValueError(
          f"answer_template: got {self.answer_template!r} with algorithm.advantage="
          f"{self.algorithm.advantage.name}, which reads rewards alone, allowed: an advantage of "
          "scores")
    if not self.algorithm.recompute_log_probs or self.algorithm.has_critic or self.max_rounds > 1:
      raise ValueError(
          f"answer_template: got {self.answer_template!r}, allowed: with "
          "algorithm.recompute_log_probs=True (the sampler has not seen the answer), "
          "algorithm.critic='none' and max_rounds=1")

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleStage:
  """Completions of problems, with their rewards, as data: data/<stage>.jsonl."""

  kind: Literal["sample"]
  name: str
  steps: int  # batches of problems
  num_prompts: Rows  # problems of a batch, over all devices
  group_size: Rows  # completions of each
  sampling: SamplingOptions
  rewards: tuple[RewardSpec, ...]  # a section for each, by its name
  reward_clip: tuple[float, float] = (-10.0, 10.0)  # range of the sum of the rewards
  start: Path = "previous"  # or initial, an earlier stage that trains, a folder: see `START`
  problems: Path = ""  # as of `RLStage`
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of them, as of `SFTStage`
  reward_model: Path = ""  # as of `RLStage`
  # A folder or .gguf file to sample from in place of the policy, such as a larger teacher's.
  model: Path = ""

  def __post_init__(self):
    check_positive(self, "steps", "num_prompts", "group_size")
    check_rows(self)
    check_fields(self, self.problems)
    check_learned(self.rewards, self.reward_model)
    check_samples_differ(self.sampling, self.group_size)
    check_filters(self.sampling)
    check_lengths_paid(self.rewards, self.sampling, self.group_size)
    if self.model:
      check_unread(self, "with a model of its own", "start")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectStage:
  """Data made of the data of earlier stages: data/<stage>.jsonl. Computes nothing else."""

  kind: Literal["select"]
  name: str
  inputs: tuple[str, ...]  # stages, whose rows follow each other
  # A pure function of `rows`, a list of dicts, to such a list (`data.selection` and others), and of
  # `encode`, text -> token ids of the policy, if it names that. Without rows it gives none, and
  # checks its options.
  select: Slot

  def __post_init__(self):
    if not self.inputs:
      raise ValueError("inputs: got none, allowed: names of earlier stages")
    self.select.check(("rows", "encode"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceStage:
  """Preference tuning: DPO and its relatives."""

  kind: Literal["preference"]
  name: str
  steps: int  # optimiser steps
  batch_size: Rows  # prompts per step, over all devices
  completion_length: Tokens  # rows with a longer completion are left out
  # Files of {prompt, chosen, rejected}, without pairs (KTO) of {prompt, completion,
  # is_right}; or "stage:NAME".
  examples: Path
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of them, as of `SFTStage`
  preference: PreferenceConfig
  optimizer: OptimizerConfig
  start: Path = "previous"  # or initial, an earlier stage that trains, a folder: see `START`

  def __post_init__(self):
    check_positive(self, "batch_size", "completion_length")
    check_fields(self, self.examples)
    check_steps(self.steps, self.steps, self.optimizer)
    check_critic_rate(self.optimizer, "in a preference stage, which has no critic")
    check_micro_batch("preference.micro_batch_size", self.preference.micro_batch_size,
                      "batch_size", self.batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardModelStage:
  """A reward model on the trunk of a policy: models/<stage>/. The policy stays what it is."""

  kind: Literal["reward_model"]
  name: str
  steps: int  # optimiser steps
  batch_size: Rows  # prompts per step, over all devices
  completion_length: Tokens  # rows with a longer completion are left out
  examples: Path  # as of `PreferenceStage`: pairs, or completions with verdicts
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of them, as of `SFTStage`
  optimizer: OptimizerConfig
  reward_model: RewardModelConfig = RewardModelConfig()
  # Scores of the examples' completions get mean 0 and variance 1 after the last step. With verdicts
  # in place of pairs a score is a log-odds of being right, which this would undo.
  standardize: bool = True
  start: Path = "previous"  # the trunk: as of the other stages, see `START`

  def __post_init__(self):
    check_positive(self, "batch_size", "completion_length")
    check_fields(self, self.examples)
    check_steps(self.steps, self.steps, self.optimizer)
    check_micro_batch("reward_model.micro_batch_size", self.reward_model.micro_batch_size,
                      "batch_size", self.batch_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillStage:
  """Token-level distillation from a teacher of the same vocabulary."""

  kind: Literal["distill"]
  name: str
  steps: int  # optimiser steps
  teacher: Path  # a folder or .gguf file
  num_prompts: Rows  # per step, over all devices
  sampling: SamplingOptions
  distill: DistillConfig
  optimizer: OptimizerConfig
  group_size: Rows = 1  # completions per prompt
  # Share of the steps, in [0, 1], on the student's own samples; the others are on the completions
  # of `examples`: files of {prompt, completion}, or "stage:NAME".
  student_fraction: float = 1.0
  examples: Path = ""  # empty: the problems of the task, and a student_fraction of 1
  problems: Path = ""  # without examples, as of `RLStage`
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of these or of those
  start: Path = "previous"  # or initial, an earlier stage that trains, a folder: see `START`

  def __post_init__(self):
    check_positive(self, "num_prompts", "group_size")
    check_rows(self)
    check_fields(self, self.examples or self.problems)
    check_steps(self.steps, self.steps, self.optimizer)
    if not 0 <= self.student_fraction <= 1:
      raise ValueError(f"student_fraction: got {self.student_fraction}, allowed: 0 to 1")
    if self.student_fraction < 1 and not self.examples:
      raise ValueError(
          f"student_fraction: got {self.student_fraction} without examples, allowed: 1")
    check_critic_rate(self.optimizer, "in a distillation stage, which has no critic")
    check_micro_batch("distill.micro_batch_size", self.distill.micro_batch_size,
                      "num_prompts * group_size", self.num_prompts * self.group_size)
    if self.examples:
      check_unread(self, "with examples, whose prompts are the problems", "problems")
    if self.student_fraction:
      check_samples_differ(self.sampling, self.group_size)
      check_filters(self.sampling)
    elif self.group_size > 1:
      raise ValueError(
          f"group_size: got {self.group_size} with student_fraction=0, allowed: 1 (each prompt has "
          "one completion in the examples)")
    elif self.sampling != SamplingOptions(max_new_tokens=self.sampling.max_new_tokens):
      raise ValueError(
          "sampling: got options with student_fraction=0, allowed: max_new_tokens alone (nothing "
          "is sampled)")


StageConfig = (
    SFTStage | RLStage | SampleStage | SelectStage | PreferenceStage | RewardModelStage |
    DistillStage | CustomStage)
STAGES = {
    "sft": SFTStage, "rl": RLStage, "sample": SampleStage, "select": SelectStage,
    "preference": PreferenceStage, "reward_model": RewardModelStage, "distill": DistillStage,
    "custom": CustomStage}


def trains(stage: StageConfig) -> bool:
  """Whether a stage changes the policy."""
  return kind_trains(stage.kind)


def kind_trains(kind: str) -> bool:
  """Whether stages of a kind change the policy."""
  return kind not in ("sample", "select", "reward_model")


def writes_data(stage: StageConfig) -> bool:
  """Whether a stage writes data/<stage>.jsonl."""
  return isinstance(stage, SampleStage | SelectStage) or (
      isinstance(stage, RLStage) and stage.writes_accuracy)


def data_sources(stage: StageConfig) -> dict[str, tuple[str, ...]]:
  """Field -> the stages whose data it names."""
  if isinstance(stage, SelectStage):
    return {"inputs": stage.inputs}
  named = {name: source for name in ("examples", "problems")
           if (source := vars(stage).get(name, "")).startswith(STAGE_PREFIX)}
  return {name: (source.removeprefix(STAGE_PREFIX),) for name, source in named.items()}


def reward_model_sources(stage: StageConfig) -> dict[str, str]:
  """Field -> the stage whose reward model it names."""
  if not isinstance(stage, RLStage | SampleStage):
    return {}
  named = {name: vars(stage).get(name, "") for name in ("reward_model", "critic_path")}
  return {name: source.removeprefix(STAGE_PREFIX) for name, source in named.items()
          if source.startswith(STAGE_PREFIX)}


def check_sources(stages: tuple[StageConfig, ...]):
  """Finds names of stages that are not there, come later, or do not have what is asked of them.

  Raises:
    ValueError: names the stage and the field.
  """
  for number, stage in enumerate(stages):
    before = {earlier.name: earlier for earlier in stages[:number]}
    for field, names in data_sources(stage).items():
      allowed = [name for name, earlier in before.items() if writes_data(earlier)]
      for name in names:
        if name not in allowed:
          raise ValueError(
              f"{stage.name}.{field}: got {name!r}, allowed: earlier stages that write data "
              f"({', '.join(allowed) or 'there are none'})")
    reward_models = [earlier for earlier in before if isinstance(before[earlier], RewardModelStage)]
    for field, name in reward_model_sources(stage).items():
      if name not in reward_models:
        raise ValueError(
            f"{stage.name}.{field}: got {name!r}, allowed: earlier stages of kind 'reward_model' "
            f"({', '.join(reward_models) or 'there are none'})")
    start = "previous" if isinstance(stage, SelectStage) else stage.start
    names = [other.name for other in stages]
    if start in names and not (start in before and trains(before[start])):
      raise ValueError(
          f"{stage.name}.start: got {start!r}, which "
          f"{'trains nothing' if start in before else 'does not come before'}, allowed: "
          "'previous', 'initial', an earlier stage that trains, or a folder")


def start_of(stages: tuple[StageConfig, ...], number: int) -> str | None:
  """The stage or folder whose policy stage `number` starts from; None: the initial weights."""
  start = stages[number].start
  if start == "initial":
    return None
  if start != "previous":
    return start
  return next((stage.name for stage in reversed(stages[:number]) if trains(stage)), None)
