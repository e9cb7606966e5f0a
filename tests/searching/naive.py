"""A search over steps that recomputes everything, to compare with: no caches, forks or batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlreason import models
from rlreason.sampling import logits as logits_lib
from rlreason.searching.scores import aggregate

WIDTH = 32


class Naive:
  """Draws tokens and scores texts, each from a full forward pass of one row."""

  def __init__(self, config, params, scorer_params, options, stop_ids, key):
    self.options, self.stop_ids, self.key = options, stop_ids, key
    self.generated = 0

    @jax.jit
    def of_row(params, tokens, length):
      mask = jnp.arange(WIDTH) < length
      hidden = models.forward(config, params, tokens[None], mask[None])[0]
      return hidden[length - 1]

    @jax.jit
    def draw(tokens, length, key):
      logits = models.logits(config, params, of_row(params, tokens, length)[None])
      if options.temperature == 0:
        return logits_lib.choose_greedily(logits)[0][0]
      return logits_lib.choose(
          logits_lib.filter_logits(logits, options), jax.random.uniform(key, (1, 2)))[0][0]

    @jax.jit
    def greedy(tokens, length):
      return jnp.argmax(models.logits(config, params, of_row(params, tokens, length)[None])[0])

    @jax.jit
    def score(tokens, length):
      hidden = of_row(scorer_params["trunk"], tokens, length)
      return jax.nn.sigmoid(models.apply_value_head(scorer_params["value_head"], hidden))

    self._draw, self._greedy, self._score = draw, greedy, score

  def _padded(self, ids):
    return jnp.asarray(np.pad(np.array(ids, np.int32), (0, WIDTH - len(ids)))), len(ids)

  def step(self, prompt, row, ids, ends_step, most, is_greedy=False):
    """The completion `ids` with one step more, drawn with the key of (problem, row)."""
    ids, start = list(ids), len(ids)
    capacity = self.options.max_new_tokens
    while len(ids) < min(start + most, capacity) and not (ids and ids[-1] in self.stop_ids):
      tokens, length = self._padded([*prompt[1], *ids])
      fold = jax.random.fold_in
      key = fold(fold(fold(self.key, prompt[0]), row), len(ids))
      token = self._greedy(tokens, length) if is_greedy else self._draw(tokens, length, key)
      ids.append(int(token))
      self.generated += 1
      if ends_step(ids, start):
        break
    return tuple(ids)

  def score(self, prompt, ids):
    return float(self._score(*self._padded([*prompt[1], *ids])))


def beam_search(naive, prompt, config, ends_step):
  """The candidates (tokens, scores of steps) of one problem, in the order of their ends."""
  size = config.num_samples // config.subtrees
  done = []
  for part in range(config.subtrees):
    found, rows = [], {part * size + i: ((), ()) for i in range(size)}
    width = config.width // config.subtrees
    each = size // width
    for number in range(config.max_steps):
      grown = {}
      for row, (ids, path) in rows.items():
        ids = naive.step(prompt, row, ids, ends_step, config.step_tokens)
        score = naive.score(prompt, ids)
        ahead, chosen = ids, score
        for _ in range(config.lookahead):
          ahead = naive.step(prompt, row, ahead, ends_step, config.step_tokens, is_greedy=True)
          chosen = naive.score(prompt, ahead)
        grown[row] = ids, (*path, score), aggregate((*path, chosen), config.aggregate)
      unique = {}
      for row, entry in grown.items():
        unique.setdefault(entry[0], (row, *entry))
      kept = sorted(unique.values(), key=lambda entry: (-entry[3], entry[0]))[:width]
      is_end = lambda ids: (ids[-1] in naive.stop_ids
                            or len(ids) == naive.options.max_new_tokens)
      found += [entry for entry in kept if is_end(entry[1])]
      width -= sum(is_end(entry[1]) for entry in kept)
      left = [entry for entry in kept if not is_end(entry[1])]
      if not left:
        break
      if number == config.max_steps - 1:
        found += sorted(left)
        break
      count = width * each
      rows = {part * size + i: left[i * len(left) // count][1:3] for i in range(count)}
    done += [(entry[1], entry[2]) for entry in found]
  return done


@functools.cache
def ends_by(marks):
  """Whether a step, from column `start`, ends with its newest token: one of `marks`."""
  return lambda ids, start: ids[-1] in marks
