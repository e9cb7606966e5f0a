"""RLSP on Countdown, from a randomly initialised model. The embedded default of `make train`."""

from ml_collections import config_dict


def get_config():
  """The recipe: SFT on demonstrations of search, then PPO with verifier and exploration rewards."""
  config = config_dict.ConfigDict()
  config.seed = 0
  config.model = dict(
      kind="new", width=128, num_layers=4, num_heads=4, num_kv_heads=4, head_dim=32, mlp_width=512)
  config.task = dict(kind="countdown", problems=dict(num_numbers=3))
  config.prompt_buckets = (8,)
  config.stages = ("sft", "rl")
  config.sft = dict(
      kind="sft", steps=1000, batch_size=24, length=128,
      token_weights=dict(lower=4.0, higher=4.0, equal=4.0),
      optimizer=dict(learning_rate=1e-3, warmup_steps=50, schedule="cosine", weight_decay=0.01))
  config.optimizer = dict(learning_rate=2.5e-4)
  config.rl = dict(
      kind="rl", steps=100, num_prompts=256, group_size=1, min_reasoning=11,
      sampling=dict(max_new_tokens=96, temperature=1.0),
      rewards=dict(
          verifier=dict(weight=1.0, options=dict(which_box="first", no_box_score=-0.5)),
          exploration=dict(weight=1.0, options=dict(c=4.0, unit="tokens"))),
      ppo=dict(minibatch_size=64, kl_coef=0.01, value_coef=0.5, critic_warmup_steps=4),
      optimizer=config.optimizer)
  config.rl.optimizer = config.optimizer
  config.evaluation = dict(num_problems=500, batch_size=250, max_new_tokens=96)
  return config
