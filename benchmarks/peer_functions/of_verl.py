"""verl, https://github.com/volcengine/verl: trainer/ppo/core_algos.py and its neighbours."""

import numpy as np
import torch

from peer_functions.importing import differentiate, flat, pay_last, without

with without(["ray"]):
  from verl.trainer.config import AlgoConfig
  from verl.trainer.ppo import core_algos, rollout_corr_helper
  from verl.utils import torch_functional
  from verl.workers.config import ActorConfig, PolicyLossConfig


def advantage(x, *, estimator, **options):
  """Any group-based estimator: f32[B, T]."""
  groups, size = x["scores"].shape
  rewards = pay_last(x["scores"], x["mask"])
  if estimator in ("reinforce_plus_plus", "grpo_passk"):
    options["config"] = AlgoConfig(gamma=options.pop("gamma", 1.0))
  if estimator == "remax":
    options["reward_baselines"] = x["greedy_scores"].repeat_interleave(size)
  elif estimator != "reinforce_plus_plus":
    options["index"] = np.repeat(np.arange(groups), size)
  function = core_algos.get_adv_estimator_fn(estimator)
  advantages, _ = function(
      token_level_rewards=rewards, response_mask=x["mask"].float(), **options)
  return flat(advantages)


def gdpo_advantage(x, *, weights):
  """For rewards in the columns of `parts`, whitened over tokens."""
  groups, size = x["scores"].shape
  mask = x["mask"].float()
  names = [f"part {i}" for i in range(len(weights))]
  parts = x["parts"].reshape(groups * size, -1).numpy()
  advantages, _ = core_algos.compute_gdpo_outcome_advantage(
      torch.zeros(mask.shape), mask, np.repeat(np.arange(groups), size),
      config={"gdpo_reward_keys": names, "gdpo_reward_weights": weights},
      non_tensor_batch={name: parts[:, i] for i, name in enumerate(names)},
      batch={"prompts": torch.zeros((groups * size, 0)), "attention_mask": mask.long()})
  return flat(advantages)


def discounted_returns(x, *, gamma):
  config = AlgoConfig(gamma=gamma)
  mask = x["mask"].float()
  _, returns = core_algos.compute_reinforce_plus_plus_outcome_advantage(
      x["rewards"] * mask, mask, config)
  return flat(returns)


def gae(x, *, gamma, lam):
  """Advantages, which it whitens, and returns."""
  mask = x["mask"].float()
  advantages, returns = core_algos.compute_gae_advantage_return(
      x["rewards"], x["values"], mask, gamma, lam)
  return flat(advantages * mask, returns * mask)


def policy_loss(x, *, name, aggregation="token-mean", clip_cov=None, kl_cov=None, **options):
  """Value and gradient of a registered loss; `clip_cov` and `kl_cov` are options of selection."""
  selection = PolicyLossConfig(**(clip_cov or {}), **(kl_cov or {}))
  config = ActorConfig(
      strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, policy_loss=selection,
      **options)
  function = core_algos.get_policy_loss_fn(name)
  return differentiate(
      lambda log_probs: function(
          old_log_prob=x["old_log_probs"], log_prob=log_probs, advantages=x["advantages"],
          response_mask=x["mask"].float(), loss_agg_mode=aggregation, config=config)[0],
      x["log_probs"])


def value_loss(x, *, clip):
  return differentiate(
      lambda values: core_algos.compute_value_loss(
          values, x["returns"], x["old_values"], x["mask"].float(), clip)[0], x["values"])


def kl(x, *, estimator):
  return differentiate(
      lambda log_probs: (core_algos.kl_penalty(log_probs, x["ref_log_probs"], estimator)
                         * x["mask"]).sum(), x["log_probs"])


def aggregate(x, *, mode, **options):
  return flat(core_algos.agg_loss(x["advantages"], x["mask"].float(), mode, **options))


def adaptive_kl(x, *, coef, target, horizon, steps):
  values = []
  for measured in x["measured_kl"].tolist():
    controller = core_algos.AdaptiveKLController(coef, target, horizon)
    controller.update(measured, steps)
    values.append(controller.value)
  return flat(torch.tensor(values))


def rollout_weights(x, *, level, threshold):
  weights, _ = rollout_corr_helper.compute_rollout_correction_weights(
      x["old_log_probs"] - x["sampler_log_probs"], x["mask"].float(), level, threshold)
  return flat(weights)


def rejection_mask(x, *, kind, threshold):
  mask, _ = rollout_corr_helper.compute_rollout_rejection_mask(
      x["old_log_probs"] - x["sampler_log_probs"], x["mask"].float(), kind, threshold)
  return flat(mask)


def whiten(x, *, shift_mean):
  mask = x["mask"].float()
  return flat(torch_functional.masked_whiten(x["rewards"], mask, shift_mean) * mask)
