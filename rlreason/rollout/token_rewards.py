"""Rewards within completions: maps the positions named by reward functions to tokens."""

from collections.abc import Sequence

import numpy as np

from rlreason import losses, masks
from rlreason.rewards import Placed, Place, RewardResult
from rlreason.rollout.scored import tokens_until
from rlreason.tokenizers import Tokenizer
from rlreason.types import Rollout


def token_rewards(
    tokenizer: Tokenizer, rollout: Rollout, result: RewardResult, *, discount: float = 1.0,
    bootstraps: bool = False,
) -> np.ndarray | None:
  """The rewards of completions before their end.

  Args:
    tokenizer: of the completions.
    rollout: B completions of T columns, numpy.
    result: their rewards, from `CombinedReward`.
    discount: γ per token, for the potentials.
    bootstraps: whether a truncated completion ends with the value of a critic; its potential then
      continues, as that of a state that is not the last.

  Returns:
    f32[B, T], None where no reward function gave a list. The reward of a character is on the token
    that ends it, that of the end of the text on the last token, that of a turn on its last token. 0
    in a completion without tokens.
  """
  if result.placed is None and result.potentials is None:
    return None
  paid = np.zeros(rollout.token_mask.shape, np.float32)
  if result.placed is not None:
    paid += _spread(tokenizer, rollout, result.placed)
  if result.potentials is not None:
    after = np.cumsum(_spread(tokenizer, rollout, result.potentials), axis=1, dtype=np.float32)
    before = np.pad(after, ((0, 0), (1, 0)))[:, :-1]
    goes_on = rollout.truncated & bootstraps
    paid += np.asarray(losses.potential_shaping(
        before, rollout.action_mask, discount=discount,
        last_potentials=np.where(goes_on, after[:, -1], np.float32(0.0))))
  return paid


def placed_sums(result: RewardResult) -> np.ndarray:
  """The part of each completion's total reward that is given before its end, f32[B]."""
  if result.placed is None:
    return np.zeros(len(result.total), np.float32)
  return np.array([sum(number for _, number in placed) for placed in result.placed], np.float32)


def _spread(
    tokenizer: Tokenizer, rollout: Rollout, rows: Sequence[Sequence[Placed]]
) -> np.ndarray:
  """Rewards at positions as f32[B, T]."""
  result = np.zeros(rollout.token_mask.shape, np.float32)
  turns = masks.runs(rollout.action_mask)
  for row, placed in enumerate(rows):
    columns = np.flatnonzero(rollout.token_mask[row])
    ids = rollout.completion_tokens[row, columns].tolist()
    for position, number in placed if ids else ():
      result[row, _column(tokenizer, columns, ids, turns[row], position)] += number
  return result


def _column(
    tokenizer: Tokenizer, columns: np.ndarray, ids: list[int], turns: np.ndarray, position: Place
) -> int:
  if not isinstance(position, int):
    _, turn = position
    return int(np.flatnonzero(turns == turn + 1)[-1])
  return int(columns[tokens_until(tokenizer, ids, position + 1) - 1])
