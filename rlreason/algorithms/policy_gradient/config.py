"""Settings of the policy-gradient core, in which the methods of the literature differ.

The defaults are PPO's with a critic. `presets` holds the settings of the named methods.
"""

import dataclasses
from typing import Literal

from rlreason import masks
from rlreason.config import Unread, check_unread
from rlreason.losses import kl
from rlreason.losses.advantages import has_units_of_rewards, no_baseline
from rlreason.losses.policy import clipped_surrogate
from rlreason.slots import Slot

ADVANTAGE_ARRAYS = (
    "scores", "is_kept", "lengths", "greedy_scores", "parts", "part_weights")
LOSS_ARRAYS = (
    "log_probs", "old_log_probs", "sampler_log_probs", "advantages", "mask", "is_selected")
CORRECTION_ARRAYS = ("log_probs", "old_log_probs", "sampler_log_probs", "advantages", "mask")
SELECTION_ARRAYS = (
    "old_log_probs", "sampler_log_probs", "old_entropies", "advantages", "mask", "key")


@dataclasses.dataclass(frozen=True)
class PolicyGradientConfig:
  """Settings of a policy-gradient update."""

  epochs: int = 1  # passes over each rollout
  minibatch_size: int = 64  # sequences per optimiser step, over all devices
  micro_batch_size: int = 0  # sequences per gradient pass, over all devices; 0 = minibatch_size
  recompute_log_probs: bool = False  # old log-probs by the trainer instead of the sampler's own
  # A group's prompt is computed once and its completions are packed, if layout and sizes allow it:
  # micro-batches must be whole groups. The results are the same.
  share_prompts: bool = True
  # Where no prompt is shared, prompts and completions are packed into rows one after the other,
  # with almost no padding. The results are the same up to rounding. Not for models with experts,
  # which are balanced over a pass.
  pack_rows: bool = True
  packed_width: int = 0  # tokens of a packed row; 0 = chosen from the lengths of each step

  # Advantages. The slot turns the scores of a group into advantages of its completions; a critic,
  # if there is one, then distributes them over tokens (GAE), and without one each token gets the
  # rewards that follow it in its completion.
  advantage: Slot = Slot(no_baseline)
  discount: float = 1.0  # γ per token, in [0, 1]
  gae_lambda: float = 0.95  # λ in [0, 1]
  critic_lambda: float | None = None  # λ of the critic's returns; None = gae_lambda
  length_adaptive_alpha: float | None = None  # λ = 1 - 1 / (α length) for the policy; None = fixed
  bootstrap_truncated: bool = False  # a truncated completion ends with V instead of 0
  whiten_rewards: bool = False  # scale token rewards to unit variance, mean kept
  whiten_advantages: bool = True  # scale and shift advantages over the batch
  whiten_ddof: Literal[0, 1] = 0  # subtracted from the count in the variance; verl: 1
  mask_truncated: bool = False  # no training on truncated completions; they count in their group
  # Where an answer is given after the reasoning (`answer_template`), its log-likelihood or the mean
  # probability of its tokens is the score.
  answer_score: Literal["log_prob", "mean_prob"] = "log_prob"
  truncated_score: float | None = None  # their score, times the batch mean; None = unchanged
  # Completions whose advantages are all within ± this are dropped before the forward pass; None =
  # none are. They count in the mean over the minibatch, or not.
  advantage_threshold: float | None = None
  advantage_threshold_normalizer: Literal["all", "kept"] = "all"

  # The policy's loss.
  policy_loss: Slot = Slot(clipped_surrogate)  # the loss of each token
  correction: Slot | None = None  # weights that correct the sampler-trainer mismatch
  selection: Slot | None = None  # tokens that `policy_loss` treats differently
  # How token losses are aggregated: the mean or sum over all tokens, the mean over sequences of
  # their means or of their sums, or sums divided by `constant_length`.
  aggregation: masks.Aggregation = "sequence-mean"
  constant_length: int = 1  # tokens; only for aggregation="constant"
  # Weight of the negative log-likelihood of right completions, and of given answers if there are
  # any; and how it is averaged.
  nll_coef: float = 0.0
  nll_aggregation: masks.Aggregation = "token-mean"
  entropy_coef: float = 0.0  # weight of the entropy bonus; negative lowers entropy
  entropy_target: float | None = None  # nats per token; the coefficient then moves to reach it
  entropy_step: float = 0.005  # its change per update

  # The critic.
  critic: Literal["none", "shared", "separate"] = "shared"  # a head on the policy, or a model
  critic_warmup_steps: int = 0  # first steps in which only the critic learns
  value_clip: float | None = 0.2  # values move at most this far per step; None = no limit
  value_coef: float = 0.1  # weight of the value loss
  huber_delta: float | None = None  # value errors beyond this count linearly; None = squared

  # The reference.
  kl_coef: float = 0.05  # weight of the KL to the reference, per nat; 0 = no reference
  # In the reward of each token, in the score of the completion, or in the loss.
  kl_placement: Literal["reward", "score", "loss"] = "reward"
  kl_estimator: Literal["k1", "k2", "k3"] = "k1"  # k1 in rewards and scores; k2 or k3 in the loss
  # Allows k2 and k3 in rewards and scores, and k1 in the loss, as released implementations do.
  # Their gradient is not that of the KL: that of k1 in the loss has expectation 0.
  allow_any_kl: bool = False
  unbiased_kl: bool = False  # in the loss: times π / π_old, with its gradient
  kl_clamp_ratio: float | None = None  # clips the log-ratio to ± this; None = no clip
  kl_clamp: float | None = None  # clips the estimate to ± this
  kl_target: float | None = None  # nats per sequence; None = the coefficient is fixed
  kl_horizon: float = 10000.0  # sequences over which an adaptive coefficient moves
  whiten_kl: bool = False  # scale and shift the KL of completions over the batch; only in the score
  reference_every: int = 0  # steps after which the reference moves; 0 = never
  reference_decay: float = 0.0  # share of the old reference in the new one, in [0, 1]

  def __post_init__(self):
    limits = {
        "epochs": (1, None), "minibatch_size": (1, None), "micro_batch_size": (0, None),
        "packed_width": (0, None), "discount": (0, 1), "gae_lambda": (0, 1),
        "critic_lambda": (0, 1), "advantage_threshold": (0, None), "constant_length": (1, None),
        "nll_coef": (0, None), "entropy_step": (0, None), "critic_warmup_steps": (0, None),
        "value_clip": (0, None), "value_coef": (0, None), "kl_coef": (0, None),
        "kl_horizon": (1, None), "kl_clamp_ratio": (0, kl.MAX_CLAMP),
        "kl_clamp": (0, kl.MAX_CLAMP), "reference_every": (0, None), "reference_decay": (0, 1)}
    for name, (low, high) in limits.items():
      value = vars(self)[name]
      if value is not None and (value < low or (high is not None and value > high)):
        allowed = f"{low} to {high}" if high is not None else f"{low} or more"
        raise ValueError(f"{name}: got {value}, allowed: {allowed}")
    for name in ("length_adaptive_alpha", "huber_delta", "kl_target",
                 "entropy_target", "kl_clamp_ratio", "kl_clamp"):
      value = vars(self)[name]
      if value is not None and value <= 0:
        raise ValueError(f"{name}: got {value}, allowed: above 0, or None")
    if self.micro_batch_size and self.minibatch_size % self.micro_batch_size:
      raise ValueError(
          f"micro_batch_size: got {self.micro_batch_size}, allowed: a divisor of "
          f"minibatch_size={self.minibatch_size}, or 0")
    self._check_slots()
    self._check_kl()
    self._check_critic()
    self._check_unread()

  def _check_slots(self):
    offered = {
        "advantage": ADVANTAGE_ARRAYS, "policy_loss": LOSS_ARRAYS, "correction": CORRECTION_ARRAYS,
        "selection": SELECTION_ARRAYS}
    for name, arrays in offered.items():
      slot = vars(self)[name]
      if slot is not None:
        try:
          slot.check(arrays)
        except ValueError as error:
          raise ValueError(f"{name}: {error}") from error
    if "scores" not in self.advantage.arrays:
      check_unread(
          self, f"with advantage={self.advantage.name}, which reads the parts of the score",
          "truncated_score", allowed="an advantage of scores")
      if self.kl_placement == "score" and self.kl_coef:
        raise ValueError(
            f"kl_placement: got 'score' with advantage={self.advantage.name}, which reads the "
            "parts of the score, allowed: reward, loss, or kl_coef=0")
    if ("is_selected" in self.policy_loss.arrays) != (self.selection is not None):
      raise ValueError(
          f"selection: got {self.selection and self.selection.name} with policy_loss="
          f"{self.policy_loss.name}, allowed: one with a loss that takes `is_selected`, else None")

  def _check_kl(self):
    is_unusual = (self.kl_placement == "loss") == (self.kl_estimator == "k1")
    if is_unusual and not self.allow_any_kl:
      raise ValueError(
          f"kl_estimator: got {self.kl_estimator!r} with kl_placement={self.kl_placement!r}, "
          "allowed: k1 in the reward or score, k2 or k3 in the loss (their gradients differ), or "
          "set allow_any_kl")
    if self.unbiased_kl and (self.kl_placement != "loss" or self.kl_estimator == "k2"):
      raise ValueError(
          f"unbiased_kl: got True with kl_placement={self.kl_placement!r} and kl_estimator="
          f"{self.kl_estimator!r}, allowed: k3 in the loss (weighted, k2 is biased)")
    if self.whiten_kl and self.kl_placement != "score":
      raise ValueError(
          f"whiten_kl: got True with kl_placement={self.kl_placement!r}, allowed: 'score'")
    for name in ("kl_target", "reference_every"):
      if vars(self)[name] and not self.kl_coef:
        raise Unread(f"{name}: got {vars(self)[name]} with kl_coef=0, allowed: none")

  def _check_critic(self):
    if not self.has_critic:
      check_unread(
          self, "with critic='none'", "critic_lambda", "length_adaptive_alpha", "huber_delta",
          "critic_warmup_steps", "bootstrap_truncated", "gae_lambda", "value_clip", "value_coef",
          allowed="a critic")
    elif self.critic_warmup_steps and not self.value_coef:
      raise Unread(
          f"critic_warmup_steps: got {self.critic_warmup_steps} with value_coef=0, allowed: 0, or "
          "a weight of the value loss, from which alone the critic learns")

  def _check_unread(self):
    """Refuses settings without effect. The options of a term whose weight is 0 are allowed."""
    if self.length_adaptive_alpha is not None and self.critic_lambda is not None:
      check_unread(self, "with length_adaptive_alpha and critic_lambda", "gae_lambda")
    if not self.pack_rows:
      check_unread(self, "with pack_rows=False", "packed_width")
    if self.advantage_threshold is None:
      check_unread(self, "without advantage_threshold", "advantage_threshold_normalizer")
    if "constant" not in (self.aggregation, self.nll_aggregation):
      check_unread(self, f"with aggregation={self.aggregation!r}", "constant_length",
                   allowed="aggregation='constant'")
    if self.whiten_rewards and self.whiten_advantages and not self.has_critic:
      check_unread(
          self, "with whiten_advantages and critic='none', where a scale of all rewards is undone",
          "whiten_rewards")
    if not self.whiten_advantages:
      check_unread(self, "with whiten_advantages=False", "whiten_ddof")
    if self.kl_target is None:
      check_unread(self, "without kl_target", "kl_horizon")
    if self.entropy_target is None:
      check_unread(self, "without entropy_target", "entropy_step")
    elif not self.entropy_step:
      raise ValueError(
          "entropy_step: got 0 with entropy_target, allowed: above 0 (the weight would never move)")

  @property
  def has_critic(self) -> bool:
    """Whether values are learned."""
    return self.critic != "none"

  @property
  def places_rewards(self) -> bool:
    """Whether it matters which token of a completion gets a reward."""
    return self.has_critic or has_units_of_rewards(self.advantage.function)

  @property
  def has_reference(self) -> bool:
    """Whether the policy is compared with a reference."""
    return self.kl_coef > 0

  @property
  def has_fixed_reference(self) -> bool:
    """Whether that reference is fixed."""
    return self.has_reference and not self.reference_every

  @property
  def kl_clamps(self) -> dict[str, float | None]:
    """The clamps of `losses.kl_estimate`."""
    return {"clamp_ratio": self.kl_clamp_ratio, "clamp": self.kl_clamp}

  @property
  def uses_sampler_log_probs(self) -> bool:
    """Whether the update needs the sampler's log-probs as well as the trainer's."""
    slots = (self.policy_loss, self.selection)
    return self.correction is not None or any(
        "sampler_log_probs" in slot.arrays for slot in slots if slot is not None)

  @property
  def uses_old_entropies(self) -> bool:
    """Whether the selection reads the entropies of the policy before the update."""
    return self.selection is not None and "old_entropies" in self.selection.arrays
