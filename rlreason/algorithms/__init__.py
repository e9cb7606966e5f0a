"""One file per method that differs in code; variants that only change constants are configs."""

from rlreason.algorithms.base import Algorithm, TrainState
from rlreason.algorithms.distill import DistillConfig, distill, init_distill_params
from rlreason.algorithms.policy_gradient import (
    PolicyGradientConfig, init_rl_params, minibatch_rows, policy_gradient, presets)
from rlreason.algorithms.preference import PreferenceConfig, preference, unpaired_batch
from rlreason.algorithms.process_reward import (
    ProcessRewardConfig, init_process_params, process_reward, score_steps)
from rlreason.algorithms.reward_model import (
    RewardModelConfig, init_reward_params, reward_model, score_completions, score_tokens)
from rlreason.algorithms.sft import SFTConfig, sft

__all__ = [
    "Algorithm", "DistillConfig", "PolicyGradientConfig", "PreferenceConfig",
    "ProcessRewardConfig", "RewardModelConfig", "SFTConfig", "TrainState", "distill",
    "init_distill_params", "init_process_params", "init_reward_params", "init_rl_params",
    "minibatch_rows", "policy_gradient", "preference", "presets", "process_reward",
    "reward_model", "score_completions", "score_steps", "score_tokens", "sft", "unpaired_batch"]
