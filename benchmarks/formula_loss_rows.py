"""The rows of formulas.py for losses: of policies, values, preferences and distillation."""

import jax
import jax.numpy as jnp

from formula_inputs import Row, arrays, flat, of_pairs, of_row_log_probs, of_tokens
from rlreason import losses, masks

ONE_ADVANTAGE, FAR, EMPTY = "one advantage a row", "ratios of e^25", "a row without tokens"


def _policy(function, aggregation="token-mean", constant_length=1, **options):
  """Value and gradient of one of our policy losses."""
  def per_token(log_probs, x):
    mask = [x["mask"]] if function in (losses.gspo, losses.gspo_token) else []
    return function(log_probs, x["old_log_probs"], x["advantages"], *mask, **options)
  return of_tokens(per_token, aggregation, constant_length=constant_length)


_SURROGATE, _GSPO = losses.clipped_surrogate, losses.gspo


def _dual(**options):
  return _policy(_SURROGATE, clip_low=0.2, clip_high=0.28, dual_clip=3.0, **options)


def policy_rows():
  verl = lambda name, **options: (
      "verl.policy_loss", {"name": name, "clip_ratio_high": 0.28, **options})
  tight = {"clip_ratio_low": 0.03, "clip_ratio_high": 0.04, "aggregation": "seq-mean-token-mean"}
  ours_gspo = lambda name: _policy(name, "sequence-mean", clip_low=0.03, clip_high=0.04)
  open_rlhf = lambda **options: ("openrlhf.policy_loss", {"clip_eps_high": 0.28, **options})
  areal = lambda **options: ("areal.policy_loss", {"eps_clip": 0.2, "eps_clip_higher": 0.28,
                                                   **options})
  tunix = lambda **options: ("jax.policy_loss", {"epsilon": 0.2, "epsilon_low": 0.2,
                                                 "epsilon_high": 0.28, **options})
  clipped = _policy(_SURROGATE, clip_high=0.28)
  return [
      Row("verl", "vanilla, which has a dual clip of 3", verl("vanilla"),
          "clipped_surrogate(dual_clip=3)", _dual()),
      Row("verl", "vanilla, which has a dual clip of 3", verl("vanilla"), "clipped_surrogate",
          clipped, is_same=False),
      Row("verl", "gspo", verl("gspo", **tight), "gspo_token, sequence-mean",
          ours_gspo(losses.gspo_token)),
      Row("verl", "gspo", verl("gspo", **tight), "gspo, sequence-mean", ours_gspo(_GSPO),
          ONE_ADVANTAGE),
      Row("verl", "gspo", verl("gspo", **tight), "gspo, sequence-mean", ours_gspo(_GSPO),
          is_same=False),
      Row("verl", "cispo", verl("cispo", clip_ratio_low=0.5, clip_ratio_high=1.5),
          "cispo(clip_low=.5, clip_high=1.5)",
          _policy(losses.cispo, clip_low=0.5, clip_high=1.5)),
      Row("verl", "gpg", verl("gpg"), "reinforce",
          of_tokens(lambda log_probs, x: losses.reinforce(log_probs, x["advantages"]))),
      Row("OpenRLHF", "PolicyLoss", open_rlhf(), "clipped_surrogate", clipped),
      Row("OpenRLHF", "PolicyLoss(dual_clip=3)", open_rlhf(dual_clip=3.0),
          "clipped_surrogate(dual_clip=3)", _dual()),
      Row("OpenRLHF", "PolicyLoss(token_level_loss=False)", open_rlhf(token_level_loss=False),
          "clipped_surrogate, sequence-mean",
          _policy(_SURROGATE, "sequence-mean", clip_high=0.28), EMPTY),
      Row("OpenRLHF", "PolicyLoss", open_rlhf(), "clipped_surrogate", clipped, FAR, False),
      Row("OpenRLHF", "PolicyLoss", open_rlhf(), "clipped_surrogate(max_log_ratio=20)",
          _policy(_SURROGATE, clip_high=0.28, max_log_ratio=20.0), FAR),
      Row("OpenRLHF", "PolicyLoss(\"gspo\")",
          open_rlhf(policy_loss_type="gspo", clip_eps_low=0.03, clip_eps_high=0.04),
          "gspo, sequence-mean", ours_gspo(_GSPO), ONE_ADVANTAGE),
      Row("AReaL", "ppo_actor_loss_fn", areal(), "clipped_surrogate", clipped),
      Row("AReaL", "ppo_actor_loss_fn", areal(), "clipped_surrogate", clipped, FAR),
      Row("AReaL", "ppo_actor_loss_fn(c_clip=3)", areal(c_clip=3.0),
          "clipped_surrogate(dual_clip=3)", _dual()),
      Row("AReaL", "ppo_actor_loss_fn(\"sequence\")",
          areal(eps_clip=0.03, eps_clip_higher=0.04, importance_sampling_level="sequence"),
          "gspo, token-mean", _policy(_GSPO, clip_low=0.03, clip_high=0.04), ONE_ADVANTAGE),
      Row("AReaL", "ppo_actor_loss_fn(\"sequence\")",
          areal(eps_clip=0.03, eps_clip_higher=0.04, importance_sampling_level="sequence"),
          "gspo, sequence-mean", ours_gspo(_GSPO), ONE_ADVANTAGE, False),
      Row("Tunix", "ppo_policy_loss_fn(epsilon_c=3)", tunix(name="ppo", epsilon_c=3.0),
          "clipped_surrogate(dual_clip=3)", _dual()),
      Row("Tunix", "grpo_loss_fn", tunix(loss_agg_mode="sequence-mean-token-mean"),
          "clipped_surrogate, sequence-mean",
          _policy(_SURROGATE, "sequence-mean", clip_high=0.28), EMPTY),
      Row("Tunix", "grpo_loss_fn(\"gspo-token\")",
          tunix(loss_algo="gspo-token", epsilon=0.03, epsilon_high=0.04,
                loss_agg_mode="sequence-mean-token-mean"),
          "gspo_token, sequence-mean", ours_gspo(losses.gspo_token)),
  ] + _trl_policy_rows() + _covariance_rows()


def _trl_policy_rows():
  trl = lambda **options: ("trl.grpo_loss", {"clip": [0.2, 0.28], **options})
  sequence = {"level": "sequence", "clip": [0.03, 0.04]}
  clipped = lambda aggregation, length=1: _policy(
      _SURROGATE, aggregation, length, clip_high=0.28)

  def with_kl(log_probs, x):
    return (_SURROGATE(log_probs, x["old_log_probs"], x["advantages"], clip_high=0.28)
            + 0.05 * losses.kl_estimate(log_probs, x["ref_log_probs"], "k3"))

  def corrected(log_probs, x):
    return x["weights"] * _SURROGATE(
        log_probs, x["old_log_probs"], x["advantages"], clip_high=0.28)

  reinforce = of_tokens(
      lambda log_probs, x: losses.reinforce(log_probs, x["advantages"]), "sequence-sum")
  return [
      Row("TRL", "GRPO, \"grpo\"", trl(), "clipped_surrogate, sequence-mean",
          clipped("sequence-mean")),
      Row("TRL", "GRPO, \"grpo\"", trl(), "clipped_surrogate, sequence-mean",
          clipped("sequence-mean"), EMPTY, False),
      Row("TRL", "GRPO, \"grpo\"", trl(), "clipped_surrogate, sequence-mean",
          clipped("sequence-mean"), FAR),
      Row("TRL", "GRPO, \"bnpo\"", trl(loss_type="bnpo"), "clipped_surrogate, token-mean",
          clipped("token-mean"), EMPTY),
      Row("TRL", "GRPO, \"dapo\"", trl(loss_type="dapo"), "clipped_surrogate, token-mean",
          clipped("token-mean"), EMPTY),
      Row("TRL", "GRPO, \"dr_grpo\"", trl(loss_type="dr_grpo", max_length=16),
          "clipped_surrogate, constant", clipped("constant", 16)),
      Row("TRL", "GRPO, delta=3", trl(loss_type="dapo", delta=3.0),
          "clipped_surrogate(dual_clip=3)", _dual()),
      Row("TRL", "GRPO, beta=.05", trl(loss_type="dapo", beta=0.05),
          "clipped_surrogate + .05 kl_estimate(\"k3\")", of_tokens(with_kl)),
      Row("TRL", "GRPO, corrected for the sampler", trl(loss_type="dapo", use_weights=True),
          "weights * clipped_surrogate", of_tokens(corrected)),
      Row("TRL", "GRPO, ratios of sequences", trl(**sequence), "gspo, sequence-mean",
          _policy(_GSPO, "sequence-mean", clip_low=0.03, clip_high=0.04), ONE_ADVANTAGE),
      Row("TRL", "GRPO, \"cispo\", epsilon_high=2.5", trl(loss_type="cispo", clip=[0.2, 2.5]),
          "cispo(clip_high=1.5)", _policy(losses.cispo, clip_high=1.5)),
      Row("TRL", "GRPO, \"cispo\", epsilon_high=2.5", trl(loss_type="cispo", clip=[0.2, 2.5]),
          "cispo(clip_high=2.5)", _policy(losses.cispo, clip_high=2.5), is_same=False),
      Row("TRL", "RLOO, gradient", ("trl.rloo_gradient", {}), "reinforce, sequence-sum",
          lambda x: reinforce(x)[1:], "on-policy"),
  ]


def _covariance_rows():
  plain = {"name": "kl_cov", "kl_cov": {"kl_cov_ratio": 0.1, "ppo_kl_coef": 0.7}}
  clip = {"name": "clip_cov", "clip_ratio_low": 1.0, "clip_ratio_high": 1.0,
          "clip_cov": {"clip_cov_ratio": 1.0, "clip_cov_lb": 0.2, "clip_cov_ub": 2.0}}

  def kl_cov(now, fraction):
    def per_token(log_probs, x):
      seen = jax.lax.stop_gradient(log_probs) if now else x["old_log_probs"]
      selected = losses.select_kl_cov(seen, x["advantages"], x["mask"], fraction=fraction)
      return losses.kl_cov(
          log_probs, x["old_log_probs"], x["advantages"], selected, kl_coef=0.7)
    return of_tokens(per_token)

  def clip_cov(log_probs, x):
    selected = losses.select_clip_cov(
        x["old_log_probs"], x["advantages"], x["mask"], jax.random.key(0), fraction=1.0, low=0.2,
        high=2.0)
    return losses.clip_cov(
        log_probs, x["old_log_probs"], x["advantages"], selected, clip_low=1.0, clip_high=1.0)

  return [
      Row("verl", "kl_cov", ("verl.policy_loss", plain),
          "kl_cov, select_kl_cov of the log-probs before", kl_cov(False, 0.1), is_same=False),
      Row("verl", "kl_cov", ("verl.policy_loss", plain),
          "kl_cov, select_kl_cov of the log-probs now", kl_cov(True, 0.1)),
      Row("verl", "clip_cov, all in the band", ("verl.policy_loss", clip),
          "clip_cov, select_clip_cov(fraction=1)", of_tokens(clip_cov), "on-policy"),
      Row("verl", "clip_cov, all in the band", ("verl.policy_loss", clip),
          "clip_cov, select_clip_cov(fraction=1)", of_tokens(clip_cov), is_same=False),
  ]


def correction_rows():
  verl = lambda level, threshold: (
      "verl.rollout_weights", {"level": level, "threshold": threshold})
  trl = lambda **options: ("trl.sampler_weights", options)

  def weights(function, **options):
    def run(x):
      x = arrays(x)
      return flat(function(x["old_log_probs"], x["sampler_log_probs"], x["mask"], **options))
    return run

  def decoupled(**options):
    return of_tokens(lambda log_probs, x: losses.decoupled_surrogate(
        log_probs, x["old_log_probs"], x["sampler_log_probs"], x["advantages"], clip_high=0.28,
        **options))

  def corrected(function, **options):
    return of_tokens(lambda log_probs, x: function(
        x["old_log_probs"], x["sampler_log_probs"], x["mask"], **options) * _SURROGATE(
            log_probs, x["old_log_probs"], x["advantages"], clip_high=0.28))

  truncated, masked = losses.truncated_importance, losses.masked_importance
  areal = lambda **rejection: ("areal.policy_loss", {
      "eps_clip": 0.2, "eps_clip_higher": 0.28, "rejection": {"metric": "ratio", **rejection}})
  open_rlhf = lambda mode, low: ("openrlhf.policy_loss", {
      "clip_eps_high": 0.28, "is_correction_level": "token", "is_correction_mode": mode,
      "is_correction_threshold": [low, 2.0]})
  return [
      Row("verl", "rollout weights, token", verl("token", 2.0), "truncated_importance",
          weights(truncated)),
      Row("verl", "rollout weights, sequence", verl("sequence", 2.0),
          "truncated_importance(level=\"sequence\")", weights(truncated, level="sequence")),
      Row("verl", "rollout weights, token, \".5_2\"", verl("token", "0.5_2.0"),
          "masked_importance(low=.5, high=2)", weights(masked, low=0.5, high=2.0)),
      Row("TRL", "GRPO, token_truncate", trl(mode="token_truncate", high=2.0),
          "truncated_importance", weights(truncated)),
      Row("TRL", "GRPO, sequence_truncate", trl(mode="sequence_truncate", high=2.0),
          "truncated_importance(level=\"sequence\")", weights(truncated, level="sequence")),
      Row("TRL", "GRPO, token_mask", trl(mode="token_mask", low=0.5, high=2.0),
          "masked_importance(low=.5, high=2)", weights(masked, low=0.5, high=2.0)),
      Row("TRL", "GRPO, sequence_mask", trl(mode="sequence_mask", low=0.5, high=2.0),
          "masked_importance(level=\"sequence\")",
          weights(masked, low=0.5, high=2.0, level="sequence")),
      Row("OpenRLHF", "PolicyLoss, correction \"clip\"", open_rlhf("clip", 0.0),
          "truncated_importance * clipped_surrogate", corrected(truncated)),
      Row("OpenRLHF", "PolicyLoss, correction \"mask\"", open_rlhf("mask", 0.5),
          "masked_importance * clipped_surrogate", corrected(masked, low=0.5, high=2.0)),
      Row("AReaL", "ppo_actor_loss_fn, clamp at 2", areal(action="clamp", upper=2.0),
          "decoupled_surrogate(cap=2)", decoupled(cap=2.0)),
      Row("AReaL", "ppo_actor_loss_fn, mask above 2", areal(action="mask", upper=2.0),
          "masked_importance(low=0) * clipped_surrogate", corrected(masked, low=0.0, high=2.0)),
      Row("AReaL", "ppo_actor_loss_fn, mask above 2", areal(action="mask", upper=2.0),
          "decoupled_surrogate(cap=2)", decoupled(cap=2.0), is_same=False),
  ]


def aggregation_rows():
  def ours(aggregation, length=1):
    def run(x):
      x = arrays(x)
      weights = masks.token_weights(x["mask"], aggregation, constant_length=length)
      return flat(jnp.sum(weights * x["advantages"]))
    return run

  verl = lambda mode, **options: ("verl.aggregate", {"mode": mode, **options})
  tunix = lambda mode, **options: ("jax.aggregate", {"mode": mode, **options})
  norm = {"loss_scale_factor": 16}
  cases = [
      ("verl", verl("token-mean"), "token-mean"), ("verl", verl("token-sum"), "token-sum"),
      ("verl", verl("seq-mean-token-mean"), "sequence-mean"),
      ("verl", verl("seq-mean-token-sum"), "sequence-sum"),
      ("verl", verl("seq-mean-token-sum-norm", **norm), "constant"),
      ("Tunix", tunix("token-mean"), "token-mean"),
      ("Tunix", tunix("sequence-mean-token-mean"), "sequence-mean"),
      ("Tunix", tunix("seq-mean-token-sum"), "sequence-sum"),
      ("Tunix", tunix("sequence-mean-token-scale", norm=16), "constant")]
  return [
      Row(peer, f"aggregation \"{call[1]['mode']}\"", call, f"token_weights(\"{aggregation}\")",
          ours(aggregation, 16), EMPTY)
      for peer, call, aggregation in cases]


def value_rows():
  def ours(**options):
    return of_tokens(
        lambda values, x: losses.clipped_value_loss(
            values, x["old_values"], x["returns"], **options), argument="values")

  areal = lambda kind: ("areal.value_loss", {"clip": 0.2, "kind": kind})
  text = "clipped_value_loss(clip=.2)"
  return [
      Row("verl", "compute_value_loss", ("verl.value_loss", {"clip": 0.2}), text, ours(clip=0.2)),
      Row("OpenRLHF", "ValueLoss", ("openrlhf.value_loss", {"clip": 0.2}), text, ours(clip=0.2)),
      Row("OpenRLHF", "ValueLoss(None)", ("openrlhf.value_loss", {"clip": None}),
          "clipped_value_loss(clip=None)", ours(clip=None)),
      Row("AReaL", "ppo_critic_loss_fn", areal("mse"), text, ours(clip=0.2)),
      Row("AReaL", "ppo_critic_loss_fn(\"huber\")", areal("huber"),
          "clipped_value_loss(huber_delta=10)", ours(clip=0.2, huber_delta=10.0)),
  ]


def preference_rows():
  def of_dpo(**options):
    return of_row_log_probs(
        lambda log_probs, ref, lengths, x: losses.dpo(
            *jnp.split(log_probs, 2), *jnp.split(ref, 2), **options))

  def of_ipo(log_probs, ref, lengths, x):
    return losses.ipo(
        *jnp.split(log_probs / lengths, 2), *jnp.split(ref / lengths, 2), beta=0.1)

  def of_kto(log_probs, ref, lengths, x):
    shift = x["mismatched"] - x["ref_mismatched"]
    kl = losses.kto_baseline(shift, jnp.ones_like(shift, bool))
    return losses.kto(
        log_probs, ref, x["is_desirable"], jnp.broadcast_to(kl, log_probs.shape), beta=0.1,
        desirable_weight=1.0, undesirable_weight=1.3)

  pairs = lambda loss, **options: of_pairs(
      lambda chosen, rejected, x: loss(chosen, rejected, *x["ref_pairs"], **options), "pairs")
  mean = lambda run: lambda x: run(x) / x["pairs"].shape[1]
  odds = of_pairs(
      lambda chosen, rejected, x: losses.orpo(chosen, rejected, beta=0.3) + chosen, "mean_pairs")
  simpo = of_pairs(
      lambda chosen, rejected, x: losses.simpo(chosen, rejected, beta=2.0, gamma=0.5),
      "mean_pairs")
  trl = lambda kind: ("trl.dpo", {"loss_type": kind, "beta": 0.1})
  open_rlhf = lambda **options: ("openrlhf.dpo", {"beta": 0.1, **options})
  areal = lambda kind: ("areal.preference", {"beta": 0.1, "kind": kind})
  return [
      Row("TRL", "DPO, \"sigmoid\"", trl("sigmoid"), "dpo", of_dpo(beta=0.1)),
      Row("TRL", "DPO, \"ipo\"", trl("ipo"), "ipo, of means over tokens",
          of_row_log_probs(of_ipo)),
      Row("TRL", "KTO", ("trl.kto", {"beta": 0.1, "desirable": 1.0, "undesirable": 1.3}),
          "kto, kto_baseline", of_row_log_probs(of_kto)),
      Row("TRL", "ORPO, term of the odds", ("trl.orpo", {"beta": 0.3}), "orpo + chosen", odds),
      Row("TRL", "CPO, \"simpo\"", ("trl.simpo", {"beta": 2.0, "gamma": 0.5}), "simpo", simpo),
      Row("OpenRLHF", "DPOLoss", open_rlhf(), "dpo", mean(pairs(losses.dpo, beta=0.1))),
      Row("OpenRLHF", "DPOLoss(label_smoothing=.1)", open_rlhf(label_smoothing=0.1),
          "dpo(label_smoothing=.1)", mean(pairs(losses.dpo, beta=0.1, label_smoothing=0.1))),
      Row("OpenRLHF", "DPOLoss(ipo=True)", open_rlhf(ipo=True), "ipo, of sums",
          mean(pairs(losses.ipo, beta=0.1))),
      Row("AReaL", "dpo_preference_loss", areal("sigmoid"), "dpo", pairs(losses.dpo, beta=0.1)),
      Row("AReaL", "dpo_preference_loss(\"ipo\")", areal("ipo"), "ipo",
          pairs(losses.ipo, beta=0.1)),
  ]


def reward_model_rows():
  ours = lambda margin: lambda x: of_pairs(
      lambda chosen, rejected, x: losses.bradley_terry(chosen, rejected, margin=margin),
      "pairs")(x) / x["pairs"].shape[1]
  open_rlhf = lambda loss, **options: ("openrlhf.reward_model", {"loss": loss, **options})
  return [
      Row("TRL", "RewardTrainer", ("trl.reward_model", {}), "bradley_terry", ours(0.0)),
      Row("TRL", "RewardTrainer, margins of .4", ("trl.reward_model", {"margin": 0.4}),
          "bradley_terry(margin=.4)", ours(0.4)),
      Row("OpenRLHF", "PairWiseLoss", open_rlhf("PairWiseLoss"), "bradley_terry", ours(0.0)),
      Row("OpenRLHF", "PairWiseLoss, margins of .4", open_rlhf("PairWiseLoss", margin=0.4),
          "bradley_terry(margin=.4)", ours(0.4)),
      Row("OpenRLHF", "LogExpLoss", open_rlhf("LogExpLoss"), "bradley_terry", ours(0.0)),
  ]


def distillation_rows():
  def ours(beta, temperature=1.0):
    def per_token(logits, x):
      student, teacher = (
          jax.nn.log_softmax(y / temperature) for y in (logits, x["teacher_logits"]))
      return losses.generalized_jsd(student, teacher, beta=beta)
    return of_tokens(per_token, argument="student_logits")

  rows = [
      Row("TRL", f"GKD, beta={beta:g}", ("trl.jsd", {"beta": beta}),
          f"generalized_jsd(beta={beta:g})", ours(beta)) for beta in (0.0, 0.1, 0.5, 1.0)]
  return rows + [
      Row("TRL", "GKD, beta=.5, temperature=2", ("trl.jsd", {"beta": 0.5, "temperature": 2.0}),
          "generalized_jsd(beta=.5) at temperature 2", ours(0.5, 2.0))]
