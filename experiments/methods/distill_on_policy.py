r"""On-policy distillation (GKD), https://arxiv.org/abs/2306.13649: the teacher grades each token.

    rlreason train --config=experiments/methods/distill_on_policy.py:runs/grpo/models/rl \
        --workdir=runs/student

The student samples, and the reverse KL moves its next-token distributions towards the teacher's;
`--config.student.distill.divergence.function=rlreason.losses:forward_kl` and
`rlreason.losses:generalized_jsd` are the alternatives. Before that the student learns the task's
format from demonstrations. The argument is the teacher, which must share the vocabulary. Settings
of the paper: all samples the student's own, or half; T = 1; forward, reverse and Jensen-Shannon (β
0.1, 0.5, 0.9). Expected: better than RL of the student at equal tokens; on this test bed by 0 to 7
points.
"""

import beds

from rlreason import losses
from rlreason.algorithms import DistillConfig
from rlreason.slots import Slot


def get_config(teacher):
  config = beds.small_chain()
  config.student = dict(
      kind="distill", steps=150, teacher=teacher, num_prompts=64,
      sampling=dict(max_new_tokens=beds.NEW_TOKENS),
      distill=DistillConfig(divergence=Slot(losses.reverse_kl), micro_batch_size=32),
      optimizer=dict(learning_rate=1e-3))
  config.stages = ("sft", "student")
  return config
