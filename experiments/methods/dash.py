"""DASH, https://arxiv.org/abs/2505.17218: sample all at once, train on what differs.

Settings of the paper: 4 completions of a problem, 32 micro-batches of 4, T = 0.9, |A| above 0.1, a
KL of 0.04. Here T is 1 and there is no KL, the paper's "No-KL", because filtered completions would
lose their KL too. A rollout here is always of a whole step: one call of the sampler regardless of
the number of micro-batches in the update. Completions whose advantage is within the threshold are
not processed by the network. `advantage_threshold_normalizer` selects whether they count in the
mean ("all": without a KL or an entropy bonus the same gradient as without the filter) or not
("kept", as in the released code).
Expected: GRPO's accuracy with fewer completions in the network; on this test bed 94% from half of
them.

    rlreason train --config=experiments/methods/dash.py --workdir=runs/dash
"""

import bands
import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(presets.dash(minibatch_size=128, micro_batch_size=16, kl_coef=0.0))
  bands.expect(config, "DASH", "methods/dash", start)
  return config
