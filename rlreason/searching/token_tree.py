"""Trees over tokens: a node is a prefix, and its candidates are the policy's most likely tokens.

The value of a node is the scorer's after its newest token, and that of a child that was not visited
is its parent's: a score of each candidate would cost a pass each.
"""

from flax import struct
import jax
import jax.numpy as jnp

from rlreason import models
from rlreason.parallel.rules import whole_params
from rlreason.sampling import session as session_lib
from rlreason.searching import nodes, scorer as scorer_lib, stepping, tree
from rlreason.searching.config import SearchConfig


@struct.dataclass
class State:
  """What a node of the tree holds."""

  prefix: nodes.Prefix
  tokens: jax.Array  # i32[P, K]
  log_probs: jax.Array  # f32[P, K]
  generated: jax.Array  # i32[P] 1 if the policy read the newest token, to know the candidates


def make_root(
    config: SearchConfig, found: stepping.Models, shared: nodes.Shared, unused_table: jax.Array,
    prefix: nodes.Prefix,
) -> tree.Node:
  """The node of prefixes: the policy reads their newest token."""
  rows = nodes.join(prefix, shared)
  decoder, session = found.policy, rows.session
  slots = session.lengths - 1
  starts = jnp.sum(session.prompts.mask, axis=1, dtype=jnp.int32)
  with whole_params():
    hidden, caches = models.decode_step(
        decoder.config, decoder.ends, decoder.layers, session.caches, session.last,
        jnp.maximum(starts + slots, 0), session.prompts.mask, slots)
  hidden = jnp.where((session.lengths > 0)[:, None], hidden, session.hidden)
  logits = session_lib.logits_after(decoder, hidden) / (session.options.temperature or 1.0)
  log_probs, tokens = jax.lax.top_k(jax.nn.log_softmax(logits), config.width)
  own, _ = nodes.split(rows.replace(session=session.replace(caches=caches)))
  is_valid = jnp.broadcast_to(~prefix.is_end[:, None], tokens.shape)
  value = jnp.where(prefix.steps > 0, prefix.path, _first_value(rows))
  return tree.Node(
      state=State(prefix.replace(row=own), tokens, log_probs, (~prefix.is_end).astype(jnp.int32)),
      prior=log_probs, scores=jnp.broadcast_to(value[:, None], tokens.shape), is_valid=is_valid,
      value=value)


def expand(
    config: SearchConfig, found: stepping.Models, shared: nodes.Shared, table: jax.Array,
    state: State, action: jax.Array,
) -> tree.Node:
  """The child by one of the candidates; of a prefix that has ended, itself."""
  prefix = state.prefix
  rows = nodes.join(prefix, shared)
  session, is_taken = rows.session, ~prefix.is_end
  take = lambda x: jnp.take_along_axis(x, action[:, None], axis=1)[:, 0]
  token, log_prob = take(state.tokens), take(state.log_probs)
  is_here = (jnp.arange(session.capacity)[None] == session.lengths[:, None]) & is_taken[:, None]
  session = session.replace(
      tokens=jnp.where(is_here, token[:, None], session.tokens),
      log_probs=jnp.where(is_here, log_prob[:, None], session.log_probs),
      action_mask=session.action_mask | is_here, lengths=session.lengths + is_taken,
      last=jnp.where(is_taken, token, session.last),
      is_done=session.is_done | (is_taken & jnp.isin(
          token, jnp.asarray(session.stop_ids, jnp.int32))))
  scorer = rows.scorer
  if scorer is None:
    scores = scorer_lib.likelihood(session, jnp.zeros_like(session.lengths))
  else:
    scorer, _ = scorer_lib.extend(
        found.scorer, scorer, session.prompts, session.tokens, session.lengths, 1)
    scores = scorer.scores
  longer = nodes.longer(
      prefix, stepping.Rows(session, scorer, rows.marks), action, scores, "last", is_taken)
  is_end = longer.is_end | (longer.row["row"]["lengths"] >= config.max_depth)
  return make_root(config, found, shared, table, longer.replace(is_end=is_end))


def _first_value(rows: stepping.Rows) -> jax.Array:
  """Of the prompt alone; a likelihood says nothing of it."""
  if rows.scorer is None:
    return jnp.full(rows.session.lengths.shape, 0.5)
  return rows.scorer.scores
