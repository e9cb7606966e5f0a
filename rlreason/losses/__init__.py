"""Losses as pure functions of arrays, independent of models and configuration objects."""

from rlreason.losses.advantages import (
    batch_normalized, gdpo, group_centered, group_normalized, has_units_of_rewards, is_always_zero,
    leave_one_out, leave_one_out_normalized, max_rl, no_baseline, opo, pass_at_k, remax)
from rlreason.losses.corrections import (
    masked_importance, off_policy_mask, sequence_mask, truncated_importance)
from rlreason.losses.covariance import clip_cov, kl_cov, select_clip_cov, select_kl_cov
from rlreason.losses.distill import (
    Others, Unembedded, forward_kl, generalized_jsd, reverse_kl, token_divergence, top_k_divergence,
    top_k_log_probs, with_others)
from rlreason.losses.entropy import (
    active_entropy_coef, adapt_entropy_coef, select_high_entropy, selected_surrogate)
from rlreason.losses.kl import adapt_kl_coef, kl_estimate, unbiased_kl
from rlreason.losses.logprobs import (
    cap, from_logits, hide_words, log1mexp, mean_probability, token_log_probs)
from rlreason.losses.policy import (
    cispo, clipped_surrogate, decoupled_surrogate, gspo, gspo_token, reinforce)
from rlreason.losses.preference import dpo, ipo, kto, kto_baseline, orpo, simpo
from rlreason.losses.process_reward import (
    step_cross_entropy, step_log_odds, three_way_cross_entropy)
from rlreason.losses.returns import (
    gae, length_adaptive_lambda, n_step_returns, potential_shaping, returns_to_go,
    rewards_of_actions, terminal_rewards)
from rlreason.losses.reward_model import (
    bradley_terry, outcome_cross_entropy, ranking, standardized)
from rlreason.losses.trust import dppo_kl, dppo_tv, gmpo, sapo, vespo
from rlreason.losses.value import clipped_value_loss, explained_variance

__all__ = [
    "Others", "Unembedded", "active_entropy_coef", "adapt_entropy_coef", "adapt_kl_coef",
    "batch_normalized", "bradley_terry", "cap", "cispo", "clip_cov", "clipped_surrogate",
    "clipped_value_loss", "decoupled_surrogate", "dpo", "dppo_kl", "dppo_tv",
    "explained_variance", "forward_kl", "from_logits", "gae", "gdpo", "generalized_jsd", "gmpo",
    "group_centered", "group_normalized", "gspo", "gspo_token", "has_units_of_rewards",
    "hide_words", "ipo", "is_always_zero", "kl_cov", "kl_estimate", "kto", "kto_baseline",
    "leave_one_out", "leave_one_out_normalized", "length_adaptive_lambda", "log1mexp",
    "masked_importance", "max_rl", "mean_probability", "n_step_returns", "no_baseline",
    "off_policy_mask", "opo", "orpo", "outcome_cross_entropy", "pass_at_k", "potential_shaping",
    "ranking", "reinforce", "remax", "returns_to_go", "reverse_kl", "rewards_of_actions",
    "sapo", "select_clip_cov", "select_high_entropy", "select_kl_cov", "selected_surrogate",
    "sequence_mask", "simpo", "standardized", "step_cross_entropy", "step_log_odds",
    "terminal_rewards", "three_way_cross_entropy", "token_divergence", "token_log_probs",
    "top_k_divergence", "top_k_log_probs", "truncated_importance", "unbiased_kl", "vespo",
    "with_others"]
