"""The pipeline of DeepSeek-R1, https://arxiv.org/abs/2501.12948, stage by stage.

    rlreason train --config=experiments/methods/r1.py --workdir=runs/r1

1. cold start: few demonstrations in a clean format;
2. rl: GRPO, rewards for right answers, boxes, and a single language;
3. samples, clean, kept: completions of that policy, filtered to those in one language and not too
   long, and then to the right ones;
4. sft: the *initial* model on these;
5. final: GRPO on all scenarios (here one: the rewards of the last stage may differ).

The sixth step, smaller models trained on the data of the third, uses another model and therefore a
separate command: distill_sequence.py:runs/r1/data/kept.jsonl. Settings of the paper: thousands of
demonstrations, a clip of 10 in the first RL stage, completions without mixed languages, code or
long paragraphs, of which 600,000 + 200,000 were kept, two epochs. Its reward models for helpfulness
and harmlessness are not used here. Expected on this test bed: from 38% to 94%.
"""

import bands
import beds

from rlreason import losses
from rlreason.algorithms import presets
from rlreason.data.selections import completions
from rlreason.slots import Slot

REWARDS = dict(
    verifier=dict(weight=1.0), format=dict(weight=0.2),
    language=dict(weight=0.1, options=dict(alphabet="latin")))


def get_config(start=""):
  config = beds.chain(start)
  if not start:
    config.sft.name = "pretraining"
    config.pretraining = config.sft
    del config.sft
  config.cold_start = dict(
      kind="sft", steps=60, batch_size=16, length=128, num_examples=1000,
      optimizer=dict(learning_rate=5e-4, warmup_steps=10))
  clip = Slot(losses.clipped_surrogate, {"clip_low": 1.0, "clip_high": 10.0})
  config.rl = beds.rl(
      presets.r1_zero(minibatch_size=128, policy_loss=clip), steps=25, rewards=REWARDS)
  config.samples = dict(
      kind="sample", steps=8, num_prompts=64, group_size=8,
      sampling=dict(max_new_tokens=beds.NEW_TOKENS), rewards=REWARDS)
  config.clean = dict(
      kind="select", inputs=("samples",), select=Slot(
          completions.clean_completions, {
              "allow_code": False, "max_tokens": 40, "min_rewards": {"language": 1.0}}))
  config.kept = dict(
      kind="select", inputs=("clean",), select=Slot(
          completions.right_completions, {"max_per_question": 4}))
  config.sft = dict(
      kind="sft", steps=150, batch_size=16, length=128, examples="stage:kept",
      start="initial" if start else "pretraining",
      optimizer=dict(learning_rate=1e-3, warmup_steps=10, schedule="cosine"))
  config.final = beds.rl(presets.r1_zero(minibatch_size=128), steps=15, rewards=REWARDS)
  first = () if start else ("pretraining",)
  config.stages = (*first, "cold_start", "rl", "samples", "clean", "kept", "sft", "final")
  bands.expect(config, "R1", "methods/r1", start)
  return config
