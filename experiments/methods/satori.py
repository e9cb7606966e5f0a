"""Satori, https://arxiv.org/abs/2502.02508: restart from the middle of attempts, and explore.

    rlreason train --config=experiments/methods/satori.py --workdir=runs/satori

Format tuning on steps that begin with a meta-action (continue, reflect, explore); then PPO on
problems and on beginnings of right and of wrong attempts, followed by `reflect`. An attempt that
was wrong and ends right gets a bonus of 0.5, and the reverse a penalty. The sigmoid of an outcome
reward model, trained on pairs of right and wrong attempts, is added. Settings of the paper: 10,000
demonstrations, KL 0, T = 0.6 (here 1), the last t <= T steps taken back, the answer read from the
last 128 characters (here anywhere). Expected: wrong beginnings are corrected more often; on this
test bed 38% to 50% of them, 25% before.

The argument is a model to start from, after a comma the number of rounds (1): after each round but
the last, the first policy is fine-tuned on the right completions of the trained one, and everything
is repeated: `satori.py:,2`.
"""

import beds

from rlreason.algorithms import presets
from rlreason.data.selections import completions, pairs, restarts
from rlreason.slots import Slot

REWARDS = dict(
    verifier=dict(weight=0.0), restart=dict(weight=1.0, options=dict(bonus=0.5)),
    learned=dict(weight=1.0, options=dict(sigmoid=True)))


def get_config(argument=""):
  start, _, rounds = argument.partition(",")
  config = beds.chain(start)
  config.task.problems.update(meta=True, slip=0.2)
  config.prompt_buckets = (beds.PROMPT_TOKENS, beds.PROMPT_TOKENS + beds.NEW_TOKENS)
  stages = list(config.stages[:-1])
  for number in range(1, int(rounds or 1) + 1):
    suffix = "" if number == 1 else str(number)
    if suffix:
      stages += add_distillation(config, suffix, start="initial" if start else "sft")
    stages += add_round(config, suffix)
  config.stages = tuple(stages)
  return config


def add_round(config, suffix: str) -> list[str]:
  """Adds the sections of a round; returns the names of its stages."""
  attempts, orm = f"attempts{suffix}", f"orm{suffix}"
  sections = {
      attempts: sampled(),
      f"restarts{suffix}": dict(
          kind="select", inputs=(attempts,), select=Slot(
              restarts.restart_prompts, {"seed": 0, "max_back": 3, "marker": "reflect"})),
      f"pairs{suffix}": dict(
          kind="select", inputs=(attempts,), select=Slot(
              pairs.preference_pairs, {"max_per_question": 4})),
      orm: dict(
          kind="reward_model", steps=200, batch_size=32, completion_length=beds.NEW_TOKENS,
          examples=f"stage:pairs{suffix}",
          optimizer=dict(learning_rate=1e-3, warmup_steps=10, schedule="cosine")),
      f"rl{suffix}": beds.rl(
          presets.satori(minibatch_size=32, critic_warmup_steps=4, value_coef=0.5),
          num_prompts=64, group_size=1, problems=f"stage:restarts{suffix}",
          reward_model=f"stage:{orm}", rewards=REWARDS,
          optimizer=dict(learning_rate=3e-4, critic_learning_rate=1e-3))}
  config.update(sections)
  return list(sections)


def add_distillation(config, suffix: str, start: str) -> list[str]:
  """Adds the sections that distill the result of the last round into the first policy."""
  sections = {
      f"samples{suffix}": sampled(),
      f"right{suffix}": dict(
          kind="select", inputs=(f"samples{suffix}",), select=Slot(
              completions.right_completions, {"max_per_question": 4})),
      f"sft{suffix}": dict(
          kind="sft", steps=150, batch_size=16, length=128, start=start,
          examples=f"stage:right{suffix}",
          optimizer=dict(learning_rate=1e-3, warmup_steps=10, schedule="cosine"))}
  config.update(sections)
  return list(sections)


def sampled() -> dict:
  """Eight completions of each of 512 problems, by the current policy."""
  return dict(
      kind="sample", steps=8, num_prompts=64, group_size=8,
      sampling=dict(max_new_tokens=beds.NEW_TOKENS), rewards=dict(verifier=dict(weight=1.0)))
