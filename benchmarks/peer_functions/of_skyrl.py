"""SkyRL, https://github.com/NovaSky-AI/SkyRL: its advantage of MaxRL."""

import numpy as np

from peer_functions.importing import flat, pay_last, without

_UTILS = "skyrl.backends.skyrl_train.utils"
with without(
    ["ray", "loguru", "skyrl.train",
     f"{_UTILS}.off_policy_correction_utils", f"{_UTILS}.torch_utils"],
    bare=["skyrl", "skyrl.backends", "skyrl.backends.skyrl_train", _UTILS]):
  import ray

  ray.is_initialized = lambda: False  # it registers its functions with Ray where that runs
  from skyrl.backends.skyrl_train.utils import ppo_utils


def max_rl(x):
  """f32[B, T]."""
  groups, size = x["scores"].shape
  advantages, _ = ppo_utils.compute_maxrl_advantage(
      pay_last(x["scores"], x["mask"]), x["mask"].float(), np.repeat(np.arange(groups), size))
  return flat(advantages)
