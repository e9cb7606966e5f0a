"""GRPO, https://arxiv.org/abs/2402.03300: the group is its own baseline.

    rlreason train --config=experiments/methods/grpo.py --workdir=runs/grpo
"""

import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(presets.grpo(minibatch_size=128, kl_coef=0.01))
  return config
