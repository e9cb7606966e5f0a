"""Partial rollouts: continues rows of earlier calls until enough groups have ended.

The given tokens are computed again, with the current parameters, in one pass; what was recorded of
them is kept. Rows that are still open are for the next call.
"""

from flax import struct
import jax
import jax.numpy as jnp

from rlreason.models.config import ModelConfig
from rlreason.sampling import session as session_lib
from rlreason.sampling.options import SamplingOptions
from rlreason.types import Params, Prompts, Rollout

_CHUNK = 128  # columns computed at once: attention scores of all of them would be quadratic


@struct.dataclass
class Started:
  """B = P * G rows, of which some have tokens of earlier calls; n columns, 0 or more."""

  prompts: Prompts  # P; `index` is that of the group's first call
  key_data: jax.Array  # u32[P, ...] of the key with which the group began
  tokens: jax.Array  # i32[B, n]
  lengths: jax.Array  # i32[B]
  is_done: jax.Array  # bool[B] the newest token is a stop token
  log_probs: jax.Array  # f32[B, n] nats, of the distributions the tokens were sampled from
  values: jax.Array | None  # f32[B, n] of the value heads of these calls; None: there is none


def sample_until(
    config: ModelConfig, params: Params, started: Started, *, options: SamplingOptions,
    stop_ids: tuple[int, ...], group_size: int, enough: int, value_head: Params | None = None,
) -> Rollout:
  """Samples until `enough` groups have no open row. To be jitted by the caller.

  Token t of a row is drawn with the key that `sample` would use, given the key and the index of the
  group's first call: with constant parameters the rows are those of `sample`.

  Args:
    config, params, options, stop_ids, group_size, value_head: as for `sample`.
    started: the prompts and the rows so far.
    enough: number of groups, at most P; static.

  Returns:
    B rows with all of their tokens. A row that is `truncated` and has fewer tokens than
    `max_new_tokens` is open.

  Raises:
    ValueError: as `sample`.
  """
  decoder = session_lib.prepare(config, params, value_head=value_head, is_int8=options.is_int8)
  session = session_lib.begin(
      decoder, started.prompts, jax.random.wrap_key_data(started.key_data), options=options,
      stop_ids=stop_ids, group_size=group_size)
  columns = started.tokens.shape[1]
  if columns:
    session = _append_in_chunks(decoder, session, started.tokens, started.lengths)
    widen = lambda x: jnp.pad(x, ((0, 0), (0, session.capacity - columns)))
    session = session.replace(
        is_done=started.is_done,
        action_mask=jnp.arange(session.capacity)[None] < started.lengths[:, None],
        log_probs=widen(started.log_probs),
        values=None if session.values is None else widen(started.values))
  return session_lib.to_rollout(session_lib.run(decoder, session, enough=enough))


def _append_in_chunks(
    decoder: session_lib.Decoder, session: session_lib.Session, ids: jax.Array, counts: jax.Array
) -> session_lib.Session:
  """`append`, some columns at a time."""
  size = min(ids.shape[1], _CHUNK)
  ids = jnp.pad(ids, ((0, 0), (0, -ids.shape[1] % size)))
  chunks = jnp.moveaxis(ids.reshape(ids.shape[0], -1, size), 1, 0)

  def append(session, chunk):
    index, ids = chunk
    count = jnp.clip(counts - index * size, 0, size)
    return session_lib.append(decoder, session, ids, count), None

  return jax.lax.scan(
      append, session_lib.grown(session), (jnp.arange(len(chunks)), chunks))[0]
