"""Step beams, with parts that do not compete (DVTS) and with lookahead.

Step beam: of all rows of a problem the best prefixes by the score of their steps so far are kept,
and each is continued by several rows (Snell et al. 2024, https://arxiv.org/abs/2408.03314; OpenR,
https://arxiv.org/abs/2410.09671). A kept prefix that is a whole solution leaves the beam, which
narrows by one. DVTS, diverse verifier tree search (Beeching et al. 2024, "Scaling test-time compute
with open models"): the beam in `width` parts that keep one prefix each.

The device samples and scores (`stepping`); which rows go on is decided here, between steps, from
the lengths, tokens and scores of the rows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlreason.parallel import Layout
from rlreason.sampling import SamplingOptions, segments
from rlreason.searching import stepping
from rlreason.searching.config import SearchConfig
from rlreason.searching.results import Candidate, Cost, Found
from rlreason.searching.scores import aggregate
from rlreason.types import Key, Prompts


class _Beam:
  """The beam of one part of a problem's rows, on the host."""

  def __init__(self, config: SearchConfig, slots: range):
    self.config, self.slots = config, slots
    self.width = config.width // config.subtrees  # prefixes still to be found
    self.rows_of_prefix = len(slots) // self.width
    self.paths = {slot: () for slot in slots}  # the scores of the steps of active rows
    self.done: list[Candidate] = []

  def select(self, tokens: list, is_done, is_full, scores, ahead) -> dict[int, int]:
    """Chooses among the active rows after a step; returns slot -> row that it is to copy.

    Rows with the same tokens are one, the first. Of equal scores the first row is better.

    Args:
      tokens: of each row of the problem.
      is_done: bool[G] whether the row has ended.
      is_full: bool[G] whether it has reached the length limit.
      scores: f32[G] of the newest step.
      ahead: f32[G] the scores by which rows are chosen, instead of those.
    """
    how = self.config.aggregate
    unique = {tokens[slot]: slot for slot in reversed(sorted(self.paths))}
    value = {slot: aggregate((*self.paths[slot], float(ahead[slot])), how)
             for slot in unique.values()}
    chosen = sorted(value, key=lambda slot: (-value[slot], slot))[:self.width]
    paths = {slot: (*self.paths[slot], float(scores[slot])) for slot in chosen}
    ended = [slot for slot in chosen if is_done[slot] or is_full[slot]]
    self.done += [Candidate(tokens[slot], paths[slot], not is_done[slot]) for slot in ended]
    self.width -= len(ended)
    prefixes = [slot for slot in chosen if slot not in ended]
    if not prefixes:
      self.paths = {}
      return {}
    count = self.width * self.rows_of_prefix
    sources = {slot: prefixes[i * len(prefixes) // count]
               for i, slot in enumerate(self.slots[:count])}
    self.paths = {slot: paths[source] for slot, source in sources.items()}
    return sources

  def stop(self, tokens: list, sources: dict[int, int]):
    """Ends the beam: its prefixes become truncated solutions."""
    first = {source: slot for slot, source in reversed(sources.items())}
    self.done += [Candidate(tokens[source], self.paths[slot], True)
                  for source, slot in sorted(first.items())]
    self.paths = {}


def make_beam_search(
    config: SearchConfig, layout: Layout, table: np.ndarray, options: SamplingOptions,
    stop_ids: tuple[int, ...],
) -> Callable[[stepping.Models, Prompts, Key], list[Found]]:
  """Makes `search(models, prompts, key)` for a batch of problems, P a multiple of the shards.

  Args:
    config: with method beam.
    layout: where programs run.
    table: of the delimiter.
    options: of the policy's sampler; `max_new_tokens` is the length limit.
    stop_ids: that end a solution.
  """
  group, capacity = config.num_samples, options.max_new_tokens
  lengths = segments.lengths(capacity)
  begin, advance, grow = _programs(config, layout, table, options, stop_ids)

  def search(found, prompts, key):
    count = prompts.tokens.shape[0]
    size = group // config.subtrees
    beams = [[_Beam(config, range(start, start + size)) for start in range(0, group, size)]
             for _ in range(count)]
    rows, slots, costs = begin(found, layout.put_rows(prompts), key), lengths[0], [
        _prompt_cost(config, int(mask.sum())) for mask in np.asarray(prompts.mask)]
    sources = np.tile(np.arange(group, dtype=np.int32), (count, 1))
    is_active, longest = np.ones((count, group), bool), 0
    for number in range(config.max_steps):
      needed = min(longest + config.step_tokens * (1 + config.lookahead), capacity)
      if segments.num_slots(needed) > slots:
        slots = next(n for n in lengths if n >= segments.num_slots(needed))
        rows = grow(slots)(found, rows, key)
      rows, out = advance(
          found, (rows, *layout.put_rows((sources, is_active.reshape(-1)))), key)
      out = {name: x.reshape(count, group, *x.shape[1:])
             for name, x in layout.get_rows(out).items()}
      costs = [cost.plus(_step_cost(config, out, i)) for i, cost in enumerate(costs)]
      is_last = number == config.max_steps - 1
      for i in range(count):
        _select(config, beams[i], out, i, sources, is_active, is_last or (
            0 < config.max_tokens <= costs[i].generated))
      longest = int(out["lengths"].max())
      if not is_active.any():
        break
    return [Found(tuple(one for part in parts for one in part.done), cost)
            for parts, cost in zip(beams, costs, strict=True)]

  return search


def _select(config, parts: Sequence[_Beam], out, problem: int, sources, is_active, is_last: bool):
  """Chooses the rows of one problem, and writes what they copy and which of them go on."""
  of = {name: x[problem] for name, x in out.items()}
  tokens = [tuple(row[:length].tolist())
            for row, length in zip(of["tokens"], of["lengths"], strict=True)]
  is_full = of["lengths"] >= of["tokens"].shape[1]
  sources[problem], is_active[problem] = np.arange(len(tokens)), False
  for beam in parts:
    if not beam.paths:
      continue
    copied = beam.select(tokens, of["is_done"], is_full, of["scores"], of["ahead"])
    if is_last:
      beam.stop(tokens, copied)
      continue
    for slot, source in copied.items():
      sources[problem, slot], is_active[problem, slot] = source, True


def _programs(config: SearchConfig, layout: Layout, table, options, stop_ids):
  """begin(models, prompts, key); advance(models, (rows, sources, is_active), key); grow(slots)."""
  step_tokens, table = config.step_tokens, jnp.asarray(table)

  def begin(found, prompts, key):
    return stepping.begin(found, prompts, key, config.num_samples, options=options,
                          stop_ids=stop_ids)

  def advance(found, given, unused_key):
    rows, sources, is_active = given
    rows = stepping.fork(rows, sources)
    begun = rows.session.lengths
    done = stepping.step(found, rows, is_active, table, step_tokens)
    ahead, counts, session = done.scores, done.counts, done.rows.session
    if config.lookahead:
      seen = stepping.look_ahead(
          found, done.rows, is_active, table, (config.lookahead, step_tokens), begun)
      ahead, counts = jnp.where(seen.counts > 0, seen.scores, ahead), counts + seen.counts
    return done.rows, {
        "tokens": session.tokens, "lengths": session.lengths, "is_done": session.is_done,
        "scores": done.scores, "ahead": ahead, "counts": counts}

  programs: dict[int, Any] = {}

  def grow(slots):
    if slots not in programs:
      programs[slots] = layout.compile_sampler(
          lambda found, rows, unused_key: stepping.grow(rows, slots))
    return programs[slots]

  return layout.compile_sampler(begin), layout.compile_sampler(advance), grow


def _prompt_cost(config: SearchConfig, length: int) -> Cost:
  return Cost(prompt=length, scored=length if config.reads_model else 0)


def _step_cost(config: SearchConfig, out: dict[str, jax.Array], problem: int) -> Cost:
  generated = int(out["counts"][problem].sum())
  return Cost(generated=generated, scored=generated if config.reads_model else 0)
