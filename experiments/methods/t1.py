"""T1, https://arxiv.org/abs/2501.11651: a high temperature and a KL to a moving reference.

    rlreason train --config=experiments/methods/t1.py --workdir=runs/t1

Settings of the paper: T = 1.2, 64 completions of a problem, leave-one-out baseline, an entropy
bonus, a KL that is normalised like the reward, a reference that is a moving average of the policy,
-1 for repeated n-grams and for unfinished completions. The paper does not give the decay of the
average and the weights; those here are our own. Expected: closer to the moving reference than to a
fixed one, and 1.2 better than 0.6 and 2; on this test bed 93% against 81% and 39%.
"""

import bands
import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(
      presets.t1(minibatch_size=128, reference_decay=0.95),
      num_prompts=8, group_size=16,
      sampling=dict(max_new_tokens=beds.NEW_TOKENS, temperature=1.2),
      rewards=dict(
          verifier=dict(weight=1.0),
          repetition=dict(weight=1.0, options=dict(n=4, most=2)),
          unfinished=dict(weight=1.0, options=dict(max_length=beds.NEW_TOKENS))))
  bands.expect(config, "T1", "methods/t1", start)
  return config
