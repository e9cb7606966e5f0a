"""Math-Shepherd, https://arxiv.org/abs/2312.08935: labels of steps without people, a PRM, and RL.

    rlreason train --config=experiments/methods/process_reward.py --workdir=runs/process_reward

1. sft: demonstrations, three in ten with a wrong step;
2. samples, labels: completions of that policy, and for each of their steps the share of 8
   completions from there on that reach the answer. A prefix is computed once for all of them;
   `labels/tokens_computed` beside `labels/tokens_naive` says what that saves;
3. prm: a process reward model on these labels. `process_reward/held_out/auc` and
   `plots/calibration_prm.png` say how good it is on problems that it was not trained on;
4. rl: beside the verifier it pays at the end of each step the difference to its score of the step
   before.

The argument is the search for labels: `every_step`, `first_error` (binary search: fewer tokens,
labels up to the first error) or `omega_tree` (OmegaPRM, https://arxiv.org/abs/2406.06592). Settings
of the paper: 8 completions, hard labels, PPO with a KL of 0.04 on the PRM alone. The sum of step
scores is no choice: it pays for steps, and the policy would pad.

Expected, of one seed: soft labels rank prefixes that lead to the answer above others with an AUC of
0.97, hard ones 0.88; the tokens computed are 0.37 of those of the naive way, and 0.26 of them with
`first_error` (chains of 2 to 5 steps are short for a binary search); the small PRM has an AUC of
0.70 on held-out steps; accuracy of the rollouts rises from 0.34 to 0.86. Paid by a PRM of soft
labels alone (AUC 0.65), the policy exploits it: the reward rose from 0.41 to 0.60, and accuracy
fell from 0.43 to 0.03. A learned reward without the verifier needs a better model, or a KL.
"""

import beds

from rlreason.algorithms import presets
from rlreason.rollout import step_labels
from rlreason.slots import Slot

SEARCHES = {
    "every_step": Slot(step_labels.every_step, {"labels": "hard"}),
    "first_error": Slot(step_labels.first_error),
    "omega_tree": Slot(step_labels.omega_tree)}
STEP_END = ";"


def get_config(search="every_step"):
  if search not in SEARCHES:
    raise ValueError(f"search: got {search!r}, allowed: {', '.join(SEARCHES)}")
  config = beds.chain()
  sampling = dict(max_new_tokens=beds.NEW_TOKENS)
  config.samples = dict(
      kind="sample", steps=8, num_prompts=64, group_size=4, sampling=sampling,
      rewards=dict(verifier=dict(weight=1.0)))
  config.labels = dict(
      kind="label_steps", steps=16, num_prompts=64, num_completions=8, examples="stage:samples",
      step_separator=STEP_END, search=SEARCHES[search], sampling=sampling,
      rewards=dict(verifier=dict(weight=1.0)))
  config.prm = dict(
      kind="process_reward", steps=300, batch_size=32, completion_length=beds.NEW_TOKENS,
      examples="stage:labels", step_separator=STEP_END,
      optimizer=dict(learning_rate=1e-3, warmup_steps=10, schedule="cosine"))
  config.rl = beds.rl(
      presets.dr_grpo(max_length=beds.NEW_TOKENS, minibatch_size=128),
      process_model="stage:prm", rewards=dict(
          process=dict(weight=0.5, step_separator=STEP_END), verifier=dict(weight=1.0)))
  config.stages = (*config.stages[:-1], "samples", "labels", "prm", "rl")
  return config
