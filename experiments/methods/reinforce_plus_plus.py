"""REINFORCE++, https://arxiv.org/abs/2501.03262: no critic and no group, normalised over the batch.

    rlreason train --config=experiments/methods/reinforce_plus_plus.py --workdir=runs/rpp
"""

import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(presets.reinforce_plus_plus(minibatch_size=128))
  return config
