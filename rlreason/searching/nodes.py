"""Prefixes of solutions as nodes of a tree: what is a row's own, and what its prompt shares.

The keys and values of the prompt are held once for a problem, and those of a prefix in its node: a
node never computes its prefix again.
"""

from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from rlreason import models
from rlreason.sampling import session as session_lib
from rlreason.searching import scorer as scorer_lib, stepping
from rlreason.searching.scores import Aggregate

_OWN = ("keys", "values")  # of a `LayerCache`


@struct.dataclass
class Prefix:
  """P prefixes."""

  row: Any  # of each: the session's row, caches, what the scorer has read, the delimiter's state
  key: jax.Array  # u32[P, ..] data of the key by which its candidates are drawn
  path: jax.Array  # f32[P] the scores of its steps, aggregated
  step_scores: jax.Array  # f32[P, S] those scores
  steps: jax.Array  # i32[P] how many there are
  is_end: jax.Array  # bool[P] an end token or a limit ends it: there are no candidates


class Shared(NamedTuple):
  """What all prefixes of a problem share."""

  rows: stepping.Rows  # without what is in `Prefix.row`


def split(rows: stepping.Rows) -> tuple[Any, Shared]:
  """Rows, one of each problem, as their own part and that of their prompts."""
  session, state = rows.session, rows.scorer
  own = {"row": session_lib.row_fields(session), "caches": _own(session.caches),
         "marks": rows.marks,
         "scorer": state and (_own(state.caches), state.lengths, state.scores)}
  shared = rows.replace(
      session=session.replace(caches=_without(session.caches), **{
          name: None for name in session_lib.row_fields(session)}),
      scorer=state and scorer_lib.State(_without(state.caches), None, None), marks=None)
  return own, Shared(shared)


def begin(rows: stepping.Rows, max_steps: int) -> tuple[Prefix, Shared]:
  """The empty prefixes of problems; `rows` have one row of each, and all slots."""
  own, shared = split(rows)
  count = rows.marks.shape[0]
  return Prefix(
      row=own, key=jax.random.key_data(rows.session.keys), path=jnp.zeros(count),
      step_scores=jnp.zeros((count, max_steps)), steps=jnp.zeros(count, jnp.int32),
      is_end=jnp.zeros(count, bool)), shared


def join(prefix: Prefix, shared: Shared) -> stepping.Rows:
  """The rows of prefixes again, which draw from the keys of these."""
  rows, state, own = shared.rows, shared.rows.scorer, prefix.row
  session = rows.session.replace(
      caches=_with(rows.session.caches, own["caches"]),
      keys=jax.random.wrap_key_data(prefix.key), **own["row"])
  if state is not None:
    caches, lengths, scores = own["scorer"]
    state = scorer_lib.State(_with(state.caches, caches), lengths, scores)
  return stepping.Rows(session, state, own["marks"])


def spread(rows: stepping.Rows, count: int) -> stepping.Rows:
  """`count` copies of the row of each problem, which draw from its key folded with 0, 1, ..."""
  keys = rows.session.keys
  sources = jnp.zeros((keys.shape[0], count), jnp.int32)
  folded = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, jnp.arange(count))
  copies = stepping.fork(rows, sources)
  return copies.replace(session=copies.session.replace(
      group_size=count, keys=folded.reshape(-1)))


def longer(
    prefix: Prefix, rows: stepping.Rows, action: jax.Array, scores: jax.Array, how: Aggregate,
    is_taken: jax.Array,
) -> Prefix:
  """Prefixes after a step, with the `rows` of it; those not `is_taken` bool[P] stay.

  Args:
    prefix: before the step.
    rows: after it.
    action: i32[P] which of the candidates; it gives the new key.
    scores: f32[P] of the step.
    how: the scores of steps are aggregated.
    is_taken: whether there is a step.
  """
  session, width = rows.session, prefix.step_scores.shape[1]
  is_here = (jnp.arange(width)[None] == prefix.steps[:, None]) & is_taken[:, None]
  keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(prefix.key), action)
  return Prefix(
      row=split(rows)[0], key=jax.random.key_data(keys),
      path=jnp.where(
          is_taken, combine(prefix.path, prefix.steps, scores, how), prefix.path),
      step_scores=jnp.where(is_here, scores[:, None], prefix.step_scores),
      steps=prefix.steps + is_taken,
      is_end=session.is_done | (session.lengths >= session.capacity))


def combine(
    path: jax.Array, steps: jax.Array, score: jax.Array, how: Aggregate
) -> jax.Array:
  """The aggregate with one score more; `path` and `steps` [...] are of those before it.

  As `scores.aggregate`, step by step.
  """
  if how == "last":
    return score
  is_first = steps == 0
  if how == "mean":
    return jnp.where(is_first, score, (path * steps + score) / (steps + 1))
  return jnp.where(is_first, score, jnp.minimum(path, score) if how == "min" else path * score)


def _own(caches: list[models.LayerCache]) -> list:
  return [tuple(getattr(cache, name) for name in _OWN) for cache in caches]


def _without(caches: list[models.LayerCache]) -> list[models.LayerCache]:
  return [cache.replace(**dict.fromkeys(_OWN)) for cache in caches]


def _with(caches: list[models.LayerCache], own: list) -> list[models.LayerCache]:
  return [cache.replace(**dict(zip(_OWN, part, strict=True)))
          for cache, part in zip(caches, own, strict=True)]
