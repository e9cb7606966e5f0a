r"""Return-conditioned RL, https://arxiv.org/abs/2403.04642: labelled samples, then asked for GOOD.

    rlreason train --config=experiments/methods/return_conditioned.py --workdir=runs/rcrl

The policy is fine-tuned on its own samples, labelled GOOD if right and BAD if wrong; every fourth
has no label, for comparison. The evaluation asks with GOOD. The same model asked with BAD, or with
nothing:

    rlreason evaluate --config=experiments/methods/return_conditioned.py \
        --model=runs/rcrl/models/conditioned --config.evaluation.prompt_suffix=" BAD"

Differs from the settings of the paper: there each step has a label, from a reward model, and all
samples have one. Expected: GOOD above no label above BAD; on this test bed 84%, 40% and 20%.
"""

import beds

from rlreason.data.selections import completions
from rlreason.slots import Slot


def get_config(start=""):
  config = beds.chain(start)
  config.task.problems.extra_words = ("GOOD", "BAD")
  config.prompt_buckets = (beds.PROMPT_TOKENS + 1,)
  config.samples = dict(
      kind="sample", steps=16, num_prompts=64, group_size=8,
      sampling=dict(max_new_tokens=beds.NEW_TOKENS), rewards=dict(verifier=dict(weight=1.0)))
  config.labelled = dict(
      kind="select", inputs=("samples",), select=Slot(
          completions.labelled_completions,
          {"good": " GOOD", "bad": " BAD", "unlabelled_every": 4}))
  config.conditioned = dict(
      kind="sft", steps=1000, batch_size=16, length=128, examples="stage:labelled",
      optimizer=dict(learning_rate=1e-3, warmup_steps=10, schedule="cosine"))
  config.evaluation.prompt_suffix = " GOOD"
  config.stages = (*config.stages[:-1], "samples", "labelled", "conditioned")
  return config
