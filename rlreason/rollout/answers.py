"""Given answers: those of the problems instead of the completions' own."""

from collections.abc import Sequence

import numpy as np

from rlreason import masks
from rlreason.data.tasks.base import Row
from rlreason.tokenizers import Tokenizer
from rlreason.types import Rollout


def append_answers(
    tokenizer: Tokenizer, rows: Sequence[Row], rollout: Rollout, template: str
) -> Rollout:
  """Replaces the answers of completions by those of their problems.

  A completion is cut where the words of the template before `{answer}` begin, or before its end
  token; the answer in the template follows, and an end token. One with neither stays `truncated`.

  Args:
    tokenizer: of the policy.
    rows: the P problems, with an `answer`.
    rollout: B = P * G completions, numpy.
    template: text with {answer} in it.

  Returns:
    The rollout, wider by the longest answer (rounded up to 8 tokens). The answers are not actions,
    and their log-probs and values are 0, because they were not sampled.
  """
  opening = tokenizer.encode(template.partition("{answer}")[0])
  answers = [[*tokenizer.encode(template.replace("{answer}", str(row["answer"]))),
              tokenizer.eos_ids[0]] for row in rows]
  group_size = rollout.completion_tokens.shape[0] // len(rows)
  extra = -(-max(map(len, answers)) // 8) * 8
  widen = lambda x: None if x is None else np.pad(x, ((0, 0), (0, extra)))
  tokens, is_action = widen(rollout.completion_tokens), widen(rollout.action_mask)
  lengths = masks.lengths(rollout.token_mask)
  truncated = np.array(rollout.truncated)
  for i, ids in enumerate(tokens.tolist()):
    start = _find(ids[:lengths[i]], opening)
    if start is None and not truncated[i]:
      start = lengths[i] - 1
    truncated[i], start = start is None, lengths[i] if start is None else start
    answer_ids = answers[i // group_size]
    lengths[i] = start + len(answer_ids)
    tokens[i, start:] = 0
    tokens[i, start:lengths[i]] = answer_ids
    is_action[i, start:] = False
  mask = np.arange(tokens.shape[1]) < lengths[:, None]
  sampled = lambda x: None if x is None else np.where(is_action, widen(x), 0.0).astype(np.float32)
  return rollout.replace(
      completion_tokens=tokens, token_mask=mask, action_mask=is_action, truncated=truncated,
      log_probs=sampled(rollout.log_probs), values=sampled(rollout.values))


def _find(ids: list[int], part: list[int]) -> int | None:
  """The first index of `part` in `ids`; None if it is not found, or empty."""
  starts = range(len(ids) - len(part) + 1) if part else ()
  return next((i for i in starts if ids[i:i + len(part)] == part), None)
