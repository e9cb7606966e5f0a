"""Monte Carlo tree search on the device with mctx, for whatever gives nodes candidates and values.

Selection is deterministic: of equal actions the first. Values are in [0, 1] and of one agent, so
that nothing changes its sign on the way up. The value of a child that was not visited is the score
of its candidate, not 0. Nothing but these scores is backed up: a tree never sees a reward.

PUCT: Silver et al. 2018 (AlphaZero, https://doi.org/10.1126/science.aar6404), UCT: Kocsis and
Szepesvari 2006, Gumbel: Danihelka et al. 2022 (https://openreview.net/forum?id=bERaNdoegnO).
"""

from collections.abc import Callable
import functools
from typing import Any, Literal

from flax import struct
import jax
import jax.numpy as jnp
import mctx

Selection = Literal["puct", "gumbel", "uct"]

_PUCT_BASE = 19652.0  # of the growth of c with the visits
_LOWEST = -1e9  # a logit of no candidate; with -inf a node without candidates would give NaN
_VISIT_OFFSET, _VALUE_SCALE = 50.0, 0.1  # of Gumbel's completed values


@struct.dataclass
class Node:
  """P nodes, with K candidates each."""

  state: Any  # pytree of [P, ...]
  prior: jax.Array  # f32[P, K] log-mass of the candidates, not normalised
  scores: jax.Array  # f32[P, K] what each candidate leads to, in [0, 1]
  is_valid: jax.Array  # bool[P, K] candidates; a node without any is a leaf for ever
  value: jax.Array  # f32[P] of the node


def puct(prior, visits, node_visits, c):
  """The bonus of PUCT: P sqrt(N) / (1 + n) (ln((N + 19653) / 19652) + c).

  N = 10, n = 1, P = 0.5, c = 1.25 -> 0.98865.

  Args:
    prior: f32[K] probabilities.
    visits: [K] n of the children.
    node_visits: N.
    c: exploration.
  """
  growth = jnp.log((node_visits + _PUCT_BASE + 1) / _PUCT_BASE) + c
  return prior * jnp.sqrt(jnp.asarray(node_visits, jnp.float32)) / (1 + visits) * growth


def uct(visits, node_visits, c):
  """The bonus of UCT: c sqrt(ln N / n), 0 for a child or a node without visits.

  rStar-Math (https://arxiv.org/abs/2501.04519) has c = 2.
  """
  bonus = c * jnp.sqrt(jnp.log(jnp.maximum(node_visits, 1)) / jnp.maximum(visits, 1))
  return jnp.where((visits > 0) & (node_visits > 0), bonus, 0.0)


def search_tree(
    root: Node, expand: Callable[[Any, jax.Array], Node], *, simulations: int,
    selection: Selection, exploration: float,
) -> mctx.Tree:
  """The tree after some simulations; each visits one action of a node for the first time.

  Args:
    root: P problems.
    expand: (state, action i32[P]) -> the child. An action of a node without candidates, or a leaf,
      gives the same leaf again.
    simulations: how many; static.
    selection: puct, gumbel or uct. Gumbel has no noise: it is to draw actions from the policy, and
      candidates have been drawn from it.
    exploration: c of puct and uct.

  Returns:
    The tree; its embeddings are the `Node`s without their priors.
  """
  def recurrent(unused_params, unused_key, action, embedding):
    node = expand(embedding.state, action)
    output = mctx.RecurrentFnOutput(
        reward=jnp.zeros_like(node.value), discount=jnp.ones_like(node.value),
        prior_logits=_masked(node.prior, node.is_valid), value=node.value)
    return output, node.replace(prior=None)

  at_root, inside = _selections(selection, exploration, root.prior.shape[1], simulations)
  return mctx.search(
      params=(), rng_key=jax.random.key(0),  # nothing draws from it
      root=mctx.RootFnOutput(
          prior_logits=_masked(root.prior, root.is_valid), value=root.value,
          embedding=root.replace(prior=None)),
      recurrent_fn=recurrent, root_action_selection_fn=at_root, interior_action_selection_fn=inside,
      num_simulations=simulations, invalid_actions=(~root.is_valid).astype(jnp.float32),
      extra_data=mctx.GumbelMuZeroExtraData(root_gumbel=jnp.zeros_like(root.prior)))


def best_action(tree: mctx.Tree, selection: Selection) -> jax.Array:
  """i32[P]: the action to take at the root: the most visited, of equal ones the best by value.

  With Gumbel of the most visited ones that with the largest log-prior + value.
  """
  def of_problem(tree):
    if selection != "gumbel":
      return _most_visited(tree, mctx.Tree.ROOT_INDEX)
    visits = tree.children_visits[mctx.Tree.ROOT_INDEX]
    value = tree.children_prior_logits[mctx.Tree.ROOT_INDEX] + _completed(
        tree, mctx.Tree.ROOT_INDEX)
    return jnp.argmax(jnp.where(visits == jnp.max(visits), value, -jnp.inf)).astype(jnp.int32)

  return jax.vmap(of_problem)(tree)


def most_visited_path(tree: mctx.Tree, action: jax.Array) -> jax.Array:
  """i32[P]: the node at the end of the path that begins with an action of the root, i32[P].

  After it the most visited actions are taken; the node has no visited child.
  """
  def of_problem(tree, first):
    child = lambda node: tree.children_index[node, _most_visited(tree, node)]
    return jax.lax.while_loop(lambda node: child(node) != mctx.Tree.UNVISITED, child, first)

  return jax.vmap(of_problem)(tree, children(tree, action))


def children(tree: mctx.Tree, action: jax.Array) -> jax.Array:
  """i32[P]: the nodes that actions of the root lead to; the root itself for one never taken."""
  child = jnp.take_along_axis(
      tree.children_index[:, mctx.Tree.ROOT_INDEX], action[:, None], axis=1)[:, 0]
  return jnp.maximum(child, mctx.Tree.ROOT_INDEX)


def take_nodes(tree: mctx.Tree, nodes: jax.Array) -> Node:
  """The nodes i32[P] of the trees, with their priors."""
  take = jax.vmap(lambda x, node: x[node])
  found = jax.tree.map(lambda x: take(x, nodes), tree.embeddings)
  return found.replace(prior=take(tree.children_prior_logits, nodes))


def _masked(prior: jax.Array, is_valid: jax.Array) -> jax.Array:
  """Log-masses, normalised over the candidates."""
  prior = jnp.where(is_valid, prior, _LOWEST)
  return jnp.where(is_valid, jax.nn.log_softmax(prior, axis=-1), _LOWEST)


def _values(tree: mctx.Tree, node: jax.Array) -> jax.Array:
  """f32[K]: the mean value of each child, or the score of one that was not visited."""
  return jnp.where(tree.children_visits[node] > 0, tree.children_values[node],
                   tree.embeddings.scores[node])


def _completed(tree: mctx.Tree, node: jax.Array) -> jax.Array:
  """The values on the scale of logits, as Gumbel adds them: all of them are known."""
  scale = (_VISIT_OFFSET + jnp.max(tree.children_visits[node])) * _VALUE_SCALE
  return scale * _values(tree, node)


def _most_visited(tree: mctx.Tree, node: jax.Array) -> jax.Array:
  visits = tree.children_visits[node]
  is_most = (visits == jnp.max(visits)) & tree.embeddings.is_valid[node]
  return jnp.argmax(jnp.where(is_most, _values(tree, node), -jnp.inf)).astype(jnp.int32)


def _selections(selection: Selection, c: float, candidates: int, simulations: int):
  """How an action is selected at the root and inside."""
  if selection == "gumbel":
    root = functools.partial(
        mctx.gumbel_muzero_root_action_selection, num_simulations=simulations,
        max_num_considered_actions=candidates, qtransform=_completed)
    return root, functools.partial(
        mctx.gumbel_muzero_interior_action_selection, qtransform=_completed)

  def select(unused_key, tree, node, unused_depth=None):
    visits, total = tree.children_visits[node], tree.node_visits[node]
    if selection == "puct":
      bonus = puct(jax.nn.softmax(tree.children_prior_logits[node]), visits, total, c)
    else:
      bonus = uct(visits, total, c)
    value = jnp.where(tree.embeddings.is_valid[node], _values(tree, node) + bonus, -jnp.inf)
    return jnp.argmax(value).astype(jnp.int32)  # without candidates: 0, the leaf again

  return select, select
