"""Independent solutions, each scored once it is complete: for votes and for the best of N."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from rlreason.parallel import Layout
from rlreason.sampling import SamplingOptions, session as session_lib
from rlreason.searching import delimiter, scorer as scorer_lib, stepping
from rlreason.searching.config import LIKELIHOOD, SearchConfig
from rlreason.searching.results import Candidate, Cost, Found, within_budget
from rlreason.types import Key, Prompts


def make_sampled_search(
    config: SearchConfig, layout: Layout, table: np.ndarray, options: SamplingOptions,
    stop_ids: tuple[int, ...],
) -> Callable[[stepping.Models, Prompts, Key], list[Found]]:
  """Makes `search(models, prompts, key)`; arguments as for `beam.make_beam_search`.

  The samples of a problem are those of `sampling.sample` with the same key. With `max_tokens` only
  those count that were begun before so many tokens had been generated.
  """
  def sample(found, prompts, key):
    session = session_lib.begin(
        found.policy, prompts, key, options=options, stop_ids=stop_ids,
        group_size=config.num_samples)
    session = session_lib.draw_first(found.policy, session, jnp.ones(session.lengths.shape, bool))
    session = session_lib.run_begun(
        found.policy, session, jnp.full_like(session.lengths, session.capacity), is_closed=True)
    scores = session.log_probs
    if found.scorer is not None:
      scores = scorer_lib.score_rows(found.scorer, prompts, session.tokens, session.lengths)
    return {"tokens": session.tokens, "lengths": session.lengths, "is_done": session.is_done,
            "scores": scores}

  program = layout.compile_sampler(sample)

  def search(found, prompts, key):
    count = prompts.tokens.shape[0]
    out = layout.get_rows(program(found, layout.put_rows(prompts), key))
    out = {name: x.reshape(count, config.num_samples, *x.shape[1:]) for name, x in out.items()}
    prompt_lengths = np.asarray(prompts.mask).sum(axis=1)
    return [_found(config, table, {name: x[i] for name, x in out.items()}, int(prompt_lengths[i]))
            for i in range(count)]

  return search


def _found(config: SearchConfig, table: np.ndarray, out: dict, prompt: int) -> Found:
  """The solutions of one problem, arrays of N rows."""
  lengths = out["lengths"].tolist()
  lengths = lengths[:within_budget(config, lengths)]
  total = sum(lengths)
  return Found(
      tuple(candidate(config, table, out["tokens"][i, :length], out["scores"][i, :length],
                      not out["is_done"][i])
            for i, length in enumerate(lengths)),
      Cost(generated=total, scored=total + prompt if config.reads_model else 0, prompt=prompt))


def candidate(
    config: SearchConfig, table: np.ndarray, tokens: np.ndarray, scores: np.ndarray,
    is_truncated: bool,
) -> Candidate:
  """A complete solution, from the scores after its tokens, or their log-probs."""
  ids = tuple(tokens.tolist())
  ends = delimiter.step_ends(table, ids) if config.scorer else []
  if config.scorer == LIKELIHOOD:
    starts = [0, *(end + 1 for end in ends[:-1])]
    read = [float(np.exp(np.mean(scores[start:end + 1])))
            for start, end in zip(starts, ends, strict=True)]
  else:
    read = [float(scores[end]) for end in ends]
  return Candidate(ids, tuple(read), bool(is_truncated))
