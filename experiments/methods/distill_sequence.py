r"""Sequence-level distillation: the student is fine-tuned on the teacher's right completions.

    rlreason train --config=experiments/methods/distill_sequence.py:runs/grpo/models/rl \
        --workdir=runs/student

As DeepSeek-R1 trains its small models, https://arxiv.org/abs/2501.12948: 800,000 completions of the
teacher accepted by a verifier, two epochs, no RL. The argument is the teacher, or a file of
existing completions, such as r1.py's `runs/r1/data/kept.jsonl`.
Expected: better than RL of the student at equal tokens; on this test bed 60% against 11% with
`--config.student.steps=600`, no better with 150.
"""

import beds

from rlreason.data.selections import completions
from rlreason.slots import Slot


def get_config(teacher):
  is_data = teacher.endswith(".jsonl")
  config = beds.small_chain()
  config.student = dict(
      kind="sft", steps=150, batch_size=16, length=128,
      examples=teacher if is_data else "stage:right",
      optimizer=dict(learning_rate=3e-3, warmup_steps=50, schedule="cosine"))
  config.stages = ("student",)
  if is_data:
    return config
  config.samples = dict(
      kind="sample", steps=16, num_prompts=64, group_size=4, model=teacher,
      sampling=dict(max_new_tokens=beds.NEW_TOKENS), rewards=dict(verifier=dict(weight=1.0)))
  config.right = dict(
      kind="select", inputs=("samples",), select=Slot(
          completions.right_completions, {"max_per_question": 4}))
  config.stages = ("samples", "right", *config.stages)
  return config
