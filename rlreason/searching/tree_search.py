"""Searches by trees, in three forms (TS-LLM, https://arxiv.org/abs/2309.17179).

vanilla: one tree from the prompt; the solution is its most visited path, which the policy continues
if it ends before the solution does. reroot: a tree for every step; the most visited action is taken
and is the root of the next tree (MCTS-alpha). rollout: every solution that a tree holds. Each
problem has `num_samples` trees of its own.
"""

from collections.abc import Callable
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from rlreason.parallel import Layout
from rlreason.sampling import SamplingOptions, session as session_lib
from rlreason.searching import nodes, scorer as scorer_lib, step_tree, stepping, token_tree, tree
from rlreason.searching.config import SearchConfig
from rlreason.searching.results import Candidate, Cost, Found
from rlreason.types import Key, Prompts

_KINDS = {"mcts": step_tree, "token_mcts": token_tree}


def make_tree_search(
    config: SearchConfig, layout: Layout, table: np.ndarray, options: SamplingOptions,
    stop_ids: tuple[int, ...],
) -> Callable[[stepping.Models, Prompts, Key], list[Found]]:
  """Makes `search(models, prompts, key)`; arguments as for `beam.make_beam_search`."""
  settings = dict(options=options, stop_ids=stop_ids)
  table = jnp.asarray(table)
  begin = layout.compile_sampler(functools.partial(_begin, config, table, settings))
  finish = layout.compile_sampler(functools.partial(_finish, config))
  search_one = layout.compile_sampler(functools.partial(_search, config, table))

  def search(found, prompts, key):
    count, trees = prompts.tokens.shape[0], config.num_samples
    repeated = jax.tree.map(lambda x: np.repeat(x, trees, axis=0), prompts)
    numbers = np.tile(np.arange(trees, dtype=np.int32), count)
    state = begin(found, layout.put_rows((repeated, numbers)), key)
    costs, ended = [Cost()] * (count * trees), []
    is_spent = np.zeros(count * trees, bool)
    for _ in range(_most_trees(config)):
      out = search_one(found, (*state, layout.put_rows(is_spent)), key)
      state, host = out["state"], layout.get_rows(out["host"])
      costs = [cost.plus(_cost(config, host, i)) for i, cost in enumerate(costs)]
      is_spent = np.array([cost.generated >= _budget(config) for cost in costs])
      if config.form == "rollout":
        ended = [_ended(config, host, i) for i in range(count * trees)]
      if (host["is_end"] | is_spent).all():
        break
    host = layout.get_rows(finish(found, state, key))
    return _gathered(config, prompts, costs, ended, host)

  return search


def _most_trees(config: SearchConfig) -> int:
  if config.form != "reroot":
    return 1
  return config.max_steps if config.method == "mcts" else config.max_depth


def _budget(config: SearchConfig) -> float:
  """Tokens that each tree of a problem may generate; the last candidates are complete."""
  return config.max_tokens / config.num_samples if config.max_tokens else math.inf


def _begin(config: SearchConfig, table, settings, found: stepping.Models, given, key: Key):
  """The roots of all trees; a tree draws by the number of its problem and its own."""
  prompts, numbers = given
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
  rows = stepping.begin(found, prompts, keys, 1, **settings)
  rows = stepping.grow(rows, max(rows.session.capacity - 1, 1))  # all nodes have one shape
  prefix, shared = nodes.begin(rows, config.max_steps if config.method == "mcts" else 1)
  return _KINDS[config.method].make_root(config, found, shared, table, prefix), shared


def _search(config: SearchConfig, table: jax.Array, found: stepping.Models, given, unused_key):
  """One tree from each root, the node that it leads to, and what the host reads of it.

  Nothing is generated below a root whose budget is spent, bool[P].
  """
  root, shared, is_spent = given
  prefix = root.state.prefix
  root = root.replace(
      is_valid=root.is_valid & ~is_spent[:, None], state=root.state.replace(
          prefix=prefix.replace(is_end=prefix.is_end | is_spent)))
  expand = functools.partial(_KINDS[config.method].expand, config, found, shared, table)
  grown = tree.search_tree(
      root, expand, simulations=config.simulations, selection=config.selection,
      exploration=config.exploration)
  held = grown.embeddings.state
  host = {"generated": held.generated}
  if config.form == "reroot":
    chosen = tree.children(grown, tree.best_action(grown, config.selection))
  else:
    chosen = tree.most_visited_path(grown, tree.best_action(grown, config.selection))
  if config.form == "rollout":
    row = held.prefix.row["row"]
    is_complete = row["is_done"] | (row["lengths"] >= row["tokens"].shape[2])
    is_new = (grown.node_visits > 0) & is_complete & ~_of_parents(grown, is_complete)
    host |= {"is_solution": is_new, "tokens": row["tokens"], "lengths": row["lengths"],
             "is_done": row["is_done"], "step_scores": held.prefix.step_scores,
             "steps": held.prefix.steps}
  node = tree.take_nodes(grown, chosen)
  is_end = node.state.prefix.is_end
  # Its candidates are counted in this tree, not again in the next.
  node = node.replace(state=node.state.replace(generated=jnp.zeros_like(node.state.generated)))
  return {"state": (node, shared), "host": host | {"is_end": is_end}}


def _of_parents(grown, x: jax.Array) -> jax.Array:
  """Of each node's parent, False for the root: a leaf that is visited again is no new solution."""
  parents = jnp.take_along_axis(x, jnp.maximum(grown.parents, 0), axis=1)
  return jnp.where(grown.parents < 0, False, parents)


def _finish(config: SearchConfig, found: stepping.Models, given, unused_key):
  """Prefixes that the policy continues to their ends, with a score of what it adds."""
  node, shared = given
  prefix = node.state.prefix
  rows = nodes.join(prefix, shared)
  before, session = rows.session.lengths, rows.session
  is_complete = session.is_done | (before >= session.capacity)
  session = session_lib.run(found.policy, session, jnp.where(
      is_complete, before, session.capacity))
  if rows.scorer is None:
    last = scorer_lib.likelihood(session, before)
  else:
    count = min(scorer_lib.CHUNK, session.capacity)
    read = lambda state, _: (scorer_lib.extend(
        found.scorer, state, session.prompts, session.tokens, session.lengths, count)[0], None)
    last = jax.lax.scan(read, rows.scorer, length=-(-session.capacity // count))[0].scores
  return {"tokens": session.tokens, "lengths": session.lengths, "is_done": session.is_done,
          "step_scores": prefix.step_scores, "steps": prefix.steps, "last": last,
          "continued": session.lengths - before}


def _cost(config: SearchConfig, host: dict, i: int) -> Cost:
  """Of one tree; beyond `max_tokens` of a rollout nothing counts."""
  generated = int(host["generated"][i][:_within(config, host, i)].sum())
  return Cost(generated=generated, scored=generated if config.reads_model else 0)


def _within(config: SearchConfig, host: dict, i: int) -> int:
  """How many nodes of a tree are made before it has generated `max_tokens`."""
  total = host["generated"][i].shape[0]
  if config.form != "rollout":
    return total
  before = np.cumsum(host["generated"][i]) - host["generated"][i]
  return int(np.sum(before < _budget(config)))


def _ended(config: SearchConfig, host: dict, i: int) -> list[Candidate]:
  """The different solutions in one tree, in the order in which they were found."""
  found = {}
  for node in np.flatnonzero(host["is_solution"][i][:_within(config, host, i)]):
    one = _candidate({name: x[i, node] for name, x in host.items() if x.ndim > 1})
    found.setdefault(one.ids, one)
  return list(found.values())


def _candidate(of: dict) -> Candidate:
  scores = of["step_scores"][:of["steps"]].tolist()
  if of.get("continued", 0):
    scores.append(float(of["last"]))
  return Candidate(tuple(of["tokens"][:of["lengths"]].tolist()), tuple(scores),
                   not of["is_done"])


def _gathered(config: SearchConfig, prompts, costs, ended, host: dict) -> list[Found]:
  """The solutions and costs of problems, each with all of its trees."""
  trees, results = config.num_samples, []
  for problem, mask in enumerate(np.asarray(prompts.mask)):
    candidates, cost = [], Cost(
        prompt=trees * int(mask.sum()),
        scored=trees * int(mask.sum()) if config.reads_model else 0)
    for i in range(problem * trees, (problem + 1) * trees):
      cost = cost.plus(costs[i])
      if ended and ended[i]:
        candidates += ended[i]
        continue
      more = int(host["continued"][i])
      cost = cost.plus(Cost(generated=more, scored=more if config.reads_model else 0))
      candidates.append(_candidate({name: x[i] for name, x in host.items()}))
    results.append(Found(tuple(candidates), cost))
  return results
