r"""On-policy distillation as a policy gradient: the teacher's log-prob is each token's reward.

    rlreason train --config=experiments/methods/distill_policy_gradient.py:runs/grpo/models/rl \
        --workdir=runs/student

https://thinkingmachines.ai/blog/on-policy-distillation; it estimates the reverse KL of
`distill_on_policy.py` (https://arxiv.org/abs/2306.13649) from the sampled tokens alone: the teacher
only computes their log-probs, not distributions. The student first learns the task's format from
demonstrations. The argument is the teacher, which must share the vocabulary.
Settings of papers: an immediate reward of weight 1 and no reward of the task. Expected: the KL to
the teacher (`policy/kl`) falls, on this test bed from 1.4 to 0.8 nats per token, too little for
accuracy to rise (11%, one seed); the exact distributions of `distill_on_policy.py` need fewer
samples.
"""

import beds

from rlreason.algorithms import presets


def get_config(teacher):
  config = beds.small_chain()
  config.student = beds.rl(
      presets.on_policy_distillation(minibatch_size=128), steps=150, reference_path=teacher,
      rewards=dict(verifier=dict(weight=0.0)),  # only logged
      optimizer=dict(learning_rate=1e-3))
  config.stages = ("sft", "student")
  return config
