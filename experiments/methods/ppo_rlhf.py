"""RLHF, https://arxiv.org/abs/1909.08593 and https://arxiv.org/abs/2203.02155: SFT, RM, PPO.

    rlreason train --config=experiments/methods/ppo_rlhf.py --workdir=runs/ppo_rlhf

1. sft: demonstrations;
2. samples, pairs: completions of that policy, compared. Here a verifier gives the preferences,
   whereas the papers ask people; your own preferences are a file of {prompt, chosen, rejected},
   named in `--config.reward_model.examples`;
3. reward_model: Bradley-Terry on the pairs, scores of mean 0 and variance 1;
4. rl: PPO with the reward model as the only reward. The verifier's verdict is only logged: if
   `reward/learned/mean` rises and `rollout/accuracy` does not, the policy exploits an error of it.

Details that change results (https://arxiv.org/abs/2403.17031): rewards scaled without subtracting
their mean, advantages whitened, a KL coefficient adapted to a target, several epochs, -1 instead of
the score for unfinished completions. A critic can start from the reward model:
`--config.rl.algorithm.critic=separate --config.rl.critic_path=stage:reward_model`. Settings of the
papers: four epochs, λ 0.95, clip 0.2, a KL of 0.15 towards 6 nats over a horizon of 10,000, value
loss 0.1, learning rate 1e-5 falling to 0. Their Adam adds ε before the bias correction; this one
after. Expected: the learned reward rises, and accuracy with it as far as the reward model is right;
on this test bed that is 3 points in one seed of three.
"""

import bands
import beds

from rlreason.algorithms import presets
from rlreason.data.selections import pairs
from rlreason.slots import Slot


def get_config(start=""):
  config = beds.chain(start)
  config.samples = dict(
      kind="sample", steps=16, num_prompts=64, group_size=8,
      sampling=dict(max_new_tokens=beds.NEW_TOKENS), rewards=dict(verifier=dict(weight=1.0)))
  config.pairs = dict(
      kind="select", inputs=("samples",), select=Slot(
          pairs.preference_pairs, {"max_per_question": 4}))
  config.reward_model = dict(
      kind="reward_model", steps=300, batch_size=32, completion_length=beds.NEW_TOKENS,
      examples="stage:pairs",
      optimizer=dict(learning_rate=1e-3, warmup_steps=10, schedule="cosine"))
  config.rl = beds.rl(
      presets.ppo_rlhf(
          epochs=2, minibatch_size=64, kl_coef=0.1, kl_target=4.0, kl_horizon=2000.0,
          value_coef=0.5, critic_warmup_steps=4),
      num_prompts=128, group_size=1, reward_model="stage:reward_model",
      rewards=dict(
          learned=dict(weight=1.0, options=dict(unfinished_score=-1.0)),
          verifier=dict(weight=0.0)),
      optimizer=dict(learning_rate=1e-4))
  config.stages = (*config.stages[:-1], "samples", "pairs", "reward_model", "rl")
  bands.expect(config, "PPO of RLHF", "methods/ppo_rlhf", start)
  return config
