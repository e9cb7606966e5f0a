"""Methods that differ from GRPO in one slot and in nothing else; the argument names the preset.

    rlreason train --config=experiments/methods/variants.py:cispo --workdir=runs/cispo

cispo (https://arxiv.org/abs/2506.13585), opo (https://arxiv.org/abs/2505.23585), pass_at_k
(https://arxiv.org/abs/2508.10751), clip_cov and kl_cov (https://arxiv.org/abs/2505.22617),
reinforce_plus_plus_baseline (https://arxiv.org/abs/2501.03262). A model to start from follows after
a comma.

Settings of the papers: cispo bounds the ratio from above alone; opo updates once for each rollout,
without KL or entropy; pass_at_k pays 4 completions together; clip_cov keeps 0.02% of the tokens, of
covariances from 1 to 5, from learning, kl_cov penalises the 0.2% of the highest. Expected on this
bed, from 38% of samples right: 79%, 94%, 81%, 83%, 89% and 93%.
"""

import beds

from rlreason.algorithms import presets

PRESETS = {
    "cispo": lambda: presets.cispo(minibatch_size=32),
    "opo": lambda: presets.opo(minibatch_size=128),
    "pass_at_k": lambda: presets.pass_at_k(k=4, minibatch_size=128),
    "clip_cov": lambda: presets.clip_cov(minibatch_size=32),
    "kl_cov": lambda: presets.kl_cov(minibatch_size=32),
    "reinforce_plus_plus_baseline": lambda: presets.reinforce_plus_plus_baseline(
        minibatch_size=128)}


def get_config(argument="cispo"):
  name, _, start = argument.partition(",")
  if name not in PRESETS:
    raise ValueError(f"variants.py: got {name!r}, allowed: {', '.join(PRESETS)}")
  config = beds.chain(start)
  config.rl = beds.rl(PRESETS[name]())
  return config
