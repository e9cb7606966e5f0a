"""Prompts to completions to rewards: public names; internal code imports the modules."""

from rlreason.data.fitting import FittingRows, check_fitting, encode_prompt, report_golds
from rlreason.rollout.answers import append_answers
from rlreason.rollout.generate import crop, make_generator
from rlreason.rollout.groups import choose_groups
from rlreason.rollout.partial import OpenGroups, make_partial_generator
from rlreason.rollout.prefixes import Completer, TokenCounts
from rlreason.rollout.scored import (
    Sampled, Scored, completion_texts, reasoning_tokens, score, score_together, tokens_until)
from rlreason.rollout.step_columns import StepEnd, columns_of_ends, step_ends
from rlreason.rollout.step_labels import (
    Completion, Labelled, Prefix, Search, Solution, every_step, first_error, label, omega_tree)
from rlreason.rollout.token_rewards import placed_sums, token_rewards

__all__ = [
    "Completer", "Completion", "FittingRows", "Labelled", "OpenGroups", "Prefix", "Sampled",
    "Scored", "Search", "Solution", "StepEnd", "TokenCounts", "append_answers", "check_fitting",
    "choose_groups", "columns_of_ends", "completion_texts", "crop", "encode_prompt",
    "every_step", "first_error", "label", "make_generator", "make_partial_generator",
    "omega_tree", "placed_sums", "reasoning_tokens", "report_golds", "score", "score_together",
    "step_ends", "token_rewards", "tokens_until"]
