"""Budget forcing: makes completions answer, or continue, at evaluation time.

Two parts of s1 (Muennighoff et al. 2025, https://arxiv.org/abs/2501.19393): a completion that the
budget truncated is followed by a text that begins an answer, and a completion that ended early gets
a text such as "Wait" instead of its end token. Both append to some rows of a session, which then
continues.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlreason.data.tasks.base import Row
from rlreason.models import ModelConfig
from rlreason.parallel import Layout
from rlreason.rollout import generate as generate_lib
from rlreason.sampling import SamplingOptions, session as session_lib
from rlreason.tokenizers import Tokenizer
from rlreason.types import Key, Params, Prompts, Rollout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forcing:
  """The texts appended to completions; both parts are off by default."""

  forced_answer: str = ""  # after a completion that the budget truncated; empty: off
  answer_tokens: int = 16  # sampled after it, beyond the budget
  wait: str = ""  # instead of an end token
  num_waits: int = 0  # how many times, within the budget

  def __post_init__(self):
    if self.answer_tokens < 1:
      raise ValueError(f"answer_tokens: got {self.answer_tokens}, allowed: 1 or more")
    if self.num_waits < 0:
      raise ValueError(f"num_waits: got {self.num_waits}, allowed: 0 or more")
    if self.num_waits and not self.wait:
      raise ValueError(f"wait: got '' with num_waits={self.num_waits}, allowed: a text")


class Texts(NamedTuple):
  """The texts of `Forcing` as token ids; empty where there is none."""

  wait: tuple[int, ...]
  num_waits: int
  answer: tuple[int, ...]
  answer_tokens: int  # that may follow the answer's

  def capacity(self, budget: int) -> int:
    """Tokens of the longest possible completion."""
    return budget + (len(self.answer) + self.answer_tokens if self.answer else 0)


def make_generator(
    model: ModelConfig, tokenizer: Tokenizer, layout: Layout, forcing: Forcing, *,
    options: SamplingOptions, group_size: int, prompt_buckets: Sequence[int],
    sampler: Callable[..., Rollout] | None = None,
) -> Callable[[Params, Sequence[Row], Key], Rollout]:
  """Makes `generate` as `rollout.make_generator` does, with forced completions.

  The waits come first, then the forced answer. A completion is the same as without forcing up to
  the point where it is forced. The rollout is as wide as the longest possible completion.

  Args:
    model: the policy's shape.
    tokenizer: its tokenizer.
    layout: where programs run.
    forcing: the texts appended to completions.
    options: of the sampler; `max_new_tokens` is the budget.
    group_size: completions per prompt.
    prompt_buckets: allowed widths of prompts, tokens.
    sampler: for completions that are not forced, as for `rollout.make_generator`.

  Raises:
    ValueError: a text has no tokens, or the tokens do not fit the budget or the model.
  """
  budget, wait, answer = options.max_new_tokens, (), ()
  if forcing.num_waits:
    wait = _encode(tokenizer, "wait", forcing.wait)
    if len(wait) >= budget:
      raise ValueError(
          f"wait: got {forcing.wait!r} of {len(wait)} tokens, allowed: fewer than {budget} "
          "(max_new_tokens)")
  if forcing.forced_answer:
    answer = _encode(tokenizer, "forced_answer", forcing.forced_answer)
    _check_positions(
        model, max(prompt_buckets), budget, len(answer) + forcing.answer_tokens)
  make = functools.partial(
      generate_lib.make_generator, model, tokenizer, layout, options=options, group_size=group_size,
      prompt_buckets=prompt_buckets)
  if not wait and not answer:
    return make(sampler=sampler)
  texts = Texts(wait, forcing.num_waits, answer, forcing.answer_tokens)
  return make(sampler=functools.partial(sample_forced, texts))


def sample_forced(
    texts: Texts, config: ModelConfig, params: Params, prompts: Prompts, key: Key, *,
    options: SamplingOptions, value_head: Params | None = None, **settings,
) -> Rollout:
  """As `sampling.sample`, with texts appended to completions, which are then resumed.

  Nothing is computed twice: only the tokens of the text are new in a resumed completion. They are
  not actions, and have log-prob and value 0. Tokens sampled after them have the keys of their
  position in the row, as always: they do not depend on which other rows are resumed.

  Args:
    texts: the appended texts; static.
    config, params, prompts, key, options, value_head, **settings: of `sampling.sample`.

  Returns:
    `texts.capacity` columns. `truncated` are those without an end token within their limit.
  """
  budget, capacity = options.max_new_tokens, texts.capacity(options.max_new_tokens)
  decoder = session_lib.prepare(config, params, value_head=value_head, is_int8=options.is_int8)
  session = session_lib.run(decoder, session_lib.begin(
      decoder, prompts, key, options=options, capacity=capacity, **settings), budget)

  def put(session, ids, is_chosen):
    rows = session.lengths.shape[0]
    return session_lib.append(
        decoder, session, jnp.tile(jnp.asarray(ids, jnp.int32), (rows, 1)),
        jnp.where(is_chosen, len(ids), 0))

  def wait(_, session):
    is_early = session.is_done & (session.lengths - 1 + len(texts.wait) < budget)
    session = put(session_lib.without_end(session, is_early), texts.wait, is_early)
    return session_lib.run(decoder, session, budget)

  if texts.wait:
    session = jax.lax.fori_loop(0, texts.num_waits, wait, session)
  if texts.answer:
    session = session_lib.run(decoder, put(session, texts.answer, ~session.is_done), capacity)
  return session_lib.to_rollout(session)


def _encode(tokenizer: Tokenizer, name: str, text: str) -> tuple[int, ...]:
  ids = tuple(tokenizer.encode(text))
  if not ids:
    raise ValueError(f"{name}: got {text!r} of 0 tokens, allowed: a text of 1 or more")
  return ids


def _check_positions(model: ModelConfig, prompt: int, budget: int, answer: int):
  if prompt + budget + answer > model.max_positions:
    raise ValueError(
        f"forced_answer: got prompts of {prompt}, completions of {budget} and answers of {answer} "
        f"tokens, allowed: {model.max_positions} together, the positions of the model")
