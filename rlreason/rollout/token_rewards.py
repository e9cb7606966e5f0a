"""Rewards within completions: from the places that reward functions name to the tokens there."""

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
  """What the completions of a rollout are paid before their end.

  Args:
    tokenizer: of the completions.
    rollout: B completions of T columns, numpy.
    result: what they were paid, by `CombinedReward`.
    discount: γ per token, of the potentials.
    bootstraps: whether a truncated completion is worth what a critic says of its end; its potential
      then goes on, as that of a state that is not the last.

  Returns:
    f32[B, T], None where no reward function gave a list. A character is paid on the token that ends
    it, the end of the text on the last token, a turn on its last token. 0 in a completion without
    tokens.
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
  """How much of the total of each completion is paid before its end, f32[B]."""
  if result.placed is None:
    return np.zeros(len(result.total), np.float32)
  return np.array([sum(number for _, number in placed) for placed in result.placed], np.float32)


def _spread(
    tokenizer: Tokenizer, rollout: Rollout, rows: Sequence[Sequence[Placed]]
) -> np.ndarray:
  """Numbers at places as f32[B, T]."""
  result = np.zeros(rollout.token_mask.shape, np.float32)
  turns = masks.runs(rollout.action_mask)
  for row, placed in enumerate(rows):
    columns = np.flatnonzero(rollout.token_mask[row])
    ids = rollout.completion_tokens[row, columns].tolist()
    for place, number in placed if ids else ():
      result[row, _column(tokenizer, columns, ids, turns[row], place)] += number
  return result


def _column(
    tokenizer: Tokenizer, columns: np.ndarray, ids: list[int], turns: np.ndarray, place: Place
) -> int:
  if not isinstance(place, int):
    _, turn = place
    return int(np.flatnonzero(turns == turn + 1)[-1])
  return int(columns[tokens_until(tokenizer, ids, place + 1) - 1])
