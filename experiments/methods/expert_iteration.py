"""Expert iteration, https://arxiv.org/abs/2403.04642: fine-tune on right samples, and repeat.

    rlreason train --config=experiments/methods/expert_iteration.py --workdir=runs/ei

Each round samples from the last policy, adds the new right completions to those of the rounds
before, up to a maximum per problem, and trains the *first* policy on all of them. STaR
(https://arxiv.org/abs/2203.14465) is one sample of each problem; ReST-EM
(https://arxiv.org/abs/2312.06585) uses only the data of the last round
(`--config.right2.inputs="('samples2',)"`). Settings of the paper: 96 samples at T = 1, 2 to 5
rounds. Expected: about as good as PPO; on this test bed from 38% of samples right to 87%.
"""

import bands
import beds

from rlreason.data.selections import completions
from rlreason.slots import Slot

ROUNDS = 2


def get_config(start=""):
  config = beds.chain(start)
  first = "initial" if start else "sft"
  stages, samples = list(config.stages[:-1]), []
  for number in range(1, ROUNDS + 1):
    samples.append(f"samples{number}")
    config[f"samples{number}"] = dict(
        kind="sample", steps=8, num_prompts=64, group_size=8,
        sampling=dict(max_new_tokens=beds.NEW_TOKENS), rewards=dict(verifier=dict(weight=1.0)))
    config[f"right{number}"] = dict(
        kind="select", inputs=tuple(samples), select=Slot(
            completions.right_completions, {"max_per_question": 4}))
    config[f"sft{number}"] = dict(
        kind="sft", steps=150, batch_size=16, length=128, start=first,
        examples=f"stage:right{number}",
        optimizer=dict(learning_rate=1e-3, warmup_steps=10, schedule="cosine"))
    stages += [f"samples{number}", f"right{number}", f"sft{number}"]
  config.stages = tuple(stages)
  bands.expect(config, "expert iteration", "methods/expert_iteration", start)
  return config
