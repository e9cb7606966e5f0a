"""The rows of formulas.py: our functions and options that correspond to a peer's."""

import jax.numpy as jnp

from formula_inputs import Row, arrays, flat, of_group, of_tokens, whitened
from rlreason import losses, masks

ALONE, FLAT, GAPS = "groups of one", "all scores 0.3", "gaps"
_NORMALIZED, _CENTERED, _LOO = (
    losses.group_normalized, losses.group_centered, losses.leave_one_out)


def advantage_rows():
  return _verl_advantage_rows() + _trl_advantage_rows() + _other_advantage_rows()


def _verl_advantage_rows():
  verl = lambda name, **options: ("verl.advantage", {"estimator": name, **options})
  plus_plus = whitened(of_group(losses.no_baseline), ddof=1)
  baseline = whitened(of_group(_CENTERED), ddof=1)
  return [
      Row("verl", "grpo", verl("grpo"), "group_normalized", of_group(_NORMALIZED)),
      Row("verl", "grpo", verl("grpo"), "group_normalized(ddof=0)", of_group(_NORMALIZED, ddof=0),
          is_same=False),
      Row("verl", "grpo", verl("grpo"), "group_normalized", of_group(_NORMALIZED), ALONE, False),
      Row("verl", "grpo", verl("grpo"), "group_normalized(group_of_one=\"raw\")",
          of_group(_NORMALIZED, group_of_one="raw"), ALONE),
      Row("verl", "grpo", verl("grpo"), "group_normalized", of_group(_NORMALIZED), FLAT, False),
      Row("verl", "grpo_vectorized", verl("grpo_vectorized"), "group_normalized",
          of_group(_NORMALIZED)),
      Row("verl", "grpo, not divided by the std", verl("grpo", norm_adv_by_std_in_grpo=False),
          "group_centered", of_group(_CENTERED)),
      Row("verl", "rloo", verl("rloo"), "leave_one_out", of_group(_LOO)),
      Row("verl", "rloo", verl("rloo"), "leave_one_out", of_group(_LOO), ALONE, False),
      Row("verl", "rloo", verl("rloo"), "leave_one_out(group_of_one=\"raw\")",
          of_group(_LOO, group_of_one="raw"), ALONE),
      Row("verl", "rloo_vectorized", verl("rloo_vectorized"), "leave_one_out", of_group(_LOO)),
      Row("verl", "rloo_vectorized", verl("rloo_vectorized"), "leave_one_out", of_group(_LOO),
          ALONE),
      Row("verl", "opo", verl("opo"), "opo", of_group(losses.opo)),
      Row("verl", "opo", verl("opo"), "opo", of_group(losses.opo), ALONE, False),
      Row("verl", "opo", verl("opo"), "opo(group_of_one=\"raw\")",
          of_group(losses.opo, group_of_one="raw"), ALONE),
      Row("verl", "remax", verl("remax"), "remax", of_group(losses.remax)),
      Row("verl", "reinforce_plus_plus", verl("reinforce_plus_plus"),
          "no_baseline, whiten(ddof=1)", plus_plus),
      Row("verl", "reinforce_plus_plus", verl("reinforce_plus_plus"), "no_baseline, whiten",
          whitened(of_group(losses.no_baseline)), is_same=False),
      Row("verl", "reinforce_plus_plus_baseline", verl("reinforce_plus_plus_baseline"),
          "group_centered, whiten(ddof=1)", baseline),
  ]


def _trl_advantage_rows():
  trl = lambda scale: ("trl.grpo_advantage", {"scale": scale})
  return [
      Row("TRL", "GRPO, scale_rewards=\"group\"", trl("group"),
          "group_normalized(epsilon=1e-4)", of_group(_NORMALIZED, tokens=False, epsilon=1e-4)),
      Row("TRL", "GRPO, scale_rewards=\"group\"", trl("group"), "group_normalized",
          of_group(_NORMALIZED, tokens=False), is_same=False),
      Row("TRL", "GRPO, scale_rewards=\"group\"", trl("group"),
          "group_normalized(epsilon=1e-4), is_kept",
          of_group(_NORMALIZED, tokens=False, epsilon=1e-4), "two not scored"),
      Row("TRL", "GRPO, scale_rewards=\"group\"", trl("group"),
          "group_normalized(epsilon=1e-4)", of_group(_NORMALIZED, tokens=False, epsilon=1e-4),
          ALONE),
      Row("TRL", "GRPO, scale_rewards=\"group\"", trl("group"),
          "group_normalized(epsilon=1e-4)", of_group(_NORMALIZED, tokens=False, epsilon=1e-4),
          FLAT, False),
      Row("TRL", "GRPO, scale_rewards=\"batch\"", trl("batch"), "batch_normalized",
          of_group(losses.batch_normalized, tokens=False)),
      Row("TRL", "GRPO, scale_rewards=\"none\"", trl("none"), "group_centered",
          of_group(_CENTERED, tokens=False)),
      Row("TRL", "RLOO", ("trl.rloo_advantage", {}), "leave_one_out",
          of_group(_LOO, tokens=False)),
      Row("TRL", "RLOO", ("trl.rloo_advantage", {}), "leave_one_out",
          of_group(_LOO, tokens=False), ALONE),
      Row("TRL", "RLOO", ("trl.rloo_advantage", {}), "leave_one_out, is_kept",
          of_group(_LOO, tokens=False), "two not scored"),
  ]


def _other_advantage_rows():
  open_rlhf = lambda name: ("openrlhf.advantage", {"estimator": name})
  tunix = lambda name: ("jax.advantage", {"estimator": name})
  return [
      Row("OpenRLHF", "group_norm", open_rlhf("group_norm"), "group_normalized(epsilon=1e-9)",
          _twice(of_group(_NORMALIZED, epsilon=1e-9))),
      Row("OpenRLHF", "group_norm", open_rlhf("group_norm"), "group_normalized(epsilon=1e-9)",
          _twice(of_group(_NORMALIZED, epsilon=1e-9)), FLAT, False),
      Row("OpenRLHF", "dr_grpo", open_rlhf("dr_grpo"), "group_centered",
          _twice(of_group(_CENTERED))),
      Row("OpenRLHF", "rloo", open_rlhf("rloo"), "leave_one_out", _twice(of_group(_LOO))),
      Row("OpenRLHF", "reinforce_baseline", open_rlhf("reinforce_baseline"),
          "group_centered, whiten",
          lambda x: flat(whitened(of_group(_CENTERED))(x), of_group(_CENTERED)(x))),
      Row("OpenRLHF", "reinforce", open_rlhf("reinforce"), "no_baseline, whiten",
          lambda x: flat(whitened(of_group(losses.no_baseline))(x),
                         of_group(losses.no_baseline)(x))),
      Row("AReaL", "Normalization(mean group, std group)",
          ("areal.advantage", {"mean_level": "group", "std_level": "group", "std_unbiased": True,
                               "eps": 1e-5}),
          "group_normalized(epsilon=1e-5)", of_group(_NORMALIZED, tokens=False, epsilon=1e-5)),
      Row("AReaL", "Normalization(mean group, std group, biased)",
          ("areal.advantage", {"mean_level": "group", "std_level": "group", "std_unbiased": False,
                               "eps": 1e-5}),
          "group_normalized(ddof=0, epsilon=1e-5)",
          of_group(_NORMALIZED, tokens=False, ddof=0, epsilon=1e-5)),
      Row("AReaL", "Normalization(mean group, leave one out)",
          ("areal.advantage", {"mean_level": "group", "mean_leave1out": True, "std_level": None,
                               "eps": 1e-5}),
          "leave_one_out", of_group(_LOO, tokens=False)),
      Row("Tunix", "compute_advantages", tunix("grpo"), "group_normalized",
          of_group(_NORMALIZED, tokens=False)),
      Row("Tunix", "compute_drgrpo_advantages", tunix("drgrpo"), "group_centered",
          of_group(_CENTERED, tokens=False)),
      Row("Tunix", "compute_rloo_advantages", tunix("rloo"), "leave_one_out",
          of_group(_LOO, tokens=False)),
  ]


def _twice(run):
  """For a peer that also returns the advantages as returns."""
  return lambda x: flat(run(x), run(x))


def _gae(*, discount, gae_lambda, whiten=None, carry_gaps=True, returns=True):
  def run(x):
    x = arrays(x)
    advantages, targets = losses.gae(
        x["rewards"], x["values"], x["mask"], discount=discount, gae_lambda=gae_lambda,
        carry_gaps=carry_gaps)
    if whiten is not None:
      advantages = masks.whiten(advantages, x["mask"], ddof=whiten)
    return flat(advantages, targets) if returns else flat(advantages)
  return run


def return_rows():
  some = {"gamma": 0.97, "lam": 0.9}
  ours = {"discount": 0.97, "gae_lambda": 0.9}

  def to_go(carry_gaps):
    def run(x):
      x = arrays(x)
      nothing = jnp.zeros_like(x["rewards"])
      return flat(losses.gae(x["rewards"], nothing, x["mask"], discount=0.9, gae_lambda=1.0,
                             carry_gaps=carry_gaps)[1])
    return run

  def n_steps(x):
    x = arrays(x)
    return flat(losses.n_step_returns(
        x["rewards"], x["values"], x["mask"], discount=0.97, num_steps=3)[1])

  def paid(x):
    x = arrays(x)
    rewards = losses.terminal_rewards(x["scores"].reshape(-1), x["mask"])
    kl = losses.kl_estimate(x["log_probs"], x["ref_log_probs"], "k1")
    return flat(masks.zero_masked(rewards - 0.1 * kl, x["mask"]))

  def whiten(shift_mean, ddof):
    return lambda x: flat(masks.whiten(
        arrays(x)["rewards"], arrays(x)["mask"], shift_mean=shift_mean, ddof=ddof))

  return [
      Row("verl", "gae", ("verl.gae", some), "gae, whiten(ddof=1)", _gae(**ours, whiten=1)),
      Row("verl", "gae", ("verl.gae", some), "gae, whiten", _gae(**ours, whiten=0),
          is_same=False),
      Row("verl", "gae", ("verl.gae", some), "gae, whiten(ddof=1)", _gae(**ours, whiten=1), GAPS),
      Row("Tunix", "compute_gae_advantages", ("jax.gae", some), "gae, whiten(ddof=1)",
          _gae(**ours, whiten=1), GAPS),
      Row("OpenRLHF", "get_advantages_and_returns", ("openrlhf.gae", some), "gae", _gae(**ours)),
      Row("OpenRLHF", "get_advantages_and_returns", ("openrlhf.gae", some), "gae", _gae(**ours),
          GAPS, False),
      Row("OpenRLHF", "get_advantages_and_returns", ("openrlhf.gae", some),
          "gae(carry_gaps=False)", _gae(**ours, carry_gaps=False), GAPS, False),
      Row("OpenRLHF", "get_advantages_and_returns, γ = λ = 1",
          ("openrlhf.gae", {"gamma": 1.0, "lam": 1.0}), "gae",
          _gae(discount=1.0, gae_lambda=1.0), GAPS),
      Row("RLax", "truncated_generalized_advantage_estimation", ("jax.rlax_gae", some), "gae",
          _gae(**ours, returns=False), "no padding"),
      Row("RLax", "n_step_bootstrapped_returns",
          ("jax.rlax_n_step_returns", {"gamma": 0.97, "n": 3}), "n_step_returns(num_steps=3)",
          n_steps, "no padding"),
      Row("verl", "reinforce_plus_plus, returns", ("verl.discounted_returns", {"gamma": 0.9}),
          "returns_to_go", to_go(True)),
      Row("verl", "reinforce_plus_plus, returns", ("verl.discounted_returns", {"gamma": 0.9}),
          "returns_to_go", to_go(True), GAPS),
      Row("verl", "masked_whiten", ("verl.whiten", {"shift_mean": True}), "whiten(ddof=1)",
          whiten(True, 1)),
      Row("verl", "masked_whiten, shift_mean=False", ("verl.whiten", {"shift_mean": False}),
          "whiten(shift_mean=False, ddof=1)", whiten(False, 1)),
      Row("OpenRLHF", "compute_reward", ("openrlhf.reward", {"kl_coef": 0.1}),
          "terminal_rewards, kl_estimate(\"k1\")", paid),
  ]


def kl_rows():
  verl = lambda name: ("verl.kl", {"estimator": name})
  open_rlhf = lambda name: ("openrlhf.kl", {"estimator": name})
  areal = lambda name, clamp: ("areal.kl", {"estimator": name, "clamp": clamp})
  tunix = lambda name, clamp=None: ("jax.kl", {"method": name, "clamp": clamp})
  far = "differences of 30"

  def ours(estimator, **options):
    return of_tokens(
        lambda log_probs, x: losses.kl_estimate(
            log_probs, x["ref_log_probs"], estimator, **options), "token-sum")

  rows = []
  for name, of_tunix in (("k1", "kl"), ("k2", "mse_kl"), ("k3", "low_var_kl")):
    text = f"kl_estimate(\"{name}\")"
    rows += [Row("verl", f"kl_penalty(\"{name}\")", verl(name), text, ours(name)),
             Row("OpenRLHF", f"compute_approx_kl(\"{name}\")", open_rlhf(name), text, ours(name)),
             Row("AReaL", f"KLEstimator(\"{name}\")", areal(name, False), text, ours(name)),
             Row("Tunix", f"compute_kl_divergence(\"{of_tunix}\")", tunix(of_tunix), text,
                 ours(name))]
  rows += [
      Row("verl", "kl_penalty(\"k3\")", verl("k3"), "kl_estimate(\"k3\")", ours("k3"), far, False),
      Row("verl", "kl_penalty(\"k3\")", verl("k3"),
          "kl_estimate(\"k3\", clamp_ratio=20, clamp=10)",
          ours("k3", clamp_ratio=20.0, clamp=10.0), far),
      Row("verl", "kl_penalty(\"k1\")", verl("k1"), "kl_estimate(\"k1\")", ours("k1"), far)]
  for name in ("k1", "k2", "k3"):
    text = f"kl_estimate(\"{name}\", clamp=10)"
    rows += [Row("OpenRLHF", f"compute_approx_kl(\"{name}\")", open_rlhf(name), text,
                 ours(name, clamp=10.0), far)]
  rows += [
      Row("AReaL", "KLEstimator(\"k2\", apply_clamp=True)", areal("k2", True),
          "kl_estimate(\"k2\", clamp=10)", ours("k2", clamp=10.0), far),
      Row("Tunix", "compute_kl_divergence(\"low_var_kl\", clamp_value=10)",
          tunix("low_var_kl", 10.0), "kl_estimate(\"k3\", clamp=10)", ours("k3", clamp=10.0), far)]
  return rows + _controller_rows()


def _controller_rows():
  options = {"coef": 0.15, "target": 6.0, "horizon": 10000.0, "steps": 512}

  def adaptive(x):
    return flat(losses.adapt_kl_coef(
        jnp.float32(0.15), arrays(x)["measured_kl"], target=6.0, horizon=10000.0,
        num_sequences=512))

  def entropy(x):
    results = []
    for measured in arrays(x)["entropies"]:
      results += [
          losses.adapt_entropy_coef(jnp.float32(0.01), measured, target=0.2, step_size=0.005),
          losses.active_entropy_coef(jnp.float32(0.01), measured, target=0.2)]
    return flat(*results)

  return [
      Row("verl", "AdaptiveKLController", ("verl.adaptive_kl", options), "adapt_kl_coef",
          adaptive),
      Row("OpenRLHF", "AdaptiveKLController", ("openrlhf.adaptive_kl", options), "adapt_kl_coef",
          adaptive),
      Row("TRL", "GRPO, use_adaptive_entropy",
          ("trl.entropy_control", {"coef": 0.01, "target": 0.2, "step": 0.005}),
          "adapt_entropy_coef, active_entropy_coef", entropy),
  ]
