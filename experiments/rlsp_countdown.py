"""RLSP on Countdown, from a randomly initialised model: the embedded default of `make train`.

A 0.9M-parameter model learns from demonstrations of search, most of which give up too early
(stage 1, SFT); PPO with an outcome verifier and an exploration reward then teaches it to continue
searching and to choose better (stage 2). The method is RLSP, https://arxiv.org/abs/2502.06773.

    make train                                               # both stages, on 2 CPU cores
    make train ARGS="--config.seed=1 --workdir=runs/seed1"   # another seed

Controls start from a finished first stage, named after the colon, and run only the second:

    CONFIG=experiments/rlsp_countdown.py:runs/seed1/models/sft
    verifier only       --config.rl.rewards.exploration.weight=0
    exploration only    --config.rl.rewards.verifier.weight=0
    random reward       the above, and --config.rl.rewards.exploration.weight=0
                        --config.rl.rewards.random.weight=1
    giving up blocked   rlreason evaluate --model=runs/seed1/models/sft
                        --config.evaluation.blocked_words="((('lower','higher'),('answer',)),)"

Hardware, time and results with their controls: docs/results.md. The settings were chosen on the
validation split (`--config.evaluation.split=validation`), not on the problems of the results.
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
      kind="new", width=128, num_layers=4, num_heads=4, num_kv_heads=4, head_dim=32, mlp_width=384,
      remat="dots")  # on the CPU recomputing is faster than reading back
  config.task = dict(kind="countdown", problems=dict(
      num_numbers=3, max_number=12, max_target=50,
      give_up=0.6,  # most searches end too early, but all lengths occur
      restart=0.3))
  config.prompt_buckets = (6,)  # three numbers, `target`, a number and `:`
  config.parallel = dict(cpu_devices=2)  # a rollout of so small a model leaves one core idle
  config.stages = ("sft", "rl")

  config.sft = dict(
      kind="sft", steps=2000, batch_size=8, length=128, num_examples=60_000,
      # Comparing with the target is one token in ten and the hardest to learn.
      token_weights=dict(lower=4.0, higher=4.0, equal=4.0),
      optimizer=dict(learning_rate=2e-3, warmup_steps=100, schedule="cosine", weight_decay=0.01))

  config.optimizer = dict(learning_rate=2.5e-4)
  config.rl = dict(
      kind="rl", steps=100, num_prompts=256, group_size=1,
      min_reasoning_tokens=11,  # tokens of one try
      sampling=dict(max_new_tokens=96, temperature=1.0),
      rewards=dict(
          # A search that runs out of tokens is as wrong as a wrong answer, not worse: a penalty for
          # it would be a penalty for searching.
          verifier=dict(weight=1.0, options=dict(which_box="first", no_box_score=0.0)),
          exploration=dict(weight=1.0, options=dict(c=4.0, unit="tokens")),
          random=dict(weight=0.0)),
      algorithm=dict(
          minibatch_size=64, micro_batch_size=32, kl_coef=0.0025, value_coef=0.5,
          critic_warmup_steps=4, gae_lambda=0.95),
      optimizer=config.optimizer)
  config.rl.optimizer = config.optimizer

  config.evaluation = dict(
      split="test", num_problems=500, batch_size=250, max_new_tokens=96, num_samples=8,
      which_box="first")
  config.evaluation.expected = dict(
      metric="greedy", recipe="rlsp_countdown",
      points=dict(start=(0.0, 0.0076), sft=(0.054, 0.136), rl=(0.356, 0.53)),
      source="3 seeds on 2 cores, docs/results.md")
  config.checkpoint = dict(every_steps=50, max_to_keep=2)
  if start:
    config.model = dict(kind="pretrained", path=start)
    config.stages = ("rl",)
    del config.sft
  return config
