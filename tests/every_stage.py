"""A recipe of every kind of stage and way to draw, for runs of several processes.

    rlreason train --config=tests/every_stage.py:sft,rl --workdir=runs/x
"""

from ml_collections import config_dict

from rlreason import losses
from rlreason.algorithms import PreferenceConfig, presets
from rlreason.data.selections import pairs
from rlreason.slots import Slot


def is_even(prompts, completions, **unused_columns):
  """A verifier for models that have learned nothing: half of its verdicts are right."""
  del prompts
  return [float(len(text) % 2 == 0) for text in completions]


def fails_late(prompts, completions, group, **unused_columns):
  """A reward with a bug for all but the first prompts."""
  del prompts
  if max(group) > 1:
    raise RuntimeError("too late")
  return [0.0] * len(completions)


def _rl(algorithm, **fields):
  rewards = dict(verifier=dict(weight=1.0, function=is_even), repetition=dict(weight=0.1))
  return dict(
      kind="rl", algorithm=algorithm, optimizer=dict(learning_rate=1e-3), **{
          "steps": 2, "num_prompts": 4, "group_size": 4, "rewards": rewards,
          "sampling": dict(max_new_tokens=16), **fields})


def get_config(stages="sft,samples,pairs,reward_model,tuned,ppo,grpo,full,ahead,open"):
  config = config_dict.ConfigDict()
  config.seed = 0
  config.model = dict(
      kind="new", width=32, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=16, mlp_width=64)
  config.task = dict(kind="countdown", problems=dict(num_numbers=3))
  config.prompt_buckets = (8,)
  config.preflight = False
  every = dict(
      sft=dict(
          kind="sft", steps=3, batch_size=8, length=128, num_examples=50,
          optimizer=dict(learning_rate=1e-3)),
      samples=dict(
          kind="sample", steps=2, num_prompts=4, group_size=4, sampling=dict(max_new_tokens=16),
          rewards=dict(verifier=dict(weight=1.0, function=is_even))),
      pairs=dict(
          kind="select", inputs=("samples",),
          select=Slot(pairs.preference_pairs, {"max_per_question": 4})),
      reward_model=dict(
          kind="reward_model", steps=2, batch_size=4, completion_length=16, examples="stage:pairs",
          optimizer=dict(learning_rate=1e-3)),
      tuned=dict(
          kind="preference", steps=2, batch_size=4, completion_length=16, examples="stage:pairs",
          preference=PreferenceConfig(
              loss=Slot(losses.dpo, {"beta": 0.1}), average_log_probs=False),
          optimizer=dict(learning_rate=1e-3)),
      student=dict(
          kind="distill", steps=2, teacher="stage:sft", num_prompts=4,
          sampling=dict(max_new_tokens=16), optimizer=dict(learning_rate=1e-3)),
      ppo=_rl(  # a critic of its own, a reward model, an uneven reward of tokens
          presets.ppo_rlhf(epochs=2, minibatch_size=8, kl_coef=0.1, critic_warmup_steps=1),
          reward_model="stage:reward_model",
          rewards=dict(learned=dict(weight=1.0), verifier=dict(weight=0.5, function=is_even))),
      grpo=_rl(presets.grpo(minibatch_size=16, kl_coef=0.01)),
      full=_rl(presets.remax(minibatch_size=16, kl_coef=0.01), max_resample_rounds=3,
               steps=6),
      ahead=_rl(presets.grpo(minibatch_size=16), draws_ahead=1, steps=3),
      open=_rl(presets.rloo(minibatch_size=16), carried_prompts=4, steps=3))
  config.stages = tuple(stages.split(","))
  for name in config.stages:
    config[name] = every[name]
  config.checkpoint = dict(every_steps=2)
  config.evaluation = dict(
      num_problems=7, batch_size=4, max_new_tokens=16, num_samples=2, every_stage=False)
  return config
