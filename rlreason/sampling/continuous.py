"""Continuous batching: samples a queue of prompts, some at a time, in one compiled program.

When some groups have ended, the next prompts of the queue take their slots, so that all rows are
busy until the queue is empty; after that, rows that have ended are dropped. The samples are the
same as those of one call for all prompts, because a row's keys belong to its prompt.

A call with as many rows as prompts shrinks instead (`session.run`): within a group only, and
possibly to too few rows for the device to be efficient. Refilling is faster where rows end at
different times and the queue is long: with geometric lengths a batch of 32 waits for its longest
row four times the mean. Shrinking suffices where all prompts are sampled at once anyway, as in an
RL step.
"""

from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from rlreason import models
from rlreason.models.config import ModelConfig
from rlreason.sampling import segments, session as session_lib
from rlreason.sampling.options import SamplingOptions
from rlreason.types import Key, Params, Prompts, Rollout


class Batching(NamedTuple):
  """How many prompts of a queue are sampled at once."""

  groups: int  # by this program
  parts: int = 1  # devices that split the prompts of this program
  batch: int = 1  # prompts that share a key, if there are several keys


@struct.dataclass
class _Queue:
  """The loop's carry, for C parts of N prompts."""

  session: session_lib.Session  # of P groups
  source: jax.Array  # i32[C, P / C] index of each group's prompt in its part
  begun: jax.Array  # i32[C] number of prompts of the part that have begun
  rows: dict  # the `row_fields` of all N * G rows; zeros of those not stored yet


def sample_queue(
    batching: Batching, config: ModelConfig, params: Params, prompts: Prompts, key: Key, *,
    options: SamplingOptions, value_head: Params | None = None, **settings,
) -> Rollout:
  """As `sampling.sample` for all prompts, some of which are sampled at a time.

  Args:
    batching: how many; static. If not fewer than all prompts: a plain `sample`.
    config, params, options, value_head, **settings: of `sampling.sample`; `stop_ids` and
      `group_size` are among the settings.
    prompts: N prompts, whole parts one after the other.
    key: for all of them, or several, [M]: prompt i of the queue (by its index) is then prompt
      i % `batching.batch` of the call with key i // `batching.batch`.

  Returns:
    N * G completions.

  Raises:
    ValueError: as `sampling.sample`; or prompts and groups do not divide into the parts.
  """
  total, parts = prompts.index.shape[0], batching.parts
  for name, count in (("prompts", total), ("groups", batching.groups)):
    if count % parts:
      raise ValueError(f"{name}: got {count}, allowed: a multiple of {parts}, the parts")
  if key.ndim:
    key = key[prompts.index // batching.batch]
    prompts = prompts.replace(index=prompts.index % batching.batch)
  decoder = session_lib.prepare(config, params, value_head=value_head, is_int8=options.is_int8)

  def begin(chosen):
    take = lambda tree: jax.tree.map(lambda x: models.take_rows(x, chosen), tree)
    session = session_lib.begin(
        decoder, take(prompts), take(key) if key.ndim else key, options=options, **settings)
    return session_lib.draw_first(decoder, session, jnp.ones(session.lengths.shape, bool))

  size = min(batching.groups, total) // parts
  first = jnp.tile(jnp.arange(size)[None], (parts, 1))
  session = begin(first)
  rows = session_lib.new_rows(
      prompts, session.group_size, session.capacity, session.values is not None)
  queue = _Queue(session, first, jnp.full(parts, size), rows)
  step = session_lib.make_step(decoder)
  lengths = segments.lengths_from(
      session.caches[0].keys.shape[3], session.capacity)
  for length in lengths[1:] or lengths:  # with refills some row soon exceeds the first length
    queue = _run_while_refilled(step, begin, total // parts, queue.replace(
        session=session_lib.grown(queue.session, length)))
  rows = _finish(step, queue)
  return session_lib.to_rollout(queue.session.replace(prompts=prompts, **rows))


def _run_while_refilled(step, begin, count: int, queue: _Queue) -> _Queue:
  """Runs until each part's queue of `count` prompts is empty, or the cache of a row is full."""
  most = max(queue.source.shape[1] // segments.REFILLED, 1)
  length = queue.session.caches[0].keys.shape[3]
  everywhere = queue.session.capacity
  outer, inner = segments.queue_scopes(length)

  def is_within(session):
    is_left = session_lib.is_open(session, everywhere)
    return jnp.all(~is_left | (session.lengths <= length))

  def run_and_refill(queue):
    left = count - queue.begun
    needed = jnp.minimum(most, left)

    def has_work(session):
      num_ended = jnp.sum(~_open_groups(session, queue.source), axis=1)
      return ~jnp.any((left > 0) & (num_ended >= needed)) & is_within(session)

    with jax.named_scope(inner):
      session = jax.lax.while_loop(
          has_work, lambda session: step(session, session_lib.is_open(session, everywhere)),
          queue.session)
    return _refill(begin, most, count, queue.replace(session=session))

  with jax.named_scope(outer):
    return jax.lax.while_loop(
        lambda queue: jnp.any(queue.begun < count) & is_within(queue.session), run_and_refill,
        queue)


def _refill(begin, most: int, count: int, queue: _Queue) -> _Queue:
  """Gives the slots of up to `most` ended groups of each part to the next of its prompts."""
  is_left = _open_groups(queue.session, queue.source)
  slots = jnp.argsort(is_left, axis=1, stable=True)[:, :most]
  following = queue.begun[:, None] + jnp.arange(most)[None]
  is_used = ~jnp.take_along_axis(is_left, slots, axis=1) & (following < count)
  slots = jnp.where(is_used, slots, queue.source.shape[1])
  put = jax.vmap(lambda whole, slots, part: whole.at[slots].set(part, mode="drop"))
  return _Queue(
      session=session_lib.write_groups(
          queue.session, begin(jnp.minimum(following, count - 1)), slots),
      source=put(queue.source, slots, following),
      begun=queue.begun + jnp.sum(is_used, axis=1), rows=_stored(queue))


def _finish(step, queue: _Queue) -> dict:
  """All rows, after the open ones have ended; the number of rows of each part shrinks."""
  for kept in segments.row_budgets(queue.source.shape[1]):
    def has_too_many_open_groups(session, kept=kept, source=queue.source):
      return jnp.any(jnp.sum(_open_groups(session, source), axis=1) > kept)

    with jax.named_scope(segments.last_scope(kept)):
      session = jax.lax.while_loop(
          has_too_many_open_groups,
          lambda session: step(session, session_lib.is_open(session, session.capacity)),
          queue.session)
    queue = queue.replace(session=session)
    queue = queue.replace(rows=_stored(queue))
    if kept:
      groups = jnp.argsort(~_open_groups(session, queue.source), axis=1, stable=True)[:, :kept]
      queue = queue.replace(
          session=_take_groups(session, groups),
          source=jnp.take_along_axis(queue.source, groups, axis=1))
  return queue.rows


def _open_groups(session: session_lib.Session, source: jax.Array) -> jax.Array:
  """bool[C, P / C] groups with a row that has not ended."""
  is_left = session_lib.is_open(session, session.capacity)
  return jnp.any(is_left.reshape(*source.shape, -1), axis=2)


def _stored(queue: _Queue) -> dict:
  """All rows, with the current ones of the session written in."""
  put = lambda whole, part: session_lib.write_parts(whole, part, queue.source)
  return jax.tree.map(put, queue.rows, session_lib.row_fields(queue.session))


def _take_groups(session: session_lib.Session, groups: jax.Array) -> session_lib.Session:
  """The session of the groups i32[C, p] of each part, without the others."""
  prompts = session.hidden.shape[0]

  def take(x):
    by_group = x.reshape(prompts, -1, *x.shape[1:])
    return models.take_rows(by_group, groups).reshape(-1, *x.shape[1:])

  return jax.tree.map(take, session)
