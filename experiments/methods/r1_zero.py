"""DeepSeek-R1-Zero, https://arxiv.org/abs/2501.12948: GRPO, rewards for right answers and boxes.

    rlreason train --config=experiments/methods/r1_zero.py --workdir=runs/r1_zero

Settings of the paper: 16 completions of 32 problems, learning rate 3e-6, KL 0.001, the reference
replaced every 400 steps, rules only. Here the "pretrained" model boxes three answers in ten, the
reward for boxes needs no think tags, and the reference is replaced every 20 steps. Expected: the
share of boxes rises first, then accuracy, to 91%.
"""

import bands
import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  if not start:
    config.task.problems.messy = 0.7
  config.rl = beds.rl(
      presets.r1_zero(minibatch_size=128, reference_every=20),
      rewards=dict(verifier=dict(weight=1.0), format=dict(weight=0.5)))
  bands.expect(config, "R1-Zero", "methods/r1_zero", start)
  return config
