"""Satori, https://arxiv.org/abs/2502.02508: restart from the middle of attempts, and explore.

    rlreason train --config=experiments/methods/satori.py --workdir=runs/satori

Format tuning on steps that begin with a meta-action (continue, reflect, explore); then PPO on
problems and on beginnings of right and of wrong attempts, after which `reflect` is put. An attempt
that was wrong and ends right is paid a bonus of 0.5, and the reverse costs it. Settings of the
paper: 10,000 demonstrations, KL 0, T = 0.6, the last t <= T steps taken back, then all of it again
from the distilled policy. There the reward has a learned part as well (the sigmoid of an outcome
reward model), which this recipe leaves out.
"""

import beds

from rlreason.algorithms import presets
from rlreason.data import restarts
from rlreason.slots import Slot

VERDICT = dict(verifier=dict(weight=0.0), restart=dict(weight=1.0, options=dict(bonus=0.5)))


def get_config(start=""):
  config = beds.chain(start)
  config.task.problems.update(meta=True, slip=0.2)
  config.prompt_buckets = (beds.PROMPT_TOKENS, beds.PROMPT_TOKENS + beds.NEW_TOKENS)
  config.attempts = dict(
      kind="sample", steps=8, num_prompts=64, group_size=8, start="previous",
      sampling=dict(max_new_tokens=beds.NEW_TOKENS), rewards=dict(verifier=dict(weight=1.0)))
  config.restarts = dict(
      kind="select", inputs=("attempts",), select=Slot(
          restarts.restart_prompts, {"seed": 0, "max_back": 3, "marker": "reflect"}))
  config.rl = beds.rl(
      presets.satori(minibatch_size=64, critic_warmup_steps=4, value_coef=0.5),
      num_prompts=128, group_size=1, problems="stage:restarts", rewards=VERDICT,
      optimizer=dict(learning_rate=3e-4, critic_learning_rate=1e-3))
  config.stages = (*config.stages[:-1], "attempts", "restarts", "rl")
  return config
