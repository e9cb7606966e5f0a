"""Checks that the settings of several kinds of stages share; each raises ValueError.

A setting without effect is refused too (`config.check_unread`), because it is probably a mistake.
"""

from collections.abc import Sequence
from typing import Any

from rlreason.config import Unread, check_unread
from rlreason.rewards import RewardSpec
from rlreason.sampling import SamplingOptions
from rlreason.training.optimizer import OptimizerConfig
from rlreason.training.settings.base import StageConfig, stage_of


def check_positive(config: Any, *names: str):
  for name in names:
    if not vars(config)[name] > 0:
      raise ValueError(f"{name}: got {vars(config)[name]}, allowed: above 0")


def check_rows(stage: Any):
  """Refuses more completions per step than could be in memory at once."""
  most = 2**20
  if stage.num_prompts * stage.group_size > most:
    raise ValueError(
        f"num_prompts: got {stage.num_prompts} with group_size={stage.group_size}, allowed: "
        f"{most} completions of a step together, which are in memory at once")


def check_fields(stage: Any, source: str):
  """Refuses names of columns if no file is read: stages write standard columns."""
  if stage.fields and (not source or stage_of(source) is not None):
    raise ValueError(f"fields: got {dict(stage.fields)}, allowed: none, where the stage reads no "
                     "file of its own")


def check_learned(rewards: tuple[RewardSpec, ...], reward_model: str, process_model: str):
  names = {spec.name for spec in rewards if spec.function is None}
  for field, model, reward in (("reward_model", reward_model, "learned"),
                               ("process_model", process_model, "process")):
    is_paid = reward in names
    if is_paid != bool(model):
      raise ValueError(
          f"{field}: got {model!r} {'with' if is_paid else 'without'} a reward {reward!r}, "
          "allowed: both, a model and the reward that it gives, or neither")


def check_micro_batch(name: str, size: int, of: str, rows: int):
  """Refuses gradient passes that do not divide a batch of `rows` rows, which `of` names."""
  if size and rows % size:
    raise ValueError(f"{name}: got {size}, allowed: a divisor of {of}={rows}, or 0")


def check_lengths_paid(rewards: tuple[RewardSpec, ...], sampling: SamplingOptions, group_size: int):
  """Raises ValueError if a length reward is the same for every completion."""
  built_in = {spec.name: spec.options for spec in rewards if spec.function is None}
  for name, value in (("kimi_length", "0"), ("majority", "1 for any answer")):
    if name in built_in and group_size == 1:
      raise ValueError(
          f"group_size: got 1 with a reward {name!r}, which gives {value} to a group of one, "
          "allowed: more, or none of it")
  if "overlong" in built_in:
    most, cache = (built_in["overlong"][name] for name in ("max_length", "cache"))
    if most - cache >= sampling.max_new_tokens:
      raise ValueError(
          f"rewards.overlong.options.max_length: got {most} with sampling.max_new_tokens="
          f"{sampling.max_new_tokens}, allowed: less than {sampling.max_new_tokens + cache:g} (up "
          "to max_length - cache tokens it is always 0)")


def check_critic_rate(optimizer: OptimizerConfig, reason: str):
  if optimizer.critic_learning_rate is not None:
    raise Unread(
        f"optimizer.critic_learning_rate: got {optimizer.critic_learning_rate} {reason}, allowed: "
        "None, the default (nothing would read it)")


def check_masters(stages: Sequence[StageConfig], param_dtype: str, has_adapters: bool):
  """Raises if a stage's master weights would be the parameters that it trains."""
  reason = ("with lora, whose adapters are float32" if has_adapters else
            f"with model.param_dtype={param_dtype!r}" if param_dtype != "bfloat16" else None)
  for stage in stages:
    if reason and "optimizer" in vars(stage) and stage.optimizer.master_weights:
      raise Unread(
          f"{stage.name}.optimizer.master_weights: got True {reason}, allowed: False, the default "
          "(parameters that are trained in float32 are their own master weights)")


def check_samples_differ(sampling: SamplingOptions, group_size: int):
  """Raises ValueError if all completions of a prompt would be the same."""
  is_greedy = {"temperature": sampling.temperature == 0, "top_k": sampling.top_k == 1,
               "min_p": sampling.min_p == 1}
  for name, is_so in is_greedy.items():
    if is_so and group_size > 1:
      raise ValueError(
          f"sampling.{name}: got {vars(sampling)[name]} with group_size={group_size}, allowed: "
          "what lets the completions of a prompt differ, or group_size=1")


def check_filters(sampling: SamplingOptions):
  if not sampling.temperature:
    try:
      check_unread(sampling, "with temperature=0", "top_k", "top_p", "min_p")
    except ValueError as error:
      raise ValueError(f"sampling.{error}") from error


def check_steps(steps: int, updates: int, optimizer: OptimizerConfig):
  if steps < 0:
    raise ValueError(f"steps: got {steps}, allowed: 0 or more")
  if updates > 2**31 - 1:
    raise ValueError(f"steps: got {steps}, allowed: {2**31 - 1} updates together, as int32 counts")
  if steps and optimizer.warmup_steps >= updates:
    raise ValueError(
        f"optimizer.warmup_steps: got {optimizer.warmup_steps}, allowed: less than the {updates} "
        "updates of the stage")
