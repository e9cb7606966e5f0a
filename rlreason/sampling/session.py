"""Decoding state as a value: rows of several lengths on the device, and operations on them.

    decoder = prepare(config, params)
    session = begin(decoder, prompts, key, options=options, stop_ids=stop_ids, group_size=4)
    session = run(decoder, session, until=64)      # every row to its end, or to 64 tokens
    session = append(decoder, session, ids, counts)  # given tokens: only these are computed
    session = fork(session, rows)                  # rows become copies of others of their group
    session = refill(decoder, session, slots, prompts, key)  # groups restart
    rollout = to_rollout(session)

All are pure, and compiled once for each shape. The tokens of a prompt are computed and stored once
for its group. Token i after the prompt is in slot i of the row's cache, independently of other
rows: nothing moves when a row forks, grows or restarts. A row's newest token is not in the cache
yet; the step that needs it computes it. All rows stay on the device of their prompt.

Token t of sample g of the prompt with index p is drawn with `fold_in(fold_in(fold_in(key, p), g),
t)`, where t counts given tokens too: a sample does not depend on the padding, splitting or order of
its batch.
"""

from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from rlreason import losses, models
from rlreason.models import quantize
from rlreason.models.config import ModelConfig
from rlreason.parallel.rules import whole_params
from rlreason.sampling import logits as logits_lib, segments
from rlreason.sampling.decoder import Decoder, prepare
from rlreason.sampling.options import SamplingOptions
from rlreason.types import Key, Params, Prompts, Rollout


@struct.dataclass
class Session:
  """B = P * G rows that are being sampled, row p * G + g; T = `capacity`."""

  group_size: int = struct.field(pytree_node=False)  # G
  capacity: int = struct.field(pytree_node=False)  # tokens that a row may have after its prompt
  options: SamplingOptions = struct.field(pytree_node=False)  # temperature and filters
  stop_ids: tuple[int, ...] = struct.field(pytree_node=False)
  prompts: Prompts  # P
  hidden: jax.Array  # [P, D] of the last token of each prompt
  caches: list[models.LayerCache]  # one per layer
  keys: jax.Array  # one key per row, [B]
  lengths: jax.Array  # i32[B] tokens after the prompt
  last: jax.Array  # i32[B] the newest token, the prompt's last at first
  is_done: jax.Array  # bool[B] the newest token is a stop token that was sampled
  tokens: jax.Array  # i32[B, T], 0 beyond the length
  action_mask: jax.Array  # bool[B, T] tokens that were sampled; others were given
  log_probs: jax.Array  # f32[B, T] 0 except on actions
  values: jax.Array | None  # f32[B, T] 0 except on actions


# The per-row fields of a session, except keys and caches.
_ROW_FIELDS = ("lengths", "last", "is_done", "tokens", "action_mask", "log_probs", "values")


def begin(
    decoder: Decoder, prompts: Prompts, key: Key, *, options: SamplingOptions,
    stop_ids: tuple[int, ...], group_size: int = 1, capacity: int | None = None,
) -> Session:
  """A session of `group_size` rows for each prompt, with no tokens yet.

  Args:
    decoder: of `prepare`, with the `is_int8` of the options.
    prompts: P prompts, padded on the left.
    key: for all rows, or one for each prompt; the same for `refill`.
    options: temperature and filters.
    stop_ids: a row ends with the first of these that is sampled, which is kept.
    group_size: G.
    capacity: T, tokens that a row may have; None: `max_new_tokens` of the options.

  Raises:
    ValueError: columns and new tokens exceed `config.max_positions`; a stop id has no embedding.
  """
  capacity = options.max_new_tokens if capacity is None else capacity
  _check_limits(decoder.config, prompts.tokens.shape[1], capacity, stop_ids)
  hidden, (keys, values) = models.prefill(
      decoder.config, decoder.params, prompts.tokens, prompts.mask)
  caches = models.init_caches(keys, values, group_size, segments.lengths(capacity)[0])
  rows = new_rows(prompts, group_size, capacity, has_values=decoder.value_head is not None)
  return Session(
      group_size=group_size, capacity=capacity, options=options, stop_ids=stop_ids,
      prompts=prompts, hidden=hidden[:, -1], caches=caches,
      keys=_row_keys(key, prompts.index, group_size), **rows)


def run(
    decoder: Decoder, session: Session, until: jax.Array | int | None = None, *,
    enough: int | None = None,
) -> Session:
  """Samples tokens until every row has ended or is `until` tokens long.

  The caches grow in segments, each with its own loop, up to the capacity; later segments take time
  and memory only if rows need them. In a run up to the capacity, rows that have ended are dropped
  once few rows of every group are still open.

  Args:
    decoder: of `prepare`.
    session: any rows; those that have ended or are long enough do not change.
    until: i32[B], or a scalar; tokens of a row, including given ones. None: the capacity.
    enough: stops when this many groups have no open row left; None: all.
  """
  until = jnp.minimum(jnp.broadcast_to(
      session.capacity if until is None else until, session.lengths.shape), session.capacity)
  is_new = is_open(session, until) & (session.lengths == 0)
  session = session.replace(**jax.lax.cond(
      jnp.any(is_new), lambda: row_fields(draw_first(decoder, session, is_new)),
      lambda: row_fields(session)))
  return run_begun(decoder, session, until, enough=enough)


def run_begun(
    decoder: Decoder, session: Session, until: jax.Array, *, is_closed=False, enough=None
) -> Session:
  """`run` if every open row has a token; `until` i32[B] is within the capacity.

  With `is_closed` (bool) all rows have one token, `until` is the capacity, and only `to_rollout`
  may follow: the resulting session has no caches.
  """
  lengths = segments.lengths_from(session.caches[0].keys.shape[3], session.capacity)
  budgets = segments.row_budgets(
      session.group_size if session.stop_ids and len(lengths) > 1 else 1)
  goal = _Goal(until, session.hidden.shape[0] if enough is None else enough)
  return _run(make_step(decoder), lengths, budgets, is_closed, session, goal)


def append(
    decoder: Decoder, session: Session, ids: jax.Array, counts: jax.Array | None = None
) -> Session:
  """Appends given tokens to rows, which are then open; nothing else is recomputed.

  Args:
    decoder: of `prepare`.
    session: any rows. The stop token of one that has ended is kept.
    ids: i32[B, n].
    counts: i32[B] number of ids that each row gets, 0 for no change; None: all. Tokens beyond the
      capacity are dropped.
  """
  session = grown(session)
  count, lengths = ids.shape[1], session.lengths
  counts = jnp.full_like(lengths, count) if counts is None else counts
  counts = jnp.minimum(counts, session.capacity - lengths)
  # The newest token is not in the cache yet, and the last of the ids need not be. A row without
  # tokens has all of its prompt in the cache. Results beyond a row's count are in slots that are
  # overwritten before they are read.
  computed = jnp.concatenate([session.last[:, None], ids[:, :-1]], axis=1)
  slots = (lengths - 1)[:, None] + jnp.arange(count)[None]
  with whole_params():
    _, caches = models.extend(
        decoder.config, decoder.ends, decoder.layers, session.caches, computed,
        jnp.maximum(_starts(session)[:, None] + slots, 0), session.prompts.mask, slots)
  offsets = jnp.arange(session.capacity)[None] - lengths[:, None]  # from the end of the row
  is_given = (offsets >= 0) & (offsets < counts[:, None])
  given = jnp.take_along_axis(ids, jnp.clip(offsets, 0, count - 1), axis=1)
  newest = jnp.take_along_axis(ids, jnp.maximum(counts - 1, 0)[:, None], axis=1)[:, 0]
  return session.replace(
      caches=caches, lengths=lengths + counts, last=jnp.where(counts > 0, newest, session.last),
      is_done=session.is_done & (counts == 0), tokens=jnp.where(is_given, given, session.tokens))


def without_end(session: Session, is_chosen: jax.Array) -> Session:
  """Removes the stop token of those rows bool[B] that have ended; they are then open."""
  return shorten(session, session.lengths - (is_chosen & session.is_done))


def shorten(session: Session, lengths: jax.Array) -> Session:
  """Removes the tokens of rows beyond i32[B]; a row that loses any is then open.

  Nothing is recomputed: the cache of the tokens that stay is valid.
  """
  is_shorter = lengths < session.lengths
  lengths = jnp.minimum(lengths, session.lengths)
  is_kept = jnp.arange(session.capacity)[None] < lengths[:, None]
  keep = lambda x: None if x is None else jnp.where(is_kept, x, jnp.zeros((), x.dtype))
  tokens = keep(session.tokens)
  before = jnp.take_along_axis(tokens, jnp.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0]
  before = jnp.where(lengths > 0, before, _repeat(session, session.prompts.tokens[:, -1]))
  return session.replace(
      lengths=lengths, last=jnp.where(is_shorter, before, session.last),
      is_done=session.is_done & ~is_shorter, tokens=tokens, action_mask=keep(session.action_mask),
      log_probs=keep(session.log_probs), values=keep(session.values))


def fork(session: Session, rows: jax.Array) -> Session:
  """Rows become copies of others of their prompt: row g of the group, of row `rows[p, g]`.

  A row keeps its keys, so that copies diverge with the next token, and its draws do not depend on
  its previous content. Best of N, beams and trees fork within the group of their prompt; a row of
  another prompt cannot be copied.

  Args:
    session: any rows.
    rows: i32[P, G] of 0 to G - 1.
  """
  take = lambda x: models.take_rows(x, rows)
  return session.replace(
      caches=[models.keep_rows(cache, rows) for cache in session.caches],
      **jax.tree.map(take, row_fields(session)))


def spread(session: Session, group_size: int, key: Key) -> Session:
  """A session of `group_size` copies of each row of one of a single row per prompt.

  Args:
    session: any rows, of a group size of 1.
    group_size: G.
    key: that of `begin`. The draws of a copy also depend on the length from which it goes on, so
      that samples of two prefixes of a completion are independent.
  """
  prompts = session.prompts.index.shape[0]
  rows = jnp.zeros((prompts, group_size), jnp.int32)
  session = fork(session, rows)
  keys = _row_keys(key, session.prompts.index, group_size)
  return session.replace(
      group_size=group_size, keys=jax.vmap(jax.random.fold_in)(keys, session.lengths))


def refill(
    decoder: Decoder, session: Session, slots: jax.Array, prompts: Prompts, key: Key
) -> Session:
  """Groups restart with other prompts, of the same number of columns.

  Args:
    decoder: of `prepare`.
    session: any rows.
    slots: i32[C, R / C], for C parts of the session's prompts, one per device that splits them:
      the group of its part that each new prompt gets; P / C (the size of a part) or more: none.
    prompts: R prompts; part by part.
    key: that of `begin`.
  """
  if prompts.tokens.shape[1] != session.prompts.tokens.shape[1]:
    raise ValueError(f"prompts: got {prompts.tokens.shape[1]} columns, allowed: "
                     f"{session.prompts.tokens.shape[1]}, those of the session")
  new = begin(
      decoder, prompts, key, options=session.options, stop_ids=session.stop_ids,
      group_size=session.group_size, capacity=session.capacity)
  return write_groups(session, new, slots)


def write_groups(session: Session, new: Session, slots: jax.Array) -> Session:
  """`refill` (slots i32[C, R / C]) with a session of R prompts, rows of at most one token."""
  put = lambda whole, part: write_parts(whole, part, slots)
  caches = [
      cache.replace(prompt_keys=put(cache.prompt_keys, part.prompt_keys),
                    prompt_values=put(cache.prompt_values, part.prompt_values))
      for cache, part in zip(session.caches, new.caches, strict=True)]
  return session.replace(
      caches=caches, prompts=jax.tree.map(put, session.prompts, new.prompts),
      hidden=put(session.hidden, new.hidden), keys=put(session.keys, new.keys),
      **jax.tree.map(put, row_fields(session), row_fields(new)))


def to_rollout(session: Session) -> Rollout:
  """The current rows; `truncated` are those that have not ended."""
  repeat = lambda x: _repeat(session, x)
  return Rollout(
      prompt_tokens=repeat(session.prompts.tokens), prompt_mask=repeat(session.prompts.mask),
      completion_tokens=session.tokens,
      token_mask=jnp.arange(session.capacity)[None] < session.lengths[:, None],
      action_mask=session.action_mask, log_probs=session.log_probs, values=session.values,
      truncated=~session.is_done)


def _check_limits(
    config: ModelConfig, columns: int, max_new_tokens: int, stop_ids: tuple[int, ...]
):
  if columns + max_new_tokens > config.max_positions:
    raise ValueError(
        f"max_new_tokens: got {max_new_tokens} after prompts of {columns} columns, "
        f"allowed: {config.max_positions} together (max_positions)")
  for stop_id in stop_ids:
    if not 0 <= stop_id < config.vocab_size:
      raise ValueError(f"stop_ids: got {stop_id}, allowed: 0 to {config.vocab_size - 1}")


def _row_keys(key: Key, index: jax.Array, group_size: int) -> jax.Array:
  """One key per row, [B]."""
  of_prompt = jax.vmap(jax.random.fold_in, (0 if key.ndim else None, 0))(key, index)
  of_sample = jax.vmap(jax.random.fold_in, (None, 0))
  return jax.vmap(of_sample, (0, None))(of_prompt, jnp.arange(group_size)).reshape(-1)


def new_rows(prompts: Prompts, group_size: int, capacity: int, has_values: bool) -> dict:
  """The `_ROW_FIELDS` of rows without tokens."""
  shape = (prompts.tokens.shape[0] * group_size, capacity)
  return dict(
      lengths=jnp.zeros(shape[:1], jnp.int32), is_done=jnp.zeros(shape[:1], bool),
      last=jnp.repeat(prompts.tokens[:, -1], group_size), tokens=jnp.zeros(shape, jnp.int32),
      action_mask=jnp.zeros(shape, bool), log_probs=jnp.zeros(shape),
      values=jnp.zeros(shape) if has_values else None)


def row_fields(session: Session) -> dict:
  return {name: getattr(session, name) for name in _ROW_FIELDS}


def _repeat(session: Session, x: jax.Array) -> jax.Array:
  """Repeats entries of prompts for each of their rows."""
  return jnp.repeat(x, session.lengths.shape[0] // x.shape[0], axis=0)


def _starts(session: Session) -> jax.Array:
  """i32[B] tokens of the row's prompt."""
  return _repeat(session, jnp.sum(session.prompts.mask, axis=1, dtype=jnp.int32))


def write_parts(whole: jax.Array, part: jax.Array, slots: jax.Array) -> jax.Array:
  """Writes `part` [R * G, ...] to the slots i32[C, R / C] of `whole` [P * G, ...]; G may be 1."""
  parts, count = slots.shape
  size = part.shape[0] // (parts * count)
  split = lambda x: x.reshape(parts, -1, size, *x.shape[1:])
  write = jax.vmap(lambda whole, part, slots: whole.at[slots].set(part, mode="drop"))
  return write(split(whole), split(part), slots).reshape(whole.shape)


def grown(session: Session, length: int | None = None) -> Session:
  """The session with `length` slots, or with the maximum."""
  length = segments.num_slots(session.capacity) if length is None else length
  return session.replace(
      caches=[models.grow_cache(cache, length) for cache in session.caches])


def is_open(session: Session, until: jax.Array) -> jax.Array:
  """bool[B] rows that get another token."""
  return ~session.is_done & (session.lengths < until)


class _Goal(NamedTuple):  # when to stop decoding
  until: jax.Array  # i32[B] tokens of each row
  enough: int  # groups without an open row


def _run(
    step, lengths: list[int], budgets: list[int], is_closed: bool, session: Session, goal: _Goal
) -> Session:
  """Decodes until no row is open, or enough groups have ended, with a decreasing number of rows.

  Args:
    step: (session, bool[B]) -> session with one more token of these rows.
    lengths: the sequence of cache lengths, of `segments`.
    budgets: of `segments.row_budgets`.
    is_closed: whether the result has no caches; else they have the last length.
    session: of rows with a token each, and caches of the first length.
    goal: of these rows.
  """
  max_open_rows, *smaller = budgets
  session = _run_segments(step, lengths, max_open_rows, is_closed, session, goal)
  if not max_open_rows:
    return session
  kept = _open_rows(session, goal.until, max_open_rows)
  take = lambda x: models.take_rows(x, kept)
  rest = session.replace(
      keys=take(session.keys), **jax.tree.map(take, row_fields(session)),
      caches=session.caches if is_closed
      else [models.keep_rows(cache, kept) for cache in session.caches])
  rest = _run(step, lengths[-1:], smaller, is_closed, rest, goal._replace(until=take(goal.until)))
  # Back to the rows that they were taken from.
  count = session.lengths.shape[0] // kept.shape[0]
  rows = (kept + jnp.arange(kept.shape[0])[:, None] * count).reshape(-1)
  put = lambda whole, part: whole.at[rows].set(part)
  caches = [] if is_closed else [
      cache.replace(keys=put(cache.keys, part.keys), values=put(cache.values, part.values))
      for cache, part in zip(session.caches, rest.caches, strict=True)]
  return session.replace(
      caches=caches, **jax.tree.map(put, row_fields(session), row_fields(rest)))


def _run_segments(
    step, lengths: list[int], max_open_rows: int, is_closed: bool, session: Session, goal: _Goal
) -> Session:
  """One loop per cache length; the later ones and their memory only where rows need them.

  Ends where no group has more than `max_open_rows`. The caches then have the last length; in a
  closed run, they are those of the `_open_rows`, or none if there are 0.
  """
  until, prompts = goal.until, session.hidden.shape[0]

  def has_too_many_open_rows(session):
    num_open = jnp.sum(is_open(session, until).reshape(prompts, -1), axis=1)
    is_left = jnp.any(num_open > max_open_rows)
    return is_left if goal.enough == prompts else is_left & (jnp.sum(num_open == 0) < goal.enough)

  def is_within(session):
    return jnp.all(~is_open(session, until) | (session.lengths <= lengths[0]))

  def compact(session):
    if is_closed:
      kept = _open_rows(session, until, max_open_rows)
      session = session.replace(caches=[
          models.keep_rows(cache, kept) for cache in session.caches] if max_open_rows else [])
    return grown(session, lengths[-1])

  def run_next_segment(session):
    return _run_segments(
        step, lengths[1:], max_open_rows, is_closed, grown(session, lengths[1]), goal)

  with jax.named_scope(segments.scope(lengths[0], max_open_rows)):
    session = jax.lax.while_loop(
        lambda session: is_within(session) & has_too_many_open_rows(session),
        lambda session: step(session, is_open(session, until)), session)
  if len(lengths) == 1:
    return compact(session)
  if is_closed and not session.stop_ids:
    return run_next_segment(session)  # no row can end before the others
  return jax.lax.cond(has_too_many_open_rows(session), run_next_segment, compact, session)


def _open_rows(session: Session, until: jax.Array, count: int) -> jax.Array:
  """Indices of open rows within each group, i32[P, count]; others if there are too few."""
  is_left = is_open(session, until).reshape(session.hidden.shape[0], -1)
  return jnp.argsort(~is_left, axis=1, stable=True)[:, :count]


def draw_first(decoder: Decoder, session: Session, is_new: jax.Array) -> Session:
  """The session after one token of each of the rows bool[B], which have none."""
  return _emit(decoder, session, _repeat(session, session.hidden), is_new)


def make_step(decoder: Decoder):
  """(session, bool[B]) -> the session with one more token of these rows."""

  def step(session, is_left):
    slots = session.lengths - 1
    with whole_params():
      hidden, caches = models.decode_step(
          decoder.config, decoder.ends, decoder.layers, session.caches, session.last,
          _starts(session) + slots, session.prompts.mask, slots)
    return _emit(decoder, session.replace(caches=caches), hidden, is_left)

  return step


def _emit(decoder: Decoder, session: Session, hidden: jax.Array, is_left: jax.Array) -> Session:
  """Samples a token from the hidden state of each row, [B, D], and appends it to open rows."""
  token, log_prob = _draw(logits_after(decoder, hidden), session)
  # Writes into each row's own column, without a scatter.
  is_here = (jnp.arange(session.capacity)[None] == session.lengths[:, None]) & is_left[:, None]
  put = lambda columns, new: jnp.where(is_here, new[:, None], columns)
  values = session.values
  if decoder.value_head is not None:
    values = put(values, models.apply_value_head(decoder.value_head, hidden))
  is_stop = jnp.isin(token, np.asarray(session.stop_ids, np.int32))
  return session.replace(
      lengths=session.lengths + is_left, last=jnp.where(is_left, token, session.last),
      is_done=session.is_done | (is_left & is_stop), tokens=put(session.tokens, token),
      action_mask=session.action_mask | is_here, log_probs=put(session.log_probs, log_prob),
      values=values)


def logits_after(decoder: Decoder, hidden: jax.Array) -> jax.Array:
  """f32[B, V] of the token after hidden states [B, D]."""
  # f32 logits: those of bf16 have steps of 0.1 nats at magnitude 20.
  logits = quantize.multiply_rows(decoder.vocabulary, hidden).T
  return losses.hide_words(models.cap_logits(decoder.config, logits), decoder.config.num_tokens)


def _draw(logits: jax.Array, session: Session) -> tuple[jax.Array, jax.Array]:
  """The next token of every row, i32[B], and its log-prob, f32[B]."""
  options = session.options
  logits = logits_lib.block_bigrams(logits, session.last, options.blocked_bigrams)
  if options.temperature == 0:
    return logits_lib.choose_greedily(logits)
  keys = jax.vmap(jax.random.fold_in)(session.keys, session.lengths)
  uniforms = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
  return logits_lib.choose(logits_lib.filter_logits(logits, options), uniforms)
