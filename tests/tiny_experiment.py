"""A run of a few steps on a model of a few thousand parameters, for tests of whole commands."""

from ml_collections import config_dict


def get_config():
  config = config_dict.ConfigDict()
  config.seed = 0
  config.model = dict(
      kind="new", width=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, mlp_width=64)
  config.task = dict(kind="countdown", problems=dict(num_numbers=3))
  config.prompt_buckets = (8,)
  config.stages = ("sft", "rl")
  config.sft = dict(
      kind="sft", steps=2, batch_size=8, length=128, num_examples=50,
      optimizer=dict(learning_rate=1e-3))
  config.optimizer = dict(learning_rate=1e-3)
  config.rl = dict(
      kind="rl", steps=40, num_prompts=8, min_reasoning_tokens=11,
      sampling=dict(max_new_tokens=24),
      rewards=dict(
          verifier=dict(weight=1.0, options=dict(which_box="first", no_box_score=-0.5)),
          exploration=dict(weight=1, options=dict(c=4.0, unit="tokens"))),
      algorithm=dict(minibatch_size=8, kl_coef=0.01, value_clip=None),
      optimizer=config.optimizer)
  config.rl.optimizer = config.optimizer
  config.evaluation = dict(num_problems=8, batch_size=8, max_new_tokens=24, num_samples=2)
  return config
