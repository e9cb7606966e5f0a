"""GRPO, https://arxiv.org/abs/2402.03300: the group is its own baseline.

Settings of the paper: 64 completions of a problem, a KL coefficient of 0.04 in the loss (k3), one
update of each rollout. Expected on this test bed: from 38% of samples right to 93%.

    rlreason train --config=experiments/methods/grpo.py --workdir=runs/grpo
"""

import bands
import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(presets.grpo(minibatch_size=128, kl_coef=0.01))
  bands.expect(config, "GRPO", "methods/grpo", start)
  return config
