"""Detects early that a run cannot learn, and warns.

The signs are in the metrics of the first step of each stage and, before the first RL step, of a few
problems that are sampled and scored only for this. None of them is a proof, so they are warnings,
not errors.
"""

from collections.abc import Mapping

from rlreason import losses
from rlreason.training.settings.base import StageConfig
from rlreason.training.settings.rl import RLStage

NUM_PROMPTS = 8  # sampled and scored before the first step


def signs(values: Mapping[str, float], stage: StageConfig) -> dict[str, str]:
  """Why nothing can be learned: name of the sign -> one line with advice.

  Args:
    values: metrics of one step, including those of the update if there was one.
    stage: that of the step.
  """
  found = {}
  if values.get("rollout/truncated_fraction") == 1:
    found["truncated"] = (
        "every completion was truncated at sampling.max_new_tokens="
        f"{stage.sampling.max_new_tokens}: no end token was ever sampled; look in samples.jsonl: "
        "where completions answer and then run on, the model ends its turns with another token "
        "than its tokenizer says (model.end_tokens), else raise max_new_tokens")
  is_scored = "reward/total/mean" in values
  if "reward/unscored" in values and not is_scored:
    counts = ", ".join(f"{name} {values.get(f'reward/{name}', 0):.0f}"
                       for name in ("timeouts", "crashes", "errors"))
    found["unscored"] = (
        f"no completion could be scored ({counts}): all rewards are None, and nothing gets a "
        "gradient; look at reward_timeout, at the answers of the data and at the reward functions")
  is_from_rewards = isinstance(stage, RLStage) and not (
      stage.answer_template or stage.reference_path)
  if is_scored and is_from_rewards and _are_equal(values, stage):
    parts = ", ".join(f"{spec.name} {values[name]:.4g}" for spec in stage.rewards
                      if (name := f"reward/{spec.name}/mean") in values)
    where = " in every group" if _is_relative(stage) else ""
    found["equal"] = (
        f"all rewards are equal{where} (means: {parts})"
        ": nothing tells good completions from bad ones; look in samples.jsonl: problems "
        "too hard or too easy, an answer in another form than the verifier reads, a max_new_tokens "
        "that ends completions before it, a reward_clip that cuts off what differs")
  if values.get("optim/grad_norm") == 0 and not found:  # else it follows from a sign found above
    found["gradient"] = (
        f"the gradient is exactly 0: nothing is learned; look at {stage.suspects}")
  return found


def _is_relative(stage: RLStage) -> bool:
  """Whether advantages only compare completions within their group."""
  advantage = stage.algorithm.advantage
  return losses.is_always_zero(advantage.function, advantage.options, group_size=1)


def _are_equal(values: Mapping[str, float], stage: RLStage) -> bool:
  """Whether no completion scores more than those it is compared with."""
  if _is_relative(stage):
    # Of a step with dynamic sampling the metric is that of `filter_groups_by`.
    is_of_rewards = "rollout/rounds" not in values or stage.filter_groups_by == "reward"
    return is_of_rewards and values.get("rollout/zero_variance_groups") == 1
  return values["reward/total/std"] <= 1e-6 * max(1.0, abs(values["reward/total/mean"]))
