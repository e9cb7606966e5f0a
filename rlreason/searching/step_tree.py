"""Trees over steps: a node is a prefix, and its candidates are steps drawn from the policy.

TS-LLM (Feng et al. 2023, https://arxiv.org/abs/2309.17179) and rStar-Math
(https://arxiv.org/abs/2501.04519). The mass of a candidate is the mean probability of its tokens;
equal candidates are one, with the sum of their masses. Differs from TS-LLM: a node draws its
candidates when it is first visited, as mctx expands nodes, not at the second visit.
"""

from flax import struct
import jax
import jax.numpy as jnp

from rlreason.sampling import session as session_lib
from rlreason.searching import nodes, scorer as scorer_lib, stepping, tree
from rlreason.searching.config import SearchConfig


@struct.dataclass
class Candidates:
  """K steps of P prefixes."""

  tokens: jax.Array  # i32[P, K, L]
  counts: jax.Array  # i32[P, K]
  is_done: jax.Array  # bool[P, K] the step ends the solution
  scores: jax.Array  # f32[P, K] of the step
  marks: jax.Array  # i32[P, K] the delimiter's state after it


@struct.dataclass
class State:
  """What a node of the tree holds."""

  prefix: nodes.Prefix
  candidates: Candidates
  generated: jax.Array  # i32[P] tokens of its candidates


def make_root(
    config: SearchConfig, found: stepping.Models, shared: nodes.Shared, table: jax.Array,
    prefix: nodes.Prefix,
) -> tree.Node:
  """The node of prefixes, with candidates that are drawn now."""
  count = config.width
  rows = nodes.spread(nodes.join(prefix, shared), count)
  is_active = jnp.repeat(~prefix.is_end, count)
  before = rows.session.lengths
  done = stepping.step(found, rows, is_active, table, config.step_tokens)
  session, by_node = done.rows.session, lambda x: x.reshape(-1, count, *x.shape[1:])
  columns = before[:, None] + jnp.arange(config.step_tokens)[None]
  is_new = columns < session.lengths[:, None]
  take = lambda x: jnp.where(is_new, jnp.take_along_axis(
      x, jnp.minimum(columns, session.capacity - 1), axis=1), 0)
  tokens = by_node(take(session.tokens))
  mass = by_node(scorer_lib.likelihood(session, before))
  counts = by_node(done.counts)
  is_first, mass = merge(tokens, counts, mass)
  scores = by_node(done.scores)
  value = jnp.where(prefix.steps > 0, prefix.path, jnp.mean(scores, axis=1))
  return tree.Node(
      state=State(
          prefix, Candidates(
              tokens, counts, by_node(session.is_done), scores, by_node(done.rows.marks)),
          jnp.sum(counts, axis=1)),
      prior=jnp.log(jnp.maximum(mass, 1e-30)),
      scores=nodes.combine(prefix.path[:, None], prefix.steps[:, None], scores, config.aggregate),
      is_valid=is_first & ~prefix.is_end[:, None], value=value)


def expand(
    config: SearchConfig, found: stepping.Models, shared: nodes.Shared, table: jax.Array,
    state: State, action: jax.Array,
) -> tree.Node:
  """The child by one of the candidates; of a prefix that has ended, itself."""
  return make_root(config, found, shared, table, take_step(config, found, shared, state, action))


def take_step(
    config: SearchConfig, found: stepping.Models, shared: nodes.Shared, state: State,
    action: jax.Array,
) -> nodes.Prefix:
  """The prefix with one of its candidates i32[P] appended, which both models read."""
  prefix = state.prefix
  take = jax.vmap(lambda x, i: x[i])
  chosen = jax.tree.map(lambda x: take(x, action), state.candidates)
  is_taken = ~prefix.is_end & (chosen.counts > 0)
  rows = nodes.join(prefix, shared)
  session = session_lib.append(
      found.policy, rows.session, chosen.tokens, jnp.where(is_taken, chosen.counts, 0))
  session = session.replace(is_done=jnp.where(is_taken, chosen.is_done, session.is_done))
  scorer = rows.scorer
  if scorer is not None:
    scorer, _ = scorer_lib.extend(
        found.scorer, scorer, session.prompts, session.tokens, session.lengths, config.step_tokens)
  marks = jnp.where(is_taken, chosen.marks, rows.marks)
  longer = nodes.longer(
      prefix, stepping.Rows(session, scorer, marks), action, chosen.scores, config.aggregate,
      is_taken)
  return longer.replace(is_end=longer.is_end | (longer.steps >= config.max_steps))


def merge(
    tokens: jax.Array, counts: jax.Array, mass: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Which candidates are the first of their kind, bool[P, K], and their masses, f32[P, K].

  Candidates with the same tokens are one, which has the sum of their masses; a candidate without
  tokens is none.

  Args:
    tokens: i32[P, K, L], 0 beyond the count.
    counts: i32[P, K].
    mass: f32[P, K].
  """
  same = jnp.all(tokens[:, :, None] == tokens[:, None], axis=3) & (
      counts[:, :, None] == counts[:, None])
  earlier = jnp.tril(jnp.ones(same.shape[1:], bool), -1)[None]
  is_first = ~jnp.any(same & earlier, axis=2) & (counts > 0)
  total = jnp.sum(jnp.where(same, mass[:, None], 0.0), axis=2)
  return is_first, jnp.where(is_first, total, 0.0)
