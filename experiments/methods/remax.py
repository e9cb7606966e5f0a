"""ReMax, https://arxiv.org/abs/2310.10505: the score of the greedy completion is the baseline.

    rlreason train --config=experiments/methods/remax.py --workdir=runs/remax
"""

import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(presets.remax(minibatch_size=128, kl_coef=0.01))
  return config
