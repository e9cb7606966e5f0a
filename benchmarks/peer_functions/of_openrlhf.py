"""OpenRLHF, https://github.com/OpenRLHF/OpenRLHF: losses and the experience maker."""

import types

import torch

from peer_functions.importing import differentiate, flat, without

with without(["ray", "deepspeed", "openrlhf.trainer.ray"],
             bare=["openrlhf.models", "openrlhf.utils"]):
  from openrlhf.models import loss as losses
  from openrlhf.models import utils
  from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
  from openrlhf.trainer.ppo_utils.kl_controller import AdaptiveKLController


def advantage(x, *, estimator, gamma=1.0, lambd=1.0):
  """Advantages and returns of the experience maker, from scores without KL."""
  groups, size = x["scores"].shape
  mask = x["mask"].float()
  experience = types.SimpleNamespace(
      index=list(range(groups * size)), rewards=x["scores"].reshape(-1), action_mask=mask,
      kl=torch.zeros(mask.shape), values=x["values"], info={})
  advantages = types.SimpleNamespace(
      estimator=estimator, gamma=gamma, lambd=lambd, no_std_norm=False)
  args = types.SimpleNamespace(
      algo=types.SimpleNamespace(advantage=advantages),
      rollout=types.SimpleNamespace(n_samples_per_prompt=size),
      reward=types.SimpleNamespace(
          clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None))
  maker = types.SimpleNamespace(
      strategy=types.SimpleNamespace(args=args), advantage_estimator=estimator,
      kl_ctl=types.SimpleNamespace(value=0.0))
  for name in ("get_advantages_and_returns", "get_cumulative_returns"):
    setattr(maker, name, types.MethodType(getattr(RemoteExperienceMaker, name), maker))
  RemoteExperienceMaker.compute_advantages_and_returns(maker, [experience])
  return flat(experience.advantages * mask, experience.returns * mask)


def gae(x, *, gamma, lam):
  """Advantages, not whitened here, and returns."""
  mask = x["mask"].float()
  advantages, returns = RemoteExperienceMaker.get_advantages_and_returns(
      None, x["values"], x["rewards"], mask, gamma, lam)
  return flat(advantages * mask, returns * mask)


def policy_loss(x, **options):
  loss = losses.PolicyLoss(**options)
  return differentiate(
      lambda log_probs: loss(
          log_probs, x["old_log_probs"], x["advantages"], x["mask"].float(),
          x["sampler_log_probs"])[0], x["log_probs"])


def value_loss(x, *, clip):
  loss = losses.ValueLoss(clip)
  return differentiate(
      lambda values: loss(values, x["old_values"], x["returns"], x["mask"].float()), x["values"])


def dpo(x, **options):
  loss = losses.DPOLoss(**options)
  return differentiate(
      lambda both: loss(*both, x["ref_pairs"][0], x["ref_pairs"][1])[0], x["pairs"])


def reward_model(x, *, loss, margin=None):
  margin = None if margin is None else torch.full_like(x["pairs"][0], margin)
  return differentiate(lambda both: getattr(losses, loss)()(*both, margin), x["pairs"])


def kl(x, *, estimator):
  return differentiate(
      lambda log_probs: (utils.compute_approx_kl(
          log_probs, x["ref_log_probs"], kl_estimator=estimator) * x["mask"]).sum(),
      x["log_probs"])


def reward(x, *, kl_coef):
  """The score on the last token, minus the KL of every token."""
  mask = x["mask"].float()
  difference = x["log_probs"] - x["ref_log_probs"]
  return flat(utils.compute_reward(x["scores"].reshape(-1), kl_coef, difference, mask) * mask)


def adaptive_kl(x, *, coef, target, horizon, steps):
  values = []
  for measured in x["measured_kl"].tolist():
    controller = AdaptiveKLController(coef, target, horizon)
    controller.update(measured, steps)
    values.append(controller.value)
  return flat(torch.tensor(values))
