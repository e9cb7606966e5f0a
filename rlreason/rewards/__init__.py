"""Rewards: text in, floats out. None means that a row could not be scored, which is not 0.

A reward function is f(prompts, completions, **columns: list) -> list, of a number, a list of
(where, number), or None for each completion.
"""

from rlreason.rewards.combine import (
    CombinedReward, RewardResult, RewardSpec, Verifier, combine_rewards, default_options,
    has_math_golds, is_built_in, verifier_columns)
from rlreason.rewards.control import random_reward
from rlreason.rewards.countdown import CountdownVerifier
from rlreason.rewards.exploration import (
    check_correctness_beats_length,
    correctness_beats_length,
    exploration_reward,
)
from rlreason.rewards.format import finished_reward, format_reward, unfinished_reward
from rlreason.rewards.learned import SCORE_COLUMN, learned_reward
from rlreason.rewards.length import (
    arora_length_reward,
    kimi_length_reward,
    l1_length_reward,
    l1_max_length_reward,
    overlong_reward,
)
from rlreason.rewards.majority import majority_reward, vote_answer
from rlreason.rewards.places import Place, Placed, split_steps
from rlreason.rewards.process import STEPS_COLUMN, process_reward
from rlreason.rewards.restart import restart_reward
from rlreason.rewards.style import language_reward, repetition_reward
from rlreason.rewards.values import is_right
from rlreason.rewards.verifier import VERIFIERS, MathVerifier, verify
from rlreason.workers import WorkerPool, default_pool

__all__ = [
    "CombinedReward", "CountdownVerifier", "MathVerifier", "Place", "Placed", "RewardResult",
    "RewardSpec",
    "SCORE_COLUMN", "STEPS_COLUMN", "VERIFIERS", "Verifier", "WorkerPool", "arora_length_reward",
    "check_correctness_beats_length", "combine_rewards", "correctness_beats_length",
    "default_options", "default_pool", "exploration_reward", "finished_reward", "format_reward",
    "has_math_golds", "is_built_in", "is_right", "kimi_length_reward", "l1_length_reward",
    "l1_max_length_reward", "language_reward", "learned_reward", "majority_reward",
    "overlong_reward", "process_reward", "random_reward", "repetition_reward", "restart_reward",
    "split_steps", "unfinished_reward", "verifier_columns", "verify", "vote_answer"]
