"""DASH, https://arxiv.org/abs/2505.17218: sample all at once, drop what is useless.

Settings of the paper: 4 completions of a problem, 32 micro-batches of 4, T = 0.9, |A| above 0.1.
A rollout here is always of a whole step: one call of the sampler however many micro-batches the
update has. Completions whose advantage is within the threshold never enter the network.
`drop_normalizer` says whether they count in the mean ("all": the same gradient as without the
filter) or not ("kept", as the released code has it).

    rlreason train --config=experiments/methods/dash.py --workdir=runs/dash
"""

import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(presets.dash(minibatch_size=128, micro_batch_size=16))
  return config
