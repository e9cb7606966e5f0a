"""The rows of formulas.py for methods of 2025 and 2026: drift, parts of rewards, entropies."""

import jax
import jax.numpy as jnp

from formula_inputs import Row, arrays, flat, of_group, of_tokens, whitened
from rlreason import losses

ONE_ADVANTAGE = "one advantage a row"


def rows():
  return _verl_rows() + _trl_rows() + _mask_rows() + _skyrl_rows()


def _policy(function, aggregation="token-mean", **options):
  """Value and gradient of one of our policy losses."""
  has_mask = function in (losses.gmpo, losses.vespo, losses.gspo)
  return of_tokens(lambda log_probs, x: function(
      log_probs, x["old_log_probs"], x["advantages"], *([x["mask"]] if has_mask else []),
      **options), aggregation)


def _gdpo(tokens=True, **options):
  """Advantages of two rewards, of weights 1 and 0.3."""
  def run(x):
    x = arrays(x)
    advantages = losses.gdpo(
        x["parts"], jnp.array([1.0, 0.3]), jnp.ones(x["scores"].shape, bool), **options)
    advantages = advantages.reshape(-1)
    return flat(jnp.where(x["mask"], advantages[:, None], 0.0) if tokens else advantages)
  return run


def _verl_rows():
  verl = lambda name, **options: ("verl.policy_loss", {"name": name, **options})
  bounds = {"clip_ratio_low": 0.15, "clip_ratio_high": 0.2}
  tv = lambda **options: _policy(losses.dppo_tv, bound_low=0.15, bound_high=0.2, **options)
  gdpo = ("verl.gdpo_advantage", {"weights": [1.0, 0.3]})
  return [
      Row("verl", "sapo", verl("sapo"), "sapo, sequence-mean",
          _policy(losses.sapo, "sequence-mean")),
      Row("verl", "geo_mean", verl("geo_mean", clip_ratio_low=0.3, clip_ratio_high=0.4),
          "gmpo, sequence-mean",
          _policy(losses.gmpo, "sequence-mean", clip_low=0.3, clip_high=0.4), ONE_ADVANTAGE),
      Row("verl", "dppo_tv, which has a cap of 3", verl("dppo_tv", **bounds), "dppo_tv(cap=3)",
          tv(cap=3.0)),
      Row("verl", "dppo_tv, which has a cap of 3", verl("dppo_tv", **bounds), "dppo_tv", tv(),
          is_same=False),
      Row("verl", "dppo_tv, clip_ratio_c=1e4", verl("dppo_tv", clip_ratio_c=1e4, **bounds),
          "dppo_tv", tv()),
      Row("verl", "dppo_kl, clip_ratio_c=1e4",
          verl("dppo_kl", clip_ratio_c=1e4, clip_ratio_low=0.05, clip_ratio_high=0.05),
          "dppo_kl", _policy(losses.dppo_kl)),
      Row("verl", "gdpo", gdpo, "gdpo(epsilon=1e-6, whiten=\"none\"), whiten(ddof=1)",
          whitened(_gdpo(epsilon=1e-6, whiten="none"), ddof=1)),
      Row("verl", "gdpo", gdpo, "gdpo(epsilon=1e-6)", _gdpo(epsilon=1e-6), is_same=False),
  ]


def _trl_rows():
  trl = lambda **options: ("trl.grpo_loss", options)

  def with_kl(log_probs, x):
    kl = losses.unbiased_kl(log_probs, x["old_log_probs"], losses.kl_estimate(
        log_probs, x["ref_log_probs"], "k3"))
    return losses.clipped_surrogate(log_probs, x["old_log_probs"], x["advantages"]) + 0.05 * kl

  def masked(log_probs, x):
    weights = losses.off_policy_mask(
        jax.lax.stop_gradient(log_probs), x["sampler_log_probs"], x["advantages"], x["mask"],
        threshold=0.1)
    return weights * losses.clipped_surrogate(log_probs, x["old_log_probs"], x["advantages"])

  def top_entropy(log_probs, x):
    selected = losses.select_high_entropy(x["token_entropies"], x["mask"], fraction=0.2)
    return losses.selected_surrogate(
        log_probs, x["old_log_probs"], x["advantages"], selected, clip_high=0.2)

  gdpo = ("trl.gdpo_advantage", {"weights": [1.0, 0.3]})
  return [
      Row("TRL", "GRPO, \"sapo\"", trl(loss_type="sapo"), "sapo, sequence-mean",
          _policy(losses.sapo, "sequence-mean")),
      Row("TRL", "GRPO, \"luspo\"", trl(loss_type="luspo", level="sequence", clip=[0.03, 0.04]),
          "gspo, sequence-sum",
          _policy(losses.gspo, "sequence-sum", clip_low=0.03, clip_high=0.04), ONE_ADVANTAGE),
      Row("TRL", "GRPO, \"vespo\"", trl(loss_type="vespo"), "vespo", _policy(losses.vespo)),
      Row("TRL", "GRPO, use_bias_correction_kl",
          trl(loss_type="dapo", beta=0.05, unbiased_kl=True),
          "clipped_surrogate + .05 unbiased_kl", of_tokens(with_kl)),
      Row("TRL", "GRPO, off_policy_mask_threshold=.1",
          trl(loss_type="dapo", off_policy_threshold=0.1), "off_policy_mask * clipped_surrogate",
          of_tokens(masked), ONE_ADVANTAGE),
      Row("TRL", "GRPO, top_entropy_quantile=.2", trl(loss_type="dapo", top_entropy=0.2),
          "selected_surrogate, select_high_entropy", of_tokens(top_entropy)),
      Row("TRL", "GRPO, \"normalize_then_sum\"", gdpo, "gdpo", _gdpo(tokens=False)),
  ]


def _mask_rows():
  """For completions on which sampler and trainer differ."""
  def mask(mean, low, high):
    def run(x):
      x = arrays(x)
      return flat(losses.sequence_mask(
          x["old_log_probs"], x["sampler_log_probs"], x["mask"], mean=mean, low=low, high=high))
    return run

  def corrected(log_probs, x):
    weights = losses.sequence_mask(
        x["old_log_probs"], x["sampler_log_probs"], x["mask"], low=0.8, high=1.1,
        importance="token")
    return weights * losses.clipped_surrogate(log_probs, x["old_log_probs"], x["advantages"])

  verl = lambda kind: ("verl.rejection_mask", {"kind": kind, "threshold": "0.8_1.1"})
  inverse = {"low": 1 / 1.1, "high": 1 / 0.8}
  return [
      Row("verl", "seq_mean_k1, \".8_1.1\"", verl("seq_mean_k1"),
          "sequence_mask(low=1/1.1, high=1/.8)", mask("geometric", **inverse)),
      Row("verl", "seq_mean_k1, \".8_1.1\"", verl("seq_mean_k1"),
          "sequence_mask(low=.8, high=1.1)", mask("geometric", 0.8, 1.1), is_same=False),
      Row("verl", "seq_sum_k1, \".8_1.1\"", verl("seq_sum_k1"),
          "sequence_mask(mean=\"product\", low=1/1.1, high=1/.8)", mask("product", **inverse)),
      Row("OpenRLHF", "PolicyLoss, correction \"seq\"",
          ("openrlhf.policy_loss", {"is_correction_level": "seq",
                                    "is_correction_threshold": [0.8, 1.1]}),
          "sequence_mask(importance=\"token\") * clipped_surrogate", of_tokens(corrected)),
  ]


def _skyrl_rows():
  """For non-negative scores, which the advantage requires."""
  ours = lambda **options: of_group(losses.max_rl, epsilon=1e-6, **options)
  row = lambda name, run, inputs="scores of 0 and 1", is_same=True: Row(
      "SkyRL", "maxrl", ("skyrl.max_rl", {}), name, run, inputs, is_same)
  return [
      row("max_rl(epsilon=1e-6)", ours()),
      row("max_rl(epsilon=1e-6, order=\"G\")", ours(order="G"), is_same=False),
      row("max_rl(epsilon=1e-6)", ours(), "groups of one, 0 or 1", False),
      row("max_rl(epsilon=1e-6, group_of_one=\"raw\")", ours(group_of_one="raw"),
          "groups of one, 0 or 1"),
  ]
