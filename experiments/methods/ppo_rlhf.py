"""PPO as for RLHF, https://arxiv.org/abs/1909.08593 and https://arxiv.org/abs/2203.02155.

    rlreason train --config=experiments/methods/ppo_rlhf.py --workdir=runs/ppo_rlhf

What changes results (https://arxiv.org/abs/2403.17031): rewards scaled without their mean,
advantages whitened, a KL coefficient that follows a target, several epochs, a low score for what
does not end. The reward is a verifier's here; `critic_path` starts the critic from a reward model.
"""

import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(
      presets.ppo_rlhf(
          epochs=2, minibatch_size=64, kl_coef=0.02, kl_target=2.0, kl_horizon=2000.0,
          value_coef=0.5, critic_warmup_steps=4),
      num_prompts=128, group_size=1,
      rewards=dict(
          verifier=dict(weight=1.0),
          unfinished=dict(weight=1.0, options=dict(max_length=beds.NEW_TOKENS))))
  return config
