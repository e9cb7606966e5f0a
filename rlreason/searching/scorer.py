"""Scores of steps while they are written: a reward model with a cache of its own, or a likelihood.

A reward model reads each token once: the tokens of a prompt once for all its rows, and those of a
step when it is scored. Its score, in [0, 1], is the sigmoid of its head after the last token of a
step; of a head of three classes it is the probability that the step is not wrong. An outcome reward
model and a process reward model are read alike; how they were trained says what the score means.
"""

from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from rlreason import losses, models
from rlreason.models import ModelConfig
from rlreason.parallel.rules import whole_params
from rlreason.sampling.session import Session
from rlreason.types import Params, Prompts

CHUNK = 32  # tokens of complete rows that are scored at once


class Shape(NamedTuple):
  """What a reward model is, without its parameters."""

  config: ModelConfig  # of the backbone
  # Whether it learned to read the end token, as an outcome reward model does. To a process reward
  # model that token belongs to no step: the score of the last step is that of the token before.
  reads_end: bool = True


@struct.dataclass
class Model:
  """A backbone and a scalar head, as programs read them; from `prepare`."""

  config: ModelConfig = struct.field(pytree_node=False)
  unread_ids: tuple[int, ...] = struct.field(pytree_node=False)  # tokens of no step
  trunk: Params  # reads prompts
  layers: list[Params]  # of `models.split_layers`
  head: Params


@struct.dataclass
class State:
  """What a reward model has read of B rows."""

  caches: list[models.LayerCache]  # one per layer; their rows have slots for their tokens
  lengths: jax.Array  # i32[B] tokens after the prompt that were read
  scores: jax.Array  # f32[B] after the newest of them


def prepare(config: ModelConfig, params: Params, unread_ids: tuple[int, ...] = ()) -> Model:
  """The model of {"trunk", "value_head"}; once for all steps.

  After one of `unread_ids` the score is that of the token before.
  """
  return Model(config, unread_ids, params["trunk"], models.split_layers(config, params["trunk"]),
               params["value_head"])


def begin(model: Model, prompts: Prompts, group_size: int, length: int) -> State:
  """Reads P prompts; P * `group_size` rows with `length` slots, and no tokens yet."""
  hidden, (keys, values) = models.prefill(model.config, model.trunk, prompts.tokens, prompts.mask)
  scores = _probability(model, hidden[:, -1])
  return State(
      caches=models.init_caches(keys, values, group_size, length),
      lengths=jnp.zeros(prompts.tokens.shape[0] * group_size, jnp.int32),
      scores=jnp.repeat(scores, group_size))


def extend(
    model: Model, state: State, prompts: Prompts, tokens: jax.Array, lengths: jax.Array, count: int
) -> tuple[State, jax.Array]:
  """Reads up to `count` new tokens of every row.

  Args:
    model: of `prepare`.
    state: of rows whose first `state.lengths` tokens were read.
    prompts: of the rows.
    tokens: i32[B, T] after the prompt.
    lengths: i32[B] of the rows.
    count: static.

  Returns:
    The new state, and f32[B, count] the score after each of the new tokens; beyond the end of a row
    it means nothing.
  """
  columns = state.lengths[:, None] + jnp.arange(count)[None]
  is_new = columns < lengths[:, None]
  starts = jnp.repeat(jnp.sum(prompts.mask, axis=1, dtype=jnp.int32),
                      lengths.shape[0] // prompts.mask.shape[0])
  new = jnp.take_along_axis(tokens, jnp.minimum(columns, tokens.shape[1] - 1), axis=1)
  with whole_params():
    hidden, caches = models.extend(
        model.config, model.trunk, model.layers, state.caches, new, starts[:, None] + columns,
        prompts.mask, jnp.where(is_new, columns, -1))
  scores = _probability(model, hidden)
  if model.unread_ids:
    before = jnp.concatenate([state.scores[:, None], scores[:, :-1]], axis=1)
    is_unread = jnp.isin(new, np.asarray(model.unread_ids, np.int32))
    scores = jnp.where(is_unread, before, scores)
  read = jnp.minimum(lengths - state.lengths, count)
  last = jnp.take_along_axis(scores, jnp.maximum(read - 1, 0)[:, None], axis=1)[:, 0]
  state = State(caches, state.lengths + jnp.maximum(read, 0),
                jnp.where(read > 0, last, state.scores))
  return state, scores


def _probability(model: Model, hidden: jax.Array) -> jax.Array:
  """f32[...] of hidden states [..., D]."""
  outputs = models.apply_value_head(model.head, hidden)
  return jax.nn.sigmoid(losses.step_log_odds(outputs, models.num_classes(model.head)))


def fork(state: State, rows: jax.Array) -> State:
  """The rows i32[P, g] of each group, as `sampling.session.fork` takes them."""
  take = lambda x: models.take_rows(x, rows)
  return State([models.keep_rows(cache, rows) for cache in state.caches], take(state.lengths),
               take(state.scores))


def grow(state: State, length: int) -> State:
  """The state with `length` slots for each row."""
  return state.replace(caches=[models.grow_cache(cache, length) for cache in state.caches])


def score_rows(model: Model, prompts: Prompts, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
  """f32[B, T]: the score after each token of complete rows, i32[B, T], of P prompts."""
  rows, width = tokens.shape
  state = begin(model, prompts, rows // prompts.tokens.shape[0], width)
  count = min(CHUNK, width)
  state, scores = jax.lax.scan(
      lambda state, _: extend(model, state, prompts, tokens, lengths, count), state,
      length=-(-width // count))
  # A row that ends within a chunk is read no further: column i of chunk c is token c * count + i.
  return scores.swapaxes(0, 1).reshape(rows, -1)[:, :width]


def likelihood(session: Session, starts: jax.Array) -> jax.Array:
  """f32[B]: exp of the mean log-prob of a row's tokens from column `starts` i32[B] on."""
  is_new = session.action_mask & (jnp.arange(session.capacity)[None] >= starts[:, None])
  total = jnp.sum(jnp.where(is_new, session.log_probs, 0.0), axis=1)
  return jnp.exp(total / jnp.maximum(jnp.sum(is_new, axis=1), 1))
