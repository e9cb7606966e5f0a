"""Settings of the methods of the literature, one function each.

A preset holds only what defines the method: slots, coefficients, means. Sizes, and an experiment's
deviations from the paper, are `changes`. How a method changes data, rollouts and rewards is in its
recipe (experiments/); docs/algorithms.md compares all of them.
"""

import dataclasses
from typing import Any, Literal

from rlreason import config as config_lib, losses
from rlreason.algorithms.policy_gradient.config import PolicyGradientConfig
from rlreason.slots import Slot

_NO_CRITIC = dict(critic="none", whiten_advantages=False)
_NO_KL = dict(kl_coef=0.0)


def _mask(mean, low, high, **options) -> Slot:
  return Slot(losses.sequence_mask, {"mean": mean, "low": low, "high": high, **options})


# A `correction` that masks whole completions, with the defaults of released implementations. TRL
# masks by the product, and weights by it; NeMo RL and OpenRLHF weight the kept tokens by their own
# ratios; OpenRLHF's bounds are those of its tokens, which geometric means rarely exceed.
SAMPLER_MASKS = {
    "verl": {"geometric": _mask("geometric", 0.999, 1.001), "product": _mask("product", 0.5, 2.0)},
    "TRL": {"product": _mask("product", 0.0, 3.0, importance="sequence")},
    "SkyRL": {"geometric": _mask("geometric", 0.99, 1.01), "product": _mask("product", 0.5, 2.0)},
    "NeMo RL": {"geometric": _mask("geometric", 0.999, 1.002, importance="token")},
    "OpenRLHF": {"geometric": _mask("geometric", 0.5, 5.0, importance="token")}}


def _preset(*settings: dict[str, Any]) -> PolicyGradientConfig:
  """Later settings replace earlier ones."""
  merged = {}
  for setting in settings:
    merged |= _by_new_names(setting)
  return PolicyGradientConfig(**merged)


def _by_new_names(changes: dict[str, Any]) -> dict[str, Any]:
  fields = [field.name for field in dataclasses.fields(PolicyGradientConfig)]
  return config_lib.with_new_names(changes, fields, "algorithm")


def ppo(**changes) -> PolicyGradientConfig:
  """PPO with a critic, as RLSP uses it: https://arxiv.org/abs/2502.06773."""
  return _preset(changes)


def ppo_rlhf(**changes) -> PolicyGradientConfig:
  """PPO from preferences with the details that change results, https://arxiv.org/abs/1909.08593.

  Rewards scaled without their mean, advantages whitened, an adaptive KL coefficient, four epochs.
  """
  return _preset(dict(
      epochs=4, whiten_rewards=True, kl_coef=0.15, kl_target=6.0, kl_horizon=10000.0,
      value_coef=0.1, value_clip=0.2, aggregation="token-mean"), changes)


def grpo(*, ddof: int = 1, epsilon: float = 1e-6, **changes) -> PolicyGradientConfig:
  """GRPO, https://arxiv.org/abs/2402.03300, eqs. (3)-(4).

  Released implementations differ: verl and OpenRLHF divide by the sample std (ddof=1) plus 1e-6 and
  1e-9, TRL plus 1e-4.

  Args:
    ddof: subtracted from the number of scores in the variance; 0 or 1.
    epsilon: added to the std.
    **changes: to the settings.
  """
  return _preset(_NO_CRITIC, dict(
      advantage=Slot(losses.group_normalized, {"ddof": ddof, "epsilon": epsilon}),
      kl_coef=0.04, kl_placement="loss", kl_estimator="k3"), changes)


def grpo_of(code: Literal["verl", "TRL", "OpenRLHF"], **changes) -> PolicyGradientConfig:
  """GRPO with the defaults of a released implementation, which differ from the paper.

  The versions are verl 0.9, TRL 1.16 and OpenRLHF 0.11 (docs/formulas.md compares the functions). A
  KL in the loss is an option of verl and OpenRLHF, here on, with their default coefficients; k3 is
  one of the two estimates that OpenRLHF recommends for it. TRL's default is no KL.

  Args:
    code: the implementation.
    **changes: to the settings.

  Raises:
    ValueError: there is no such implementation.
  """
  slots = lambda advantage, loss: {
      "advantage": Slot(losses.group_normalized, advantage),
      "policy_loss": Slot(losses.clipped_surrogate, loss)}
  settings = {
      "verl": dict(
          slots({"epsilon": 1e-6, "group_of_one": "raw"}, {"dual_clip": 3.0}), kl_coef=0.001,
          kl_clamp_ratio=20.0, kl_clamp=10.0),
      "TRL": dict(slots({"epsilon": 1e-4}, {}), kl_coef=0.0),
      "OpenRLHF": dict(
          slots({"epsilon": 1e-9}, {"max_log_ratio": 20.0}), kl_coef=0.01, kl_clamp=10.0)}
  if code not in settings:
    raise ValueError(f"code: got {code!r}, allowed: {', '.join(settings)}")
  return grpo(**dict(aggregation="token-mean") | settings[code] | changes)


def deepseek_v3_2(**changes) -> PolicyGradientConfig:
  """GRPO as for DeepSeek-V3.2, https://arxiv.org/abs/2512.02556.

  The KL in the loss is unbiased, and completions of negative advantage that have become too
  unlikely are masked. The threshold of the mask is that of TRL's example; the paper gives none.
  """
  return grpo(**dict(
      unbiased_kl=True, correction=Slot(losses.off_policy_mask), recompute_log_probs=True)
              | changes)


def masked_sequences(**changes) -> PolicyGradientConfig:
  """GRPO without completions on which sampler and trainer differ; the geometric mean, as verl."""
  return grpo(**dict(
      correction=SAMPLER_MASKS["verl"]["geometric"], recompute_log_probs=True, kl_coef=0.0)
              | changes)


def r1_zero(**changes) -> PolicyGradientConfig:
  """GRPO as for DeepSeek-R1-Zero, https://arxiv.org/abs/2501.12948, with a moving reference."""
  return grpo(**dict(kl_coef=0.001, reference_every=400) | changes)


def dr_grpo(*, max_length: int, **changes) -> PolicyGradientConfig:
  """Dr. GRPO, https://arxiv.org/abs/2503.20783: no division by the std or by lengths.

  Args:
    max_length: tokens; the constant by which sums over a completion are divided.
    **changes: to the settings.
  """
  return _preset(_NO_CRITIC, _NO_KL, dict(
      advantage=Slot(losses.group_centered), aggregation="constant", constant_length=max_length),
      changes)


def dapo(**changes) -> PolicyGradientConfig:
  """DAPO, https://arxiv.org/abs/2503.14476: clip-higher, token mean, overlong filtering, no KL.

  Its dynamic sampling and soft overlong punishment are in the recipe.
  """
  return _preset(_NO_CRITIC, _NO_KL, dict(
      advantage=Slot(losses.group_normalized), aggregation="token-mean", mask_truncated=True,
      policy_loss=Slot(losses.clipped_surrogate, {"clip_low": 0.2, "clip_high": 0.28})), changes)


def gspo(**changes) -> PolicyGradientConfig:
  """GSPO, https://arxiv.org/abs/2507.18071: one ratio for a whole completion."""
  return _preset(_NO_CRITIC, _NO_KL, dict(
      advantage=Slot(losses.group_normalized),
      policy_loss=Slot(losses.gspo, {"clip_low": 3e-4, "clip_high": 4e-4})), changes)


def luspo(**changes) -> PolicyGradientConfig:
  """LUSPO, https://arxiv.org/abs/2602.05261: GSPO with rows weighted by their length."""
  return gspo(**dict(
      policy_loss=Slot(losses.gspo, {"clip_low": 2e-3, "clip_high": 2.5e-3}),
      aggregation="sequence-sum") | changes)


def gmpo(**changes) -> PolicyGradientConfig:
  """GMPO, https://arxiv.org/abs/2507.20673: the geometric mean of clipped ratios."""
  return _preset(_NO_CRITIC, _NO_KL, dict(
      advantage=Slot(losses.group_normalized), policy_loss=Slot(losses.gmpo)), changes)


def sapo(**changes) -> PolicyGradientConfig:
  """SAPO, https://arxiv.org/abs/2511.20347: a smooth gate instead of the clip."""
  return _preset(_NO_CRITIC, _NO_KL, dict(
      advantage=Slot(losses.group_normalized), policy_loss=Slot(losses.sapo)), changes)


def two_sided_clip(*, delta: float, **changes) -> PolicyGradientConfig:
  """GRPO's clip, and a bound δ on the ratio where A < 0: INTELLECT-2, TRL's `delta`.

  https://arxiv.org/abs/2505.07291. It is a dual clip: both are |A| min(max(ρ, 1 - ε_low), δ) where
  A < 0, and where A > 0 δ never binds.

  Args:
    delta: δ, at least 1 + ε_high, which is 1.2.
    **changes: to the settings.

  Raises:
    ValueError: it is less, so that it would also clip tokens with A > 0.
  """
  if delta < 1.2:
    raise ValueError(f"delta: got {delta}, allowed: at least 1 + clip_high = 1.2")
  return grpo(**dict(
      policy_loss=Slot(losses.clipped_surrogate, {
          "clip_low": 0.2, "clip_high": 0.2, "dual_clip": delta}), kl_coef=0.0) | changes)


def cispo(*, max_weight: float | None = None, **changes) -> PolicyGradientConfig:
  """CISPO, https://arxiv.org/abs/2506.13585: importance weights are clipped, gradients are not.

  Args:
    max_weight: the largest weight, where TRL, ms-swift and ScaleRL
      (https://arxiv.org/abs/2510.13786) have 5 and Tinker has 4; None: 1 + ε_high, of 0.28.
    **changes: to the settings.

  Raises:
    ValueError: the weight is below 1.
  """
  if max_weight is not None and max_weight < 1:
    raise ValueError(f"max_weight: got {max_weight}, allowed: 1 or more")
  clip_high = 0.28 if max_weight is None else max_weight - 1.0
  return _preset(_NO_CRITIC, _NO_KL, dict(
      advantage=Slot(losses.group_normalized), aggregation="token-mean",
      policy_loss=Slot(losses.cispo, {"clip_low": 1.0, "clip_high": clip_high})), changes)


def dppo(*, divergence: Literal["tv", "kl"] = "tv", **changes) -> PolicyGradientConfig:
  """DPPO, https://arxiv.org/abs/2602.04879: no gradient where a probability has moved too far.

  It has the bounds of SkyRL and prime-rl (total variation, 0.2) or of verl's script (KL, 0.05).
  Advantages without division by the std, and the mean over all tokens, are prime-rl's.

  Args:
    divergence: of "this token or another": the total variation, or the KL.
    **changes: to the settings.

  Raises:
    ValueError: no such divergence.
  """
  functions = {"tv": losses.dppo_tv, "kl": losses.dppo_kl}
  if divergence not in functions:
    raise ValueError(f"divergence: got {divergence!r}, allowed: {', '.join(functions)}")
  return _preset(_NO_CRITIC, _NO_KL, dict(
      advantage=Slot(losses.group_centered), aggregation="token-mean",
      policy_loss=Slot(functions[divergence])), changes)


def vespo(**changes) -> PolicyGradientConfig:
  """VESPO, https://arxiv.org/abs/2602.10693: smoothly vanishing weights of sequences."""
  return _preset(_NO_CRITIC, _NO_KL, dict(
      advantage=Slot(losses.group_normalized), aggregation="token-mean",
      policy_loss=Slot(losses.vespo)), changes)


def vapo(**changes) -> PolicyGradientConfig:
  """VAPO, https://arxiv.org/abs/2504.05118: a critic learns first, from Monte Carlo returns."""
  return _preset(_NO_KL, dict(
      critic="separate", critic_warmup_steps=50, critic_lambda=1.0, length_adaptive_alpha=0.05,
      policy_loss=Slot(losses.clipped_surrogate, {"clip_low": 0.2, "clip_high": 0.28}),
      aggregation="token-mean", nll_coef=0.1), changes)


def rloo(**changes) -> PolicyGradientConfig:
  """RLOO, https://arxiv.org/abs/2402.14740: the KL is in the score, the others are the baseline."""
  return _preset(_NO_CRITIC, dict(
      advantage=Slot(losses.leave_one_out), policy_loss=Slot(losses.reinforce),
      aggregation="sequence-sum", kl_coef=0.05, kl_placement="score"), changes)


def reinforce_plus_plus(**changes) -> PolicyGradientConfig:
  """REINFORCE++, https://arxiv.org/abs/2501.03262: token rewards, normalised over the batch."""
  return _preset(dict(
      critic="none", whiten_advantages=True, advantage=Slot(losses.no_baseline), kl_coef=0.01,
      kl_placement="reward", aggregation="token-mean"), changes)


def reinforce_plus_plus_baseline(**changes) -> PolicyGradientConfig:
  """REINFORCE++ with the mean of the group as a baseline, and the KL (k2) in the loss."""
  return _preset(dict(
      critic="none", whiten_advantages=True, advantage=Slot(losses.group_centered), kl_coef=0.01,
      kl_placement="loss", kl_estimator="k2", aggregation="token-mean"), changes)


def remax(**changes) -> PolicyGradientConfig:
  """ReMax, https://arxiv.org/abs/2310.10505: the greedy completion is the baseline."""
  return _preset(_NO_CRITIC, dict(
      advantage=Slot(losses.remax), policy_loss=Slot(losses.reinforce), aggregation="sequence-sum",
      kl_coef=0.05, kl_placement="reward"), changes)


def opo(**changes) -> PolicyGradientConfig:
  """OPO, https://arxiv.org/abs/2505.23585: the baseline of least variance, exactly on-policy."""
  return _preset(_NO_CRITIC, _NO_KL, dict(
      advantage=Slot(losses.opo), policy_loss=Slot(losses.reinforce), aggregation="sequence-sum"),
      changes)


def pass_at_k(*, k: int, **changes) -> PolicyGradientConfig:
  """Pass@k training: k completions of a group share a reward, https://arxiv.org/abs/2508.10751.

  Args:
    k: number of completions that share a reward.
    **changes: to the settings.
  """
  return dapo(**dict(advantage=Slot(losses.pass_at_k, {"k": k})) | changes)


def max_rl(*, order: Literal["G-1", "G"] = "G-1", **changes) -> PolicyGradientConfig:
  """MaxRL, https://arxiv.org/abs/2602.02710: maximises the log success rate, not the rate.

  Args:
    order: "G" also lowers the probability of a failed group's completions.
    **changes: to the settings.
  """
  return _preset(_NO_CRITIC, _NO_KL, dict(
      advantage=Slot(losses.max_rl, {"order": order}), aggregation="token-mean"), changes)


def gdpo(**changes) -> PolicyGradientConfig:
  """GDPO, https://arxiv.org/abs/2601.05242: rewards are normalised one by one, then added."""
  return _preset(_NO_CRITIC, _NO_KL, dict(
      advantage=Slot(losses.gdpo), aggregation="token-mean"), changes)


def top_entropy(*, fraction: float = 0.2, **changes) -> PolicyGradientConfig:
  """DAPO on the tokens of the highest entropy alone, https://arxiv.org/abs/2506.01939.

  Args:
    fraction: of the tokens of a minibatch.
    **changes: to the settings.
  """
  return dapo(**dict(
      policy_loss=Slot(losses.selected_surrogate),
      selection=Slot(losses.select_high_entropy, {"fraction": fraction})) | changes)


def clip_cov(**changes) -> PolicyGradientConfig:
  """Clip-Cov, https://arxiv.org/abs/2505.22617: no gradient for some tokens that lower entropy."""
  return dapo(**dict(
      policy_loss=Slot(losses.clip_cov, {"clip_low": 1.0, "clip_high": 1.0}),
      selection=Slot(losses.select_clip_cov)) | changes)


def kl_cov(**changes) -> PolicyGradientConfig:
  """KL-Cov, https://arxiv.org/abs/2505.22617: a KL penalty on tokens that lower entropy most."""
  return dapo(**dict(
      policy_loss=Slot(losses.kl_cov), selection=Slot(losses.select_kl_cov)) | changes)


def t1(**changes) -> PolicyGradientConfig:
  """T1, https://arxiv.org/abs/2501.11651: RLOO, an entropy bonus and a moving reference."""
  return _preset(_NO_CRITIC, dict(
      advantage=Slot(losses.leave_one_out), policy_loss=Slot(losses.reinforce),
      kl_coef=0.05, kl_placement="score", whiten_kl=True, reference_every=1, reference_decay=0.99,
      entropy_coef=0.001), changes)


def dash(**changes) -> PolicyGradientConfig:
  """DASH, https://arxiv.org/abs/2505.17218: on-policy, without the completions of |A| <= 0.1.

  With a KL or an entropy bonus in the loss, dropped completions lose those gradients as well; with
  `kl_coef=0`, the paper's "No-KL", the filter does not change the gradient.
  """
  return grpo(**dict(advantage_threshold=0.1) | _by_new_names(changes))


def one_example(**changes) -> PolicyGradientConfig:
  """GRPO as for one-example RLVR, https://arxiv.org/abs/2504.20571, with an entropy bonus."""
  return grpo(**dict(kl_coef=0.001, entropy_coef=0.001) | changes)


def latro(**changes) -> PolicyGradientConfig:
  """LaTRO, https://arxiv.org/abs/2411.04282, eq. (4): the model's own likelihood of the answer.

  The second term (`nll_coef`) is the paper's; it is off by default in the released script.
  """
  return _preset(_NO_CRITIC, dict(
      advantage=Slot(losses.leave_one_out), policy_loss=Slot(losses.reinforce),
      aggregation="sequence-sum", nll_coef=1.0, nll_aggregation="sequence-sum", kl_coef=0.05,
      kl_placement="score", truncated_score=2.0, recompute_log_probs=True), changes)


def rlpr(**changes) -> PolicyGradientConfig:
  """RLPR, https://arxiv.org/abs/2506.18254: the mean probability of the answer, no verifier.

  The clip is that of the released script. Its baseline, the answer's probability without reasoning,
  is the same for a group and cancels with the group's mean; its filter of groups by a moving
  average of stds is not implemented.
  """
  return _preset(_NO_CRITIC, _NO_KL, dict(
      advantage=Slot(losses.group_normalized), answer_score="mean_prob", aggregation="token-mean",
      policy_loss=Slot(losses.clipped_surrogate, {"clip_low": 0.2, "clip_high": 0.27}),
      recompute_log_probs=True), changes)


def on_policy_distillation(**changes) -> PolicyGradientConfig:
  """On-policy distillation as a policy gradient: A_t = log π_T - log π_old of each sampled token.

  https://thinkingmachines.ai/blog/on-policy-distillation. The reference of the stage is the teacher
  (`reference_path`), its KL the only reward, and with a discount of 0 each token gets only its own:
  with 1 it would also get all that follow, with the same expectation and more variance. The
  expected gradient is that of the reverse KL of each token (`losses.reverse_kl`), but only the
  teacher's log-prob of the sampled token is needed. A reward of the completion would reach only its
  last token.
  """
  return _preset(_NO_CRITIC, dict(
      advantage=Slot(losses.no_baseline), discount=0.0, kl_coef=1.0, kl_placement="reward",
      aggregation="token-mean"), changes)


def satori(**changes) -> PolicyGradientConfig:
  """PPO as in Satori, https://arxiv.org/abs/2502.02508: no KL."""
  return _preset(_NO_KL, dict(critic="separate", aggregation="token-mean"), changes)
