"""LaTRO, https://arxiv.org/abs/2411.04282: reasoning that makes the answer likely, no verifier.

    rlreason train --config=experiments/methods/latro.py --workdir=runs/latro
"""

import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(
      presets.latro(minibatch_size=128), answer_template="\\boxed{ {answer} }",
      rewards=dict(verifier=dict(weight=0.0)))  # only looked at
  return config
