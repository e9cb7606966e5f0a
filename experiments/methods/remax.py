"""ReMax, https://arxiv.org/abs/2310.10505: the score of the greedy completion is the baseline.

    rlreason train --config=experiments/methods/remax.py --workdir=runs/remax

Settings of the paper: one completion of a prompt besides the greedy one, the KL in the reward of
each token. Here there are 8 of each. Expected on this test bed: from 38% of samples right to 90%.
"""

import bands
import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(presets.remax(minibatch_size=128, kl_coef=0.01))
  bands.expect(config, "ReMax", "methods/remax", start)
  return config
