"""One-example RLVR, https://arxiv.org/abs/2504.20571: one problem is enough to learn from.

    rlreason train --config=experiments/methods/one_example.py --workdir=runs/one_example

The first run trains on a pool of problems and records how often each was answered right; the
problem whose accuracy varied most is then the only one of a second run from the initial policy.
Settings of the paper: 1209 problems for 500 steps, then one for 2000; 128 copies of 8 completions,
8 updates of each rollout, T = 0.6, KL 0.001, an entropy bonus of 0.001. Expected: training accuracy
soon reaches 100%, and the accuracy on other problems continues to rise; on this test bed from 38%
to 49% on average over three seeds, one of which lost a point. The control is a reward for boxes
alone: `--config.rl.rewards.verifier.weight=0 --config.rl.rewards.format.weight=1`.
"""

import bands
import beds

from rlreason.algorithms import presets
from rlreason.data.selections import problems
from rlreason.slots import Slot

POOL = 64  # problems


def get_config(start=""):
  config = beds.chain(start)
  config.task.problems.num_train = POOL
  algorithm = presets.one_example(minibatch_size=128)
  sampling = dict(max_new_tokens=beds.NEW_TOKENS, temperature=0.6)
  optimizer = dict(learning_rate=1e-4)  # at 3e-4 other problems get worse
  config.pool = beds.rl(algorithm, steps=15, sampling=sampling, writes_accuracy=True)
  config.choose = dict(
      kind="select", inputs=("pool",), select=Slot(problems.most_variable, {"count": 1}))
  config.rl = beds.rl(
      algorithm, steps=60, start="initial" if start else "sft", problems="stage:choose",
      sampling=sampling, optimizer=optimizer,
      rewards=dict(verifier=dict(weight=1.0), format=dict(weight=0.0)))
  config.stages = (*config.stages[:-1], "pool", "choose", "rl")
  bands.expect(config, "one example", "methods/one_example", start)
  return config
