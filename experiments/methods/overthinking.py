r"""Shorter reasoning at the same accuracy: length rewards for groups that are accurate enough.

    rlreason train --config=experiments/methods/overthinking.py:kimi --workdir=runs/overthinking

The argument names the reward: kimi (Kimi k1.5, https://arxiv.org/abs/2501.12599), arora
(https://arxiv.org/abs/2502.04463), l1 (https://arxiv.org/abs/2503.04697), or pairs, which is
preference tuning of the shortest right completion against the longest
(https://arxiv.org/abs/2412.21187); a model to start from follows after a comma. The demonstrations
of this test bed solve each chain up to three times. `min_accuracy` turns the reward on for each
group separately: `--config.rl.rewards.kimi_length.options.min_accuracy=0` is the control. Settings
of the papers: Kimi's reward is warmed up after training without it; α of arora is 0 to 0.4; l1
requests a length in the prompt, α 0.0003. Expected: shorter at the same accuracy; on this test bed
shorter sooner than GRPO alone, which shortens as well, and pairs save a fifth of the tokens.

The accuracy after 30 tokens of reasoning, with a forced answer (s1,
https://arxiv.org/abs/2501.19393):

    rlreason evaluate --config=experiments/methods/overthinking.py \
        --model=runs/overthinking/models/rl --config.evaluation.max_new_tokens=30 \
        --config.evaluation.forced_answer='\boxed{'
"""

import beds

from rlreason import losses
from rlreason.algorithms import PreferenceConfig, presets
from rlreason.data.selections import pairs
from rlreason.slots import Slot

TOKENS = 112  # room for three solutions
REWARDS = {
    "kimi": dict(kimi_length=dict(weight=0.5, options=dict(min_accuracy=0.75))),
    "arora": dict(arora_length=dict(weight=1.0, options=dict(a=0.4, min_accuracy=0.75))),
    "l1": dict(l1_length=dict(weight=1.0, options=dict(target=25, a=0.01, min_accuracy=0.75)))}


def get_config(argument="kimi"):
  name, _, start = argument.partition(",")
  if name not in (*REWARDS, "pairs"):
    raise ValueError(f"overthinking.py: got {name!r}, allowed: {', '.join((*REWARDS, 'pairs'))}")
  config = beds.chain(start)
  config.task.problems.update(rounds=3, mistakes=0.1, slip=0.05, messy=0.0)
  config.evaluation.max_new_tokens = TOKENS
  sampling = dict(max_new_tokens=TOKENS)
  if name != "pairs":
    config.rl = beds.rl(
        presets.grpo(minibatch_size=128, kl_coef=0.0), sampling=sampling,
        rewards=dict(verifier=dict(weight=1.0), **REWARDS[name]))
    return config
  config.samples = dict(
      kind="sample", steps=8, num_prompts=64, group_size=8, sampling=sampling,
      rewards=dict(verifier=dict(weight=1.0)))
  config.pairs = dict(
      kind="select", inputs=("samples",), select=Slot(
          pairs.preference_pairs, {"chosen": "shortest_right", "rejected": "longest"}))
  config.tuned = dict(
      kind="preference", steps=60, batch_size=32, completion_length=TOKENS,
      examples="stage:pairs", optimizer=dict(learning_rate=1e-5), preference=PreferenceConfig(
          loss=Slot(losses.simpo, {"beta": 2.0, "gamma": 0.5}), average_log_probs=True))
  config.stages = (*config.stages[:-1], "samples", "pairs", "tuned")
  return config
