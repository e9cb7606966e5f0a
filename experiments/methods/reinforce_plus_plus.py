"""REINFORCE++, https://arxiv.org/abs/2501.03262: no critic and no group, normalised over the batch.

    rlreason train --config=experiments/methods/reinforce_plus_plus.py --workdir=runs/rpp

Settings of the paper: clip 0.2, γ 1, a KL (k1) of 0.01 in the reward of each token, advantages
whitened over the batch. Expected on this test bed: from 38% of samples right to 93%.
"""

import bands
import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(presets.reinforce_plus_plus(minibatch_size=128))
  bands.expect(config, "REINFORCE++", "methods/reinforce_plus_plus", start)
  return config
