"""Prompt ids to completions in one compiled program: prefill, then a loop over new tokens.

Each prompt is computed once and shared by its G samples. The cache of generated tokens grows in
segments, each with a loop of its own. Rows that have ended leave the loop where few of every group
are still open, and the program ends when every row has ended. Slots of ended rows are not refilled.
"""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from rlreason import losses, models
from rlreason.models import quantize
from rlreason.models.config import ModelConfig
from rlreason.sampling import logits as logits_lib
from rlreason.sampling.options import SamplingOptions
from rlreason.types import Key, Params, Prompts, Rollout

FIRST_SEGMENT = 32  # tokens
_GROWTH = 4
_SHRINKAGE = 4  # of the rows of a group; with a smaller one there are more loops to compile


@struct.dataclass
class _State:
  """What the loop carries besides the caches."""

  step: jax.Array  # i32 scalar, tokens generated so far
  keys: jax.Array  # one key per row, [B]
  start: jax.Array  # i32[B] tokens of the row's prompt
  last: jax.Array  # i32[B] the newest token
  is_done: jax.Array  # bool[B]
  tokens: jax.Array  # i32[B, T]
  mask: jax.Array  # bool[B, T]
  log_probs: jax.Array  # f32[B, T]
  values: jax.Array | None  # f32[B, T]


def sample(
    config: ModelConfig, params: Params, prompts: Prompts, key: Key, *, options: SamplingOptions,
    stop_ids: tuple[int, ...], group_size: int = 1, value_head: Params | None = None,
) -> Rollout:
  """Samples `group_size` completions of each prompt. To be jitted by the caller.

  Row (p, g) draws from `fold_in(fold_in(key, prompts.index[p]), g)`, and its token t from that
  folded with t: a sample depends on neither the padding, the splitting nor the place of its batch.

  Args:
    config: the model; static.
    params: its parameters.
    prompts: P prompts, padded on the left.
    key: consumed.
    options: length limit, temperature and filters; static.
    stop_ids: a row ends with the first of these, which is kept; static.
    group_size: G; static.
    value_head: of `models.init_value_head`, or None for no values.

  Returns:
    B = P * G completions, row p * G + g. `log_probs` are of the distribution sampled from, over the
    model's tokens, after temperature, filters and blocked bigrams; with temperature 0, of the
    chosen token at temperature 1. `values` are of the hidden state a token was sampled from.

  Raises:
    ValueError: columns and new tokens exceed `config.max_positions`; a stop id has no embedding.
  """
  _check_limits(config, prompts.tokens.shape[1], options.max_new_tokens, stop_ids)
  hidden, (keys, values) = models.prefill(config, params, prompts.tokens, prompts.mask)
  layers = models.split_layers(config, params, is_int8=options.is_int8)
  # Turned and cast here, once: the loop then reads the rows of the vocabulary as they lie.
  vocabulary = models.unembedding(config, params).T.astype(config.compute_dtype)
  vocabulary = quantize.quantize_rows(vocabulary) if options.is_int8 else vocabulary

  def emit(state, hidden):
    # f32 logits: those of bf16 have steps of 0.1 nats at magnitude 20.
    logits = quantize.multiply_rows(vocabulary, hidden).T
    logits = losses.hide_words(models.cap_logits(config, logits), config.num_tokens)
    value = None if value_head is None else models.apply_value_head(value_head, hidden)
    token, log_prob = _draw(logits, state, options)
    return _record(state, token, log_prob, value, stop_ids)

  def decode(state, caches):
    slot = state.step - 1
    hidden, caches = models.decode_step(
        config, params, layers, caches, state.last, state.start + slot, prompts.mask, slot)
    return emit(state, hidden), caches

  state = _first_state(prompts, key, group_size, options, has_values=value_head is not None)
  repeat = lambda x: jnp.repeat(x, group_size, axis=0)
  state = emit(state, repeat(hidden[:, -1]))
  if options.max_new_tokens > 1:
    lengths = _segments(options.max_new_tokens - 1)
    caches = models.init_caches(keys, values, group_size, lengths[0])
    may_shrink = stop_ids and len(lengths) > 1
    state = _run(decode, lengths, _rooms(group_size if may_shrink else 1), state, caches)
  return Rollout(
      prompt_tokens=repeat(prompts.tokens), prompt_mask=repeat(prompts.mask),
      completion_tokens=state.tokens, token_mask=state.mask, action_mask=state.mask,
      log_probs=state.log_probs, values=state.values, truncated=~state.is_done)


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
  of_prompt = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
  of_sample = jax.vmap(jax.random.fold_in, (None, 0))
  return jax.vmap(of_sample, (0, None))(of_prompt, jnp.arange(group_size)).reshape(-1)


def _first_state(
    prompts: Prompts, key: Key, group_size: int, options: SamplingOptions, has_values: bool
) -> _State:
  repeat = lambda x: jnp.repeat(x, group_size, axis=0)
  shape = (prompts.tokens.shape[0] * group_size, options.max_new_tokens)
  return _State(
      step=jnp.int32(0), keys=_row_keys(key, prompts.index, group_size),
      start=repeat(jnp.sum(prompts.mask, axis=1, dtype=jnp.int32)),
      last=repeat(prompts.tokens[:, -1]), is_done=jnp.zeros(shape[:1], bool),
      tokens=jnp.zeros(shape, jnp.int32), mask=jnp.zeros(shape, bool), log_probs=jnp.zeros(shape),
      values=jnp.zeros(shape) if has_values else None)


def _segments(needed: int) -> list[int]:
  """Cache lengths to run through, the last of them `needed` (tokens, 1 or more)."""
  lengths = [min(FIRST_SEGMENT, needed)]
  while lengths[-1] < needed:
    lengths.append(min(lengths[-1] * _GROWTH, needed))
  return lengths


def _rooms(group_size: int) -> list[int]:
  """Rows of a group that loops go on with, one after the other, the last of them 0.

  16 -> [4, 1, 0]
  """
  rooms = [group_size // _SHRINKAGE]
  while rooms[-1]:
    rooms.append(rooms[-1] // _SHRINKAGE)
  return rooms


def _run(decode, lengths: list[int], rooms: list[int], state: _State, caches: list) -> _State:
  """Decodes until every row has ended, with fewer and fewer rows.

  Args:
    decode: (state, caches) -> (state, caches), one more token of every row.
    lengths: of the caches, to run through.
    rooms: of `_rooms`.
    state: of rows with a token each.
    caches: one per layer, of the first length.
  """
  room, *smaller = rooms
  state, caches = _run_segments(decode, lengths, room, state, caches)
  if not room:
    return state
  prompts = caches[0].prompt_keys.shape[0]
  kept = _open_rows(state, prompts, room)
  by_row = lambda fn, *states: jax.tree.map(
      lambda x, *others: fn(x, *others) if x.ndim else x, *states)
  rest = _run(
      decode, lengths[-1:], smaller, by_row(lambda x: models.take_rows(x, kept), state), caches)
  # Everything but the step belongs to rows, and goes back to where it was taken from.
  places = (kept + jnp.arange(prompts)[:, None] * (state.last.shape[0] // prompts)).reshape(-1)
  return by_row(lambda whole, part: whole.at[places].set(part), state, rest)


def _run_segments(
    decode, lengths: list[int], room: int, state: _State, caches: list
) -> tuple[_State, list]:
  """One loop per cache length; the later ones and their memory only where rows need them.

  Ends where no group has more than `room` open rows, and returns the caches of so many rows, of the
  last length; none for a room of 0.
  """
  prompts = caches[0].prompt_keys.shape[0]
  is_crowded = lambda state: jnp.any(
      jnp.sum(~state.is_done.reshape(prompts, -1), axis=1) > room)

  def is_open(carry):
    state, _ = carry
    return (state.step <= lengths[0]) & (state.step < state.tokens.shape[1]) & is_crowded(state)

  def leave(state, caches):
    if not room:
      return state, []
    kept = _open_rows(state, prompts, room)
    return state, [
        models.grow_cache(models.keep_rows(cache, kept), lengths[-1]) for cache in caches]

  def go_on(state, caches):
    return _run_segments(
        decode, lengths[1:], room, state,
        [models.grow_cache(cache, lengths[1]) for cache in caches])

  state, caches = jax.lax.while_loop(is_open, lambda carry: decode(*carry), (state, caches))
  if len(lengths) == 1:
    return leave(state, caches)
  return jax.lax.cond(is_crowded(state), go_on, leave, state, caches)


def _open_rows(state: _State, prompts: int, room: int) -> jax.Array:
  """Places of open rows within each group, i32[P, room]; ended ones where there are too few."""
  return jnp.argsort(state.is_done.reshape(prompts, -1), axis=1, stable=True)[:, :room]


def _draw(
    logits: jax.Array, state: _State, options: SamplingOptions
) -> tuple[jax.Array, jax.Array]:
  """Token number `state.step` of every row, i32[B], and its log-prob, f32[B]."""
  logits = logits_lib.block_bigrams(logits, state.last, options.blocked_bigrams)
  if options.temperature == 0:
    return logits_lib.choose_greedily(logits)
  step_keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.step)
  uniforms = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(step_keys)
  return logits_lib.choose(logits_lib.filter_logits(logits, options), uniforms)


def _record(
    state: _State, token: jax.Array, log_prob: jax.Array, value: jax.Array | None,
    stop_ids: tuple[int, ...],
) -> _State:
  """The state after one more token; rows that have ended get zeros."""
  is_new = ~state.is_done
  put = lambda columns, new: jax.lax.dynamic_update_slice_in_dim(
      columns, jnp.where(is_new, new, jnp.zeros((), new.dtype))[:, None], state.step, axis=1)
  return state.replace(
      step=state.step + 1, last=token,
      is_done=state.is_done | jnp.isin(token, np.asarray(stop_ids, np.int32)),
      tokens=put(state.tokens, token), mask=put(state.mask, is_new),
      log_probs=put(state.log_probs, log_prob),
      values=None if value is None else put(state.values, value))
