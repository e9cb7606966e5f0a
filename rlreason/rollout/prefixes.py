"""Samples completions of prefixes of solutions, and computes no token of a prompt or prefix twice.

One session holds the whole solution of each prompt. For a prefix, its row is copied N times, the
copies are shortened to the prefix, and go on from there: the prompt is computed once, the solution
once, in one pass, and then only what is generated. A search that turns to another solution of the
prompt keeps the tokens that both begin with.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlreason.data.fitting import doubling_buckets, encode_prompt, make_prompts
from rlreason.data.tasks.base import Row
from rlreason.models import ModelConfig
from rlreason.parallel import Layout
from rlreason.rollout.scored import Scored, take_prompts
from rlreason.rollout.step_labels import Completion, Prefix
from rlreason.sampling import SamplingOptions, session as session_lib
from rlreason.tokenizers import Tokenizer
from rlreason.types import Key, Params, Rollout

_SMALLEST = 16  # columns of appended tokens


@dataclasses.dataclass
class TokenCounts:
  """Tokens of a batch of searches."""

  generated: int = 0  # sampled
  computed: int = 0  # that went through the model: of prompts, of solutions, and generated
  # The same, if each completion computed its prompt and its prefix, as a request of its own.
  naive: int = 0


class Completer:
  """Samples `num_completions` completions of each prefix; made for one batch after the other.

  The completions of a prefix depend on the key, the index of its prompt in the batch and the length
  of the prefix, not on what was asked before.
  """

  def __init__(
      self, model: ModelConfig, tokenizer: Tokenizer, layout: Layout, *,
      options: SamplingOptions, num_completions: int, prompt_buckets: Sequence[int],
  ):
    """Compiles nothing yet.

    Args:
      model: the policy's shape.
      tokenizer: its tokenizer.
      layout: where programs run.
      options: of the sampler; `max_new_tokens` are those of a prefix and its completion together.
      num_completions: N.
      prompt_buckets: allowed widths of prompts, tokens.
    """
    self._tokenizer, self._layout, self._count = tokenizer, layout, num_completions
    self._capacity, self._buckets = options.max_new_tokens, prompt_buckets
    prepare = lambda params: session_lib.prepare(
        model, params["policy"], is_int8=options.is_int8)

    def begin(params, prompts, key):
      return session_lib.begin(
          prepare(params), prompts, key, options=options, stop_ids=tokenizer.eos_ids)

    def hold(params, given, key):
      del key
      session = session_lib.shorten(given["session"], given["kept"])
      return session_lib.append(prepare(params), session, given["ids"], given["counts"])

    def complete(params, given, key):
      session = session_lib.shorten(given["session"], given["lengths"])
      session = session_lib.spread(session, num_completions, key)
      until = jnp.where(given["is_wanted"], options.max_new_tokens, 0)
      return session_lib.to_rollout(session_lib.run(
          prepare(params), session, jnp.repeat(until, num_completions)))

    self._begin, self._hold, self._complete = map(layout.compile_sampler, (begin, hold, complete))

  def start(
      self, params: Params, rows: Sequence[Row], key: Key,
      score: Callable[[Sequence[Row], Rollout], Scored],
  ) -> tuple[Callable[[Mapping[int, Prefix]], dict[int, list[Completion]]], TokenCounts]:
    """Makes `complete(prefixes)`, as `step_labels.label` takes it, for a batch of prompts.

    Args:
      params: {"policy"}, on the devices.
      rows: of the P prompts.
      key: of the batch.
      score: (rows, rollout) -> verdicts on completions, N of each row.

    Returns:
      The function, and the counts of tokens, which it increases.
    """
    prompts = make_prompts(
        [encode_prompt(self._tokenizer, row) for row in rows], self._buckets,
        pad_id=self._tokenizer.pad_id)
    widths, counts = prompts.mask.sum(axis=1), TokenCounts(computed=int(prompts.mask.sum()))
    session = self._begin(params, self._layout.put_rows(prompts), key)
    held: list[tuple[int, ...]] = [()] * len(rows)

    def complete(prefixes):
      nonlocal session
      session = self._hold_all(params, session, held, prefixes, counts)
      lengths = np.array([prefixes[i].length if i in prefixes else 0 for i in range(len(rows))],
                         np.int32)
      given = self._layout.put_rows({
          "lengths": lengths, "is_wanted": np.array([i in prefixes for i in range(len(rows))])})
      rollout = self._layout.get_rows(
          self._complete(params, {"session": session, **given}, key))
      found = {}
      for i, prefix in prefixes.items():
        part = take_prompts(rollout, slice(i, i + 1), len(rows))
        sampled = int(part.action_mask.sum())
        counts.generated += sampled
        counts.computed += sampled
        counts.naive += sampled + self._count * int(widths[i] + prefix.length)
        found[i] = part
      return self._judged(rows, found, score)

    return complete, counts

  def _hold_all(
      self, params: Params, session: Any, held: list[tuple[int, ...]],
      prefixes: Mapping[int, Prefix], counts: TokenCounts,
  ) -> Any:
    """The session whose rows of these prompts begin with the prefixes; notes it in `held`."""
    kept, added = np.array([len(ids) for ids in held], np.int32), [()] * len(held)
    for i, (ids, length) in prefixes.items():
      common = _common(held[i], ids)
      if common < length or not held[i]:  # else the row already begins with the prefix
        kept[i], added[i] = common, ids[common:self._capacity]
        held[i] = (*held[i][:common], *added[i])
    longest = max(map(len, added))
    if not longest:
      return session
    counts.computed += sum(map(len, added))
    width = next(size for size in doubling_buckets(_SMALLEST, self._capacity) if size >= longest)
    tokens = np.zeros((len(held), width), np.int32)
    for i, ids in enumerate(added):
      tokens[i, :len(ids)] = ids
    given = self._layout.put_rows({
        "ids": tokens, "kept": kept, "counts": np.array([len(ids) for ids in added], np.int32)})
    return self._hold(params, {"session": session, **given}, jax.random.key(0))

  def _judged(
      self, rows: Sequence[Row], found: Mapping[int, Rollout],
      score: Callable[[Sequence[Row], Rollout], Scored],
  ) -> dict[int, list[Completion]]:
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *found.values())
    is_right = score([rows[i] for i in found], joined).is_right.reshape(len(found), -1)
    return {i: [Completion(tuple(ids[mask].tolist()), bool(right)) for ids, mask, right in zip(
        part.completion_tokens, part.token_mask, verdicts, strict=True)]
            for (i, part), verdicts in zip(found.items(), is_right, strict=True)}


def _common(first: Sequence[int], second: Sequence[int]) -> int:
  """The number of tokens that both begin with."""
  return next((i for i, pair in enumerate(zip(first, second)) if pair[0] != pair[1]),
              min(len(first), len(second)))
