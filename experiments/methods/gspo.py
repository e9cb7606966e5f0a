"""GSPO, https://arxiv.org/abs/2507.18071: one importance ratio for a whole completion.

Settings of the paper: clipped at 1 - 3e-4 and 1 + 4e-4, four minibatches of a rollout, no KL. The
ratio matters only after the first minibatch. Expected on this test bed: from 38% of samples right
to 89%.

    rlreason train --config=experiments/methods/gspo.py --workdir=runs/gspo
"""

import bands
import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(presets.gspo(minibatch_size=32))
  bands.expect(config, "GSPO", "methods/gspo", start)
  return config
