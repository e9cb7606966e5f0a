"""Rows that are sampled step by step on the device: all programs of searches over steps.

A step ends at its delimiter (`search.delimiter`), after `step_tokens`, at an end token, or at the
length limit. Rows pause at the end of their step until all have one; then the scorer reads the new
tokens. Forks copy what both models have computed, so that no prefix is computed twice.
"""

import dataclasses
from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from rlreason import models
from rlreason.searching import scorer as scorer_lib
from rlreason.sampling import session as session_lib
from rlreason.sampling.decoder import Decoder
from rlreason.types import Prompts


@struct.dataclass
class Rows:
  """B rows of a search over steps."""

  session: session_lib.Session
  scorer: scorer_lib.State | None  # None: no reward model
  marks: jax.Array  # i32[B] the delimiter's automaton after the newest token


class Models(NamedTuple):
  """The policy and the reward model, as programs read them."""

  policy: Decoder
  scorer: scorer_lib.Model | None


class Stepped(NamedTuple):
  """One step of every active row."""

  rows: Rows
  scores: jax.Array  # f32[B] of the step
  counts: jax.Array  # i32[B] tokens generated


def begin(found: Models, prompts: Prompts, key: jax.Array, group_size: int, **settings) -> Rows:
  """Rows without tokens; `settings` are those of `session.begin`."""
  session = session_lib.begin(found.policy, prompts, key, group_size=group_size, **settings)
  state = None
  if found.scorer is not None:
    length = session.caches[0].keys.shape[3] + 1  # the session's newest token needs no slot
    state = scorer_lib.begin(found.scorer, prompts, group_size, length)
  return Rows(session, state, jnp.zeros_like(session.lengths))


def grow(rows: Rows, length: int) -> Rows:
  """Rows whose sessions have `length` slots."""
  state = rows.scorer and scorer_lib.grow(rows.scorer, length + 1)
  return rows.replace(session=session_lib.grown(rows.session, length), scorer=state)


def fork(rows: Rows, sources: jax.Array) -> Rows:
  """Rows become copies of others of their prompt, i32[P, G]."""
  return Rows(
      session_lib.fork(rows.session, sources),
      rows.scorer and scorer_lib.fork(rows.scorer, sources),
      models.take_rows(rows.marks, sources))


def run_step(
    decoder: Decoder, rows: Rows, is_active: jax.Array, table: jax.Array, step_tokens: int
) -> Rows:
  """Samples the next step of rows bool[B]; the scorer has not read it yet.

  Args:
    decoder: the policy.
    rows: with as many slots as the step may need.
    is_active: bool[B].
    table: i32[S, V] of `delimiter.make_table`.
    step_tokens: most tokens of a step.
  """
  until = jnp.minimum(rows.session.lengths + step_tokens, rows.session.capacity)
  emit, states = session_lib.make_step(decoder), table.shape[0]

  def is_left(session, is_ended):
    return is_active & ~is_ended & session_lib.is_open(session, until)

  def advance(carry, write):
    session, marks, is_ended = carry
    chosen = is_left(session, is_ended)
    session = write(session, chosen)
    following = table[marks, session.last]
    return (session, jnp.where(chosen, following % states, marks),
            is_ended | (chosen & (following >= states)))

  def first(session, chosen):
    is_new = chosen & (session.lengths == 0)
    return session.replace(**jax.lax.cond(
        jnp.any(is_new),
        lambda: session_lib.row_fields(session_lib.draw_first(decoder, session, is_new)),
        lambda: session_lib.row_fields(session)))

  def begun(carry):
    """Rows without a token get their first one; the others wait."""
    session, marks, is_ended = carry
    waits = session.lengths > 0
    session, marks, is_new = advance((session, marks, is_ended | waits), first)
    return session, marks, is_new & ~waits

  carry = begun((rows.session, rows.marks, jnp.zeros_like(is_active)))
  session, marks, _ = jax.lax.while_loop(
      lambda carry: jnp.any(is_left(carry[0], carry[2])), lambda carry: advance(carry, emit),
      carry)
  return rows.replace(session=session, marks=marks)


def score_step(found: Models, rows: Rows, starts: jax.Array, count: int) -> Stepped:
  """Scores the tokens of rows from column `starts` i32[B] on, at most `count` of each."""
  session = rows.session
  counts = session.lengths - starts
  if rows.scorer is None:
    return Stepped(rows, scorer_lib.likelihood(session, starts), counts)
  state, _ = scorer_lib.extend(
      found.scorer, rows.scorer, session.prompts, session.tokens, session.lengths, count)
  return Stepped(rows.replace(scorer=state), state.scores, counts)


def step(
    found: Models, rows: Rows, is_active: jax.Array, table: jax.Array, step_tokens: int
) -> Stepped:
  """The next step of rows bool[B], and its score."""
  starts = rows.session.lengths
  return score_step(
      found, run_step(found.policy, rows, is_active, table, step_tokens), starts, step_tokens)


def look_ahead(
    found: Models, rows: Rows, is_active: jax.Array, table: jax.Array, steps: tuple[int, int],
    begun: jax.Array,
) -> Stepped:
  """The score of rows bool[B] if they were continued greedily; the rows are only copied.

  Lookahead search of Snell et al. 2024 (https://arxiv.org/abs/2408.03314).

  Args:
    found: the models.
    rows: at the end of a step.
    is_active: bool[B].
    table: of the delimiter.
    steps: how many, and most tokens of one.
    begun: i32[B] where the step began, with which a likelihood begins.
  """
  number, step_tokens = steps
  starts, session = rows.session.lengths, rows.session
  greedy = dataclasses.replace(session.options, temperature=0.0)
  ahead = rows.replace(session=session.replace(options=greedy))
  for _ in range(number):
    ahead = run_step(found.policy, ahead, is_active, table, step_tokens)
  seen = score_step(found, ahead, starts, number * step_tokens)
  if rows.scorer is None:  # the greedy continuation of a bad step is likely too
    seen = seen._replace(scores=scorer_lib.likelihood(ahead.session, begun))
  return seen
