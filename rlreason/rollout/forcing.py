"""Budget forcing: completions that have to answer, or to go on, at evaluation time.

Two halves of s1 (Muennighoff et al. 2025, https://arxiv.org/abs/2501.19393): a completion that the
budget cut off gets a text after it that begins an answer, and a completion that ended early gets a
text such as "Wait" in the place of its end token. Both are text put after some completions, from
which sampling goes on.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np

from rlreason import masks
from rlreason.data.tasks.base import Row
from rlreason.models import ModelConfig
from rlreason.parallel import Layout
from rlreason.rollout import generate as generate_lib
from rlreason.sampling import SamplingOptions
from rlreason.tokenizers import Tokenizer
from rlreason.types import Key, Params, Rollout

_STREAM = 2**31 - 1  # of a batch's key, apart from those that the sampler draws its rows from


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forcing:
  """What is put after completions; both halves are off by default."""

  forced_answer: str = ""  # after a completion that the budget cut off; empty: nothing
  answer_tokens: int = 16  # that may follow it, beyond the budget
  wait: str = ""  # in the place of an end token
  num_waits: int = 0  # times that it is, within the budget

  def __post_init__(self):
    if self.answer_tokens < 1:
      raise ValueError(f"answer_tokens: got {self.answer_tokens}, allowed: 1 or more")
    if self.num_waits < 0:
      raise ValueError(f"num_waits: got {self.num_waits}, allowed: 0 or more")
    if self.num_waits and not self.wait:
      raise ValueError(f"wait: got '' with num_waits={self.num_waits}, allowed: a text")


class Continuation(NamedTuple):
  """How completions go on."""

  generate: Callable[[Params, Sequence[Row], Key], Rollout]  # of groups of 1
  ids: list[int]  # put after what is there
  limit: int  # tokens of the whole completion; what is generated beyond is cut off


def make_generator(
    model: ModelConfig, tokenizer: Tokenizer, layout: Layout, forcing: Forcing, *,
    options: SamplingOptions, group_size: int, prompt_buckets: Sequence[int],
) -> Callable[[Params, Sequence[Row], Key], Rollout]:
  """Makes `generate` as `rollout.make_generator` does, of completions that are then forced.

  First come the waits, then the forced answer. What a completion holds before it is forced is what
  it is without forcing. The rollout has as many columns as the longest completion there may be.

  Args:
    model: the policy's shape.
    tokenizer: its tokenizer.
    layout: where programs run.
    forcing: what is put after completions.
    options: of the sampler; `max_new_tokens` is the budget.
    group_size: completions per prompt.
    prompt_buckets: allowed widths of prompts, tokens.

  Raises:
    ValueError: a text has no tokens, or the tokens do not fit the budget or the model.
  """
  budget, longest = options.max_new_tokens, max(prompt_buckets)
  generate = generate_lib.make_generator(
      model, tokenizer, layout, options=options, group_size=group_size,
      prompt_buckets=prompt_buckets)

  def make_continuation(ids, max_new_tokens, limit):
    columns = longest + min(limit - 1, budget + len(ids))
    # The sampler goes on from the longest row for as many tokens as from the shortest. What is kept
    # of them is within the limit, and so within the positions of the model.
    return Continuation(generate_lib.make_generator(
        dataclasses.replace(model, max_positions=columns + max_new_tokens), tokenizer, layout,
        options=dataclasses.replace(options, max_new_tokens=max_new_tokens), group_size=1,
        prompt_buckets=(columns,)), ids, limit)

  wait = answer = None
  if forcing.num_waits:
    ids = _encode(tokenizer, "wait", forcing.wait)
    if len(ids) >= budget:
      raise ValueError(
          f"wait: got {forcing.wait!r} of {len(ids)} tokens, allowed: fewer than {budget} "
          "(max_new_tokens)")
    wait = make_continuation(ids, budget - len(ids), budget)
  if forcing.forced_answer:
    ids = _encode(tokenizer, "forced_answer", forcing.forced_answer)
    _check_positions(model, longest, budget, len(ids) + forcing.answer_tokens)
    answer = make_continuation(
        ids, forcing.answer_tokens, budget + len(ids) + forcing.answer_tokens)

  if wait is None and answer is None:
    return generate
  return functools.partial(_generate_forced, generate, [wait] * forcing.num_waits, answer)


def _generate_forced(
    generate, waits: list[Continuation], answer: Continuation | None, params: Params,
    rows: Sequence[Row], key: Key,
) -> Rollout:
  rollout = generate(params, rows, key)
  *wait_keys, answer_key = jax.random.split(jax.random.fold_in(key, _STREAM), len(waits) + 1)
  for wait, wait_key in zip(waits, wait_keys, strict=True):
    starts = masks.lengths(rollout.token_mask) - 1  # where the end token is
    is_open = ~rollout.truncated & (starts + len(wait.ids) < wait.limit)
    rollout = go_on(wait, params, rollout, is_open, len(rows), wait_key)
  if answer is not None:
    rollout = go_on(answer, params, rollout, rollout.truncated, len(rows), answer_key)
  return rollout


def go_on(
    continuation: Continuation, params: Params, rollout: Rollout, is_open: np.ndarray,
    batch_size: int, key: Key,
) -> Rollout:
  """Puts ids after some completions, in the place of their end token if there is one, and samples.

  Args:
    continuation: what is put there, and the generator.
    params: of the generator.
    rollout: B completions of at most `limit` tokens, numpy, without values.
    is_open: bool[B] completions that go on; the others stay as they are.
    batch_size: of the generator; its batches are filled up with copies.
    key: consumed.

  Returns:
    The rollout, `limit` columns wide. Ids put there are no actions, and have log-prob 0.
  """
  generate, ids, limit = continuation
  widen = lambda x: np.pad(x, ((0, 0), (0, limit - x.shape[1])))
  tokens, log_probs = widen(rollout.completion_tokens), widen(rollout.log_probs)
  is_action = widen(rollout.action_mask)
  starts = masks.lengths(rollout.token_mask) - (is_open & ~rollout.truncated)
  lengths, truncated = starts.copy(), rollout.truncated.copy()
  places = np.flatnonzero(is_open)
  for first in range(0, len(places), batch_size):
    batch = places[first:first + batch_size]
    rows = [{"prompt_ids": [*rollout.prompt_tokens[i, rollout.prompt_mask[i]].tolist(),
                            *tokens[i, :starts[i]].tolist(), *ids]} for i in batch]
    new = generate(
        params, rows + rows[:1] * (batch_size - len(rows)), jax.random.fold_in(key, first))
    for i, row in zip(batch, range(len(batch)), strict=True):
      is_new, room = new.token_mask[row], limit - starts[i]
      _put(tokens[i], starts[i], [*ids, *new.completion_tokens[row, is_new]][:room])
      _put(log_probs[i], starts[i], [*[0.0] * len(ids), *new.log_probs[row, is_new]][:room])
      _put(is_action[i], starts[i], [*[False] * len(ids), *new.action_mask[row, is_new]][:room])
      lengths[i] += min(len(ids) + is_new.sum(), room)
      truncated[i] = new.truncated[row] or len(ids) + is_new.sum() > room
  return rollout.replace(
      completion_tokens=tokens, token_mask=np.arange(limit) < lengths[:, None],
      action_mask=is_action, log_probs=log_probs, truncated=truncated)


def _put(columns: np.ndarray, start: int, values: list):
  """These values from `start` on, then zeros."""
  columns[start:] = 0
  columns[start:start + len(values)] = values


def _encode(tokenizer: Tokenizer, name: str, text: str) -> list[int]:
  ids = tokenizer.encode(text)
  if not ids:
    raise ValueError(f"{name}: got {text!r} of 0 tokens, allowed: a text of 1 or more")
  return ids


def _check_positions(model: ModelConfig, prompt: int, budget: int, answer: int):
  if prompt + budget + answer > model.max_positions:
    raise ValueError(
        f"forced_answer: got prompts of {prompt}, completions of {budget} and answers of {answer} "
        f"tokens, allowed: {model.max_positions} together, the positions of the model")
