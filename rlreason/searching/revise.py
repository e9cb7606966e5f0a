"""Sequential revision: each solution is followed by others of the same row (Snell et al. 2024,
https://arxiv.org/abs/2408.03314).

A text such as "Wait" takes the place of the end token, and the policy continues; the row up to each
of its ends is a solution. Not here: waits within one solution (`rollout/forcing.py`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlreason.parallel import Layout
from rlreason.sampling import SamplingOptions, session as session_lib
from rlreason.searching import scorer as scorer_lib, stepping
from rlreason.searching.config import SearchConfig
from rlreason.searching.results import Cost, Found, within_budget
from rlreason.searching.sampled import candidate
from rlreason.types import Key, Prompts


def make_revision_search(
    config: SearchConfig, layout: Layout, table: np.ndarray, options: SamplingOptions,
    stop_ids: tuple[int, ...], revision: tuple[int, ...],
) -> Callable[[stepping.Models, Prompts, Key], list[Found]]:
  """Makes `search(models, prompts, key)`; `revision` are the ids of the text.

  Other arguments are as for `beam.make_beam_search`. The length limit is that of a row, with all
  its revisions: a row that reaches it is revised no more.
  """
  def revise(found, prompts, key):
    session = session_lib.run(found.policy, session_lib.begin(
        found.policy, prompts, key, options=options, stop_ids=stop_ids,
        group_size=config.num_samples))
    rows, states = session.lengths.shape[0], [session]
    for _ in range(config.num_revisions):
      is_open = session.is_done & (session.lengths - 1 + len(revision) < session.capacity)
      ids = jnp.tile(jnp.asarray(revision, jnp.int32), (rows, 1))
      session = session_lib.append(
          found.policy, session_lib.without_end(session, is_open), ids,
          jnp.where(is_open, len(revision), 0))
      session = session_lib.run(found.policy, session)
      states.append(session)
    scores = session.log_probs
    if found.scorer is not None:
      scores = scorer_lib.score_rows(found.scorer, prompts, session.tokens, session.lengths)
    stack = lambda name: jnp.stack([getattr(state, name) for state in states], axis=1)
    return {"tokens": session.tokens, "scores": scores, "lengths": stack("lengths"),
            "is_done": stack("is_done")}

  program = layout.compile_sampler(revise)

  def search(found, prompts, key):
    out = layout.get_rows(program(found, layout.put_rows(prompts), key))
    count = prompts.tokens.shape[0]
    by_problem = jax.tree.map(
        lambda x: x.reshape(count, config.num_samples, *x.shape[1:]), out)
    return [_found(config, table, {name: x[i] for name, x in by_problem.items()},
                   (len(revision), int(mask.sum())))
            for i, mask in enumerate(np.asarray(prompts.mask))]

  return search


def _found(config: SearchConfig, table: np.ndarray, out: dict, given: tuple[int, int]) -> Found:
  """The solutions of one problem; `given` are the tokens of the revision and of the prompt."""
  inserted, prompt = given
  last = out["lengths"][:, -1].tolist()
  solutions, generated, read = [], 0, 0
  for row in range(within_budget(config, last)):
    ends = out["lengths"][row].tolist()
    is_new = [i for i in range(len(ends)) if i == 0 or ends[i] > ends[i - 1]]
    # An end token that was replaced had been generated too; the text was not.
    generated += ends[-1] - (inserted - 1) * (len(is_new) - 1)
    read += ends[-1]
    for i in is_new:
      # Tokens of the row as it is now: a solution that was revised has lost its end token.
      length = ends[i] - (i < is_new[-1])
      solutions.append(candidate(
          config, table, out["tokens"][row, :length], out["scores"][row, :length],
          not out["is_done"][row, i]))
  scored = read + prompt if config.reads_model else 0
  return Found(tuple(solutions), Cost(generated=generated, scored=scored, prompt=prompt))
