"""VAPO, https://arxiv.org/abs/2504.05118: PPO whose critic learns first and from whole returns.

    rlreason train --config=experiments/methods/vapo.py --workdir=runs/vapo

Settings of the paper: 50 steps in which only the critic learns, its λ is 1, the policy's is
1 - 1 / (0.05 length), clips 0.2 and 0.28, token mean, 0.1 times the likelihood of right
completions, 512 problems of 16. Here the critic is trained alone for 10 steps, and α is 0.5: with
0.05, λ would be 0 for all completions of 20 tokens or fewer. Expected on this test bed: from 38% of
samples right to 87%.
"""

import bands
import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(
      presets.vapo(
          minibatch_size=32, critic_warmup_steps=10, length_adaptive_alpha=0.5, value_coef=0.5),
      steps=50, optimizer=dict(learning_rate=3e-4, critic_learning_rate=1e-3))
  bands.expect(config, "VAPO", "methods/vapo", start)
  return config
