"""One file per method that differs in code; variants that only change constants are configs."""

from rlreason.algorithms.base import Algorithm, TrainState
from rlreason.algorithms.distill import DistillConfig, distill, init_distill_params
from rlreason.algorithms.ppo import PPOConfig, init_ppo_params, ppo
from rlreason.algorithms.preference import PreferenceConfig, preference, unpaired_batch
from rlreason.algorithms.sft import SFTConfig, sft
