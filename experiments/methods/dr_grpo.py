"""Dr. GRPO, https://arxiv.org/abs/2503.20783: GRPO without the two divisions that bias it.

Settings of the paper: 8 completions of a problem, 128 in an update, 3000 tokens, no KL. Expected:
the reward of GRPO, with shorter wrong answers; on this test bed 91%, and shorter by a token.

    rlreason train --config=experiments/methods/dr_grpo.py --workdir=runs/dr_grpo
"""

import bands
import beds

from rlreason.algorithms import presets


def get_config(start=""):
  config = beds.chain(start)
  config.rl = beds.rl(presets.dr_grpo(max_length=beds.NEW_TOKENS, minibatch_size=128))
  bands.expect(config, "Dr. GRPO", "methods/dr_grpo", start)
  return config
