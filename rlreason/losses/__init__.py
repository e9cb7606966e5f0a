"""Pure array mathematics: no model and no configuration object is known here."""

from rlreason.losses.distill import (
    Others, Unembedded, forward_kl, generalized_jsd, reverse_kl, token_divergence, top_k_divergence,
    top_k_log_probs, with_others)
from rlreason.losses.kl import adapt_kl_coef, kl_estimate
from rlreason.losses.logprobs import cap, from_logits, log1mexp, token_log_probs
from rlreason.losses.policy import clip_flags, clipped_surrogate
from rlreason.losses.preference import dpo, ipo, kto, kto_baseline, orpo, simpo
from rlreason.losses.returns import gae, terminal_rewards
from rlreason.losses.value import clipped_value_loss, explained_variance
