"""DAPO, https://arxiv.org/abs/2503.14476: clip-higher, dynamic sampling, token mean.

    rlreason train --config=experiments/methods/dapo.py --workdir=runs/dapo

Settings of the paper: 512 problems of 16 completions, minibatches of 512, rewards +1 and -1, clips
0.2 and 0.28, 20480 tokens with a growing penalty over the last 4096. Groups that are all right or
all wrong are resampled until the batch is full, in at most 10 rounds as in the released settings:
see `rollout/rounds` and `rollout/zero_variance_groups`.
Expected: no group with zero reward variance; on this test bed from 38% of samples right to 98%, for
three times the tokens.
"""

import bands
import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(
      presets.dapo(minibatch_size=64), max_resample_rounds=10, filter_groups_by="accuracy",
      rewards=dict(
          # +1 and -1, up to a constant, which the group's mean removes.
          verifier=dict(weight=2.0, options=dict(no_box_score=0.0)),
          overlong=dict(weight=1.0, options=dict(max_length=beds.NEW_TOKENS, cache=8))))
  bands.expect(config, "DAPO", "methods/dapo", start)
  return config
