"""RLOO, https://arxiv.org/abs/2402.14740: REINFORCE, and the other completions are the baseline.

    rlreason train --config=experiments/methods/rloo.py --workdir=runs/rloo
"""

import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(presets.rloo(minibatch_size=128, kl_coef=0.01))
  return config
