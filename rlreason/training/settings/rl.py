"""The settings of RL stages."""

from collections.abc import Mapping
import dataclasses
import math
from typing import ClassVar, Literal

from rlreason import losses
from rlreason.algorithms import PolicyGradientConfig
from rlreason.config import Path, Rows, Unread, check_unread
from rlreason.rewards import RewardSpec, check_correctness_beats_length
from rlreason.sampling import SamplingOptions
from rlreason.training.optimizer import OptimizerConfig
from rlreason.training.settings.base import StageConfig, named_stages
from rlreason.training.settings.checks import (
    check_critic_rate, check_fields, check_learned, check_lengths_paid, check_positive, check_rows,
    check_samples_differ, check_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RLStage(StageConfig):
  """A policy gradient on rollouts; RLSP if the rewards have an exploration part."""

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
  # The model of the reward `learned`: the folder of a reward model of the policy's vocabulary, or
  # "stage:NAME", a stage that trains one.
  reward_model: Path = ""
  # The model of the reward `process`: likewise, of a process reward model.
  process_model: Path = ""
  # A separate critic starts from this model (a folder or .gguf file, or "stage:NAME" as above; the
  # head of a reward model is used); empty: from the policy.
  critic_path: Path = ""
  # The KL is to this model, a folder or .gguf file of the policy's vocabulary, instead of the
  # stage's start policy. With the KL in the reward it is a teacher (on-policy distillation).
  reference_path: Path = ""
  # The exploration reward counts shorter reasoning as this many tokens, so that a right answer
  # always beats the longest wrong one.
  min_reasoning_tokens: int = 1
  # Runs even if that does not hold: the exploration reward may then exceed that of a right answer.
  allow_length_over_correctness: bool = False
  length_buckets: tuple[int, ...] = ()  # widths of cropped completions, besides max_new_tokens
  start: Path = "previous"  # or initial, an earlier stage that trains, a folder: see `START`
  problems: Path = ""  # files of {prompt, answer}, or "stage:NAME"; empty = the task's
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of them, as in `SFTStage`
  # Groups without reward variance teach little: a step samples up to this many batches of prompts
  # until num_prompts groups have reward variance; 1 = one batch, without selection.
  max_resample_rounds: int = 1
  # What has to differ in a group: the total reward, or the verdict (DAPO: 0 < right < G), so that a
  # length penalty alone does not count.
  filter_groups_by: Literal["reward", "accuracy"] = "reward"
  # The likelihood of the problem's answer after the reasoning is the reward (LaTRO): this text,
  # such as "The answer is {answer}.", replaces the completion's own answer.
  answer_template: str = ""
  # Rollouts are sampled, and their rewards computed, while this many previous steps train: the
  # sampling policy is then that many steps old. 0 = each step samples its own.
  draws_ahead: int = 0
  # Partial rollouts: this many further prompts are sampled at once, a step ends when the groups of
  # num_prompts have ended, and the others go on in the next step, with the log-probs they were
  # sampled with. 0 = every completion ends in its step.
  carried_prompts: int = 0
  writes_accuracy: bool = False  # data/<stage>.jsonl: number of right ones by step and problem

  has_preflight: ClassVar[bool] = True
  suspects: ClassVar[str] = (
      "rollout/trained_fraction (filters that leave out every completion: mask_truncated, "
      "advantage_threshold) and at the weights of the loss")

  @property
  def writes_data(self) -> bool:
    return self.writes_accuracy

  def model_sources(self) -> dict[str, str]:
    return named_stages(self, "reward_model", "process_model", "critic_path")

  def step_rows(self, prompt_tokens: int) -> tuple[int, int]:
    rows = (
        self.num_prompts * self.max_resample_rounds + self.carried_prompts) * self.group_size
    return rows, prompt_tokens + self.sampling.max_new_tokens

  def pass_rows(self, prompt_tokens: int) -> tuple[str, int, int]:
    rows = self.algorithm.micro_batch_size or self.algorithm.minibatch_size
    return ("sampling.max_new_tokens", rows,
            min((*self.length_buckets, self.sampling.max_new_tokens)))

  def __post_init__(self):
    check_positive(self, "num_prompts", "group_size", "min_reasoning_tokens", "max_resample_rounds")
    check_rows(self)
    check_fields(self, self.problems)
    if self.draws_ahead < 0:
      raise ValueError(f"draws_ahead: got {self.draws_ahead}, allowed: 0 or more")
    if self.max_resample_rounds > 1 and self.group_size == 1:
      raise ValueError(
          f"max_resample_rounds: got {self.max_resample_rounds} with group_size=1, allowed: 1 (a "
          "group of one always scores the same)")
    if self.carried_prompts < 0:
      raise ValueError(f"carried_prompts: got {self.carried_prompts}, allowed: 0 or more")
    if self.carried_prompts and self.max_resample_rounds > 1:
      raise ValueError(
          f"carried_prompts: got {self.carried_prompts} with max_resample_rounds="
          f"{self.max_resample_rounds}, allowed: 0, or max_resample_rounds=1")
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
    check_learned(self.rewards, self.reward_model, self.process_model)
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
    """Raises ValueError if the advantages of all completions would be 0."""
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
    if self.max_resample_rounds == 1:
      check_unread(self, "with max_resample_rounds=1", "filter_groups_by")
    explorations = [spec for spec in self.rewards
                    if spec.name == "exploration" and spec.function is None]
    if not explorations:
      check_unread(self, "without a reward 'exploration'", "min_reasoning_tokens")
    elif self.min_reasoning_tokens != explorations[0].options.get(
        "min_length", self.min_reasoning_tokens):
      check_unread(self, "beside rewards.exploration.options.min_length", "min_reasoning_tokens")
    if "verifier" not in names:
      check_unread(self, "without a reward 'verifier'", "filter_groups_by", "writes_accuracy",
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
    if (not self.algorithm.recompute_log_probs or self.algorithm.has_critic
        or self.max_resample_rounds > 1):
      raise ValueError(
          f"answer_template: got {self.answer_template!r}, allowed: with "
          "algorithm.recompute_log_probs=True (the sampler has not seen the answer), "
          "algorithm.critic='none' and max_resample_rounds=1")

  def _check_exploration(self):
    weights = {spec.name: spec.weight for spec in self.rewards}
    verifier = weights.get("verifier", 0.0)
    for spec in self.rewards:
      c = spec.weight * spec.options.get("c", 0.0) if spec.name == "exploration" else 0.0
      if c > 0 and verifier > 0:
        # A token may have any number of characters, so that characters have no longest length.
        is_in_tokens = spec.options.get("unit") == "tokens"
        longest = self.sampling.max_new_tokens if is_in_tokens else math.inf
        try:
          check_correctness_beats_length(
              c, spec.options.get("min_length", self.min_reasoning_tokens), longest, verifier)
        except ValueError as error:
          raise ValueError(
              f"rewards.exploration: {error}; or raise min_reasoning_tokens, or set "
              "allow_length_over_correctness") from error
