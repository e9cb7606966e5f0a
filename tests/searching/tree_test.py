"""Trees with known values: TREE-3,3, whose leaves are enumerated, and the formulas by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason.searching import tree

BRANCH, DEPTH = 3, 3


def test_puct_and_uct_by_hand():
  assert tree.puct(0.5, 1, 10, 1.25) == pytest.approx(0.98865, abs=1e-5)
  assert tree.uct(2, 10, 2.0) == pytest.approx(2 * np.sqrt(np.log(10) / 2), rel=1e-6)
  assert tree.uct(0, 10, 2.0) == 0 and tree.uct(0, 0, 2.0) == 0  # an unvisited child, or parent


def make_problems(leaves, prior=None, valid=None, score=None):
  """TREE-3,3 of P problems with leaf values f32[P, 27]: a state is (depth, index of the node).

  Inner nodes have the value 0.5; `prior` and `valid` [P, 3] are of the root, and `score` is
  what unvisited children of inner nodes are said to be worth.
  """
  leaves = jnp.asarray(leaves, jnp.float32)
  count = leaves.shape[0]

  def make(depth, index, which):
    is_end = depth >= DEPTH
    value = jnp.where(is_end, jnp.take_along_axis(
        leaves, jnp.minimum(index, leaves.shape[1] - 1)[:, None], axis=1)[:, 0], 0.5)
    scores = jnp.full((count, BRANCH), 0.5 if score is None else score)
    return tree.Node(
        state=dict(depth=depth, index=index, which=which), prior=jnp.zeros((count, BRANCH)),
        scores=scores, is_valid=jnp.broadcast_to(~is_end[:, None], scores.shape), value=value)

  def expand(state, action):
    is_end = state["depth"] >= DEPTH
    index = jnp.where(is_end, state["index"], state["index"] * BRANCH + action)
    return make(jnp.where(is_end, state["depth"], state["depth"] + 1), index, state["which"])

  root = make(jnp.zeros(count, jnp.int32), jnp.zeros(count, jnp.int32), jnp.arange(count))
  if prior is not None:
    root = root.replace(prior=jnp.asarray(prior))
  if valid is not None:
    root = root.replace(is_valid=jnp.asarray(valid))
  return root, expand


@functools.partial(jax.jit, static_argnames=("simulations", "selection", "c", "score"))
def run(leaves, prior=None, valid=None, *, simulations=200, selection="puct", c=1.25,
        score=None):
  root, expand = make_problems(leaves, prior, valid, score)
  found = tree.search_tree(
      root, expand, simulations=simulations, selection=selection, exploration=c)
  return found, tree.best_action(found, selection)


def random_leaves(count, seed=0):
  return np.random.default_rng(seed).random((count, BRANCH ** DEPTH)).astype(np.float32)


@pytest.mark.parametrize("selection, least", [("puct", 0.95), ("gumbel", 0.9)])
def test_the_best_root_action_of_enumerated_trees(selection, least):
  """At 200 simulations the action whose subtree has the best leaf, in 95 of 100 trees.

  The best leaf is 1; others are at most 0.8. Gumbel prefers actions whose leaves are good on
  average, and misses a few.
  """
  random = np.random.default_rng(1)
  leaves = 0.8 * random.random((100, BRANCH**DEPTH)).astype(np.float32)
  best = random.integers(0, BRANCH**DEPTH, 100)
  leaves[np.arange(100), best] = 1.0
  _, action = run(leaves, selection=selection)
  assert np.mean(np.asarray(action) == best // 9) >= least


@pytest.mark.parametrize("prior", [[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]], ids=["uniform", "wrong"])
def test_a_wrong_prior_converges_to_the_best_leaf(prior):
  """The only good leaf is below the last action, which the prior does not favour."""
  leaves = np.full((20, 27), 0.2, np.float32)
  leaves[np.arange(20), 18 + np.arange(20) % 9] = 1.0
  found, action = run(leaves, jnp.tile(jnp.array(prior), (20, 1)))
  assert np.all(np.asarray(action) == 2)
  visits = np.asarray(found.children_visits[:, 0])
  assert np.all(visits[:, 2] > visits[:, :2].max(axis=1))


@pytest.mark.parametrize("selection", ["puct", "uct", "gumbel"])
def test_visits_sum_to_the_simulations(selection):
  found, _ = run(random_leaves(4), simulations=50, selection=selection)
  np.testing.assert_array_equal(np.asarray(found.children_visits[:, 0]).sum(axis=1), 50)
  np.testing.assert_array_equal(found.node_visits[:, 0], 51)


@pytest.mark.parametrize("selection", ["puct", "uct", "gumbel"])
def test_candidates_that_are_none_are_never_visited(selection):
  valid = [[True, False, True], [False, False, True], [True, True, True]]
  found, action = run(
      random_leaves(3), None, np.array(valid), simulations=40, selection=selection)
  visits = np.asarray(found.children_visits[:, 0])
  assert np.all(visits[~np.array(valid)] == 0) and np.all(visits.sum(axis=1) == 40)
  assert np.array(valid)[np.arange(3), action].all()


@pytest.mark.parametrize("selection", ["puct", "uct", "gumbel"])
def test_a_root_without_candidates_does_not_fail(selection):
  found, action = run(
      random_leaves(2), None, np.array([[False] * 3, [True] * 3]), simulations=10,
      selection=selection)
  assert np.all(np.isfinite(found.node_values)) and int(action[0]) == 0
  assert int(np.asarray(found.children_visits[1, 0]).sum()) == 10


def test_ties_are_the_first():
  """Equal values and priors: one simulation visits the first action, and visits stay even."""
  found, action = run(np.full((1, 27), 0.5, np.float32), simulations=1)
  assert found.children_visits[0, 0].tolist() == [1, 0, 0] and int(action[0]) == 0
  found, action = run(np.full((1, 27), 0.5, np.float32), simulations=6)
  assert found.children_visits[0, 0].tolist() == [2, 2, 2] and int(action[0]) == 0


def test_an_unvisited_child_is_worth_its_score():
  """With scores of 0 an action of value 0.5 is visited again; with 1 the next one is tried."""
  leaves = np.full((1, 27), 0.5, np.float32)
  low, _ = run(leaves, simulations=2, c=0.01, score=0.0)
  high, _ = run(leaves, simulations=2, c=0.01, score=1.0)
  assert low.children_visits[0, 0].tolist() == [2, 0, 0]
  assert high.children_visits[0, 0].tolist() == [1, 1, 0]


def test_values_do_not_change_their_sign():
  """A chain of simulations to one leaf: every node on the way is worth means of what was found."""
  found, _ = run(np.ones((1, 27), np.float32), simulations=4)
  assert np.all(np.asarray(found.node_values) >= 0)
  assert float(found.node_values[0, 0]) == pytest.approx(
      (0.5 + sum(float(x) for x in found.raw_values[0, 1:])) / 5)


def test_a_problem_does_not_depend_on_its_batch():
  leaves = random_leaves(8)
  for selection in ("puct", "gumbel"):
    together, actions = run(leaves, simulations=60, selection=selection)
    alone, action = run(leaves[5:6], simulations=60, selection=selection)
    assert int(action[0]) == int(actions[5])
    np.testing.assert_array_equal(alone.children_visits[0], together.children_visits[5])


def test_the_most_visited_path_ends_where_nothing_was_visited():
  leaves = np.full((1, 27), 0.1, np.float32)
  leaves[0, 22] = 1.0  # 2, 1, 1
  found, action = run(leaves, simulations=300)
  node = tree.most_visited_path(found, action)
  state = tree.take_nodes(found, node).state
  assert int(state["index"][0]) == 22 and int(state["depth"][0]) == DEPTH
