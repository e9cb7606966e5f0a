"""LaTRO, https://arxiv.org/abs/2411.04282: rewards reasoning that makes the answer likely.

    rlreason train --config=experiments/methods/latro.py --workdir=runs/latro

There is no verifier. Settings of the paper: 16 completions of a problem of up to 500 tokens, T = 1,
48 problems in a batch, learning rate 5e-7, a KL of 0.05 (GSM8K) or 0.25 (ARC), the sum over the
answer's tokens as the reward, twice the mean for unfinished completions. Expected: answers become
more likely and accuracy rises without a verifier; on this test bed from 38% to 85%, to 74% without
the second term.
"""

import bands
import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(
      presets.latro(minibatch_size=128), answer_template="\\boxed{ {answer} }",
      rewards=dict(verifier=dict(weight=0.0)))  # only logged
  bands.expect(config, "LaTRO", "methods/latro", start)
  return config
