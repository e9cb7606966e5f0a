"""RLOO, https://arxiv.org/abs/2402.14740: REINFORCE with the other completions as the baseline.

    rlreason train --config=experiments/methods/rloo.py --workdir=runs/rloo

Settings of the paper: 2 or 4 completions of a prompt, the KL in their score, one update of each
rollout. Expected on this test bed: from 38% of samples right to 93%, and a variance of the gradient
that falls with the number of completions.
"""

import bands
import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(presets.rloo(minibatch_size=128, kl_coef=0.01))
  bands.expect(config, "RLOO", "methods/rloo", start)
  return config
