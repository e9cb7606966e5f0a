"""The test beds shared by the recipes of this folder: initial model, task and sizes."""

import dataclasses

from ml_collections import config_dict

from rlreason.algorithms import PolicyGradientConfig

NEW_TOKENS = 48  # a chain of five steps takes 34, and each step taken back 7 more
PROMPT_TOKENS = 13


def chain(start: str = "") -> config_dict.ConfigDict:
  """Chains of 2 to 5 operations modulo 10, for a model of 0.4M parameters.

  The supervised stage demonstrates steps with errors: three solutions in ten are wrong and three in
  ten box nothing, so that four samples in ten are right, which leaves room for improvement.

  Args:
    start: a folder with the model to start RL from; empty for the supervised stage before it.
  """
  config = config_dict.ConfigDict()
  config.seed = 0
  config.model = dict(
      kind="new", width=128, num_layers=2, num_heads=4, num_kv_heads=4, head_dim=32, mlp_width=384,
      unroll=2)
  config.task = dict(kind="chain", problems=dict(
      min_steps=2, max_steps=5, slip=0.1, mistakes=0.3, messy=0.3))
  config.prompt_buckets = (PROMPT_TOKENS,)
  config.parallel = dict(cpu_devices=2)  # a rollout of so small a model leaves one core idle
  config.stages = ("sft", "rl")
  config.sft = dict(
      kind="sft", steps=700, batch_size=16, length=128, num_examples=50_000,
      optimizer=dict(learning_rate=3e-3, warmup_steps=50, schedule="cosine", weight_decay=0.01))
  config.evaluation = dict(
      split="test", num_problems=200, batch_size=200, max_new_tokens=NEW_TOKENS,
      num_samples=8)
  config.checkpoint = dict(every_steps=100, max_to_keep=1)
  if start:
    config.model = dict(kind="pretrained", path=start, unroll=2)
    config.stages = ("rl",)
    del config.sft
  return config


def rl(algorithm: PolicyGradientConfig, **changes) -> dict:
  """The RL stage on `chain`: 16 problems, 8 completions of each.

  Args:
    algorithm: of `presets`. Prompts of 13 tokens are too short to be worth sharing; passes of 32
      rows stay in the cache of a CPU.
    **changes: to the fields of the stage.
  """
  algorithm = dataclasses.replace(
      algorithm, share_prompts=False, micro_batch_size=algorithm.micro_batch_size or 32)
  return dict(
      kind="rl", steps=40, num_prompts=16, group_size=8,
      sampling=dict(max_new_tokens=NEW_TOKENS, temperature=1.0),
      rewards=dict(verifier=dict(weight=1.0)),
      algorithm=algorithm, optimizer=dict(learning_rate=3e-4)) | changes


def small_chain() -> config_dict.ConfigDict:
  """`chain` for a student of a third of the parameters, with a short supervised stage."""
  config = chain()
  config.model.update(width=80, head_dim=20, mlp_width=208)
  config.sft.steps = 150
  return config
