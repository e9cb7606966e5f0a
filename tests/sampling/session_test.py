"""Sessions against full forward passes, after any sequence of what may be done with them."""

import dataclasses
import functools
import re
from typing import NamedTuple

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import models
from rlreason.models import ModelConfig, YarnRopeScaling, quantize
from rlreason.sampling import SamplingOptions, session as session_lib
from rlreason.sampling import logits as logits_lib
from rlreason.types import Prompts

TINY = ModelConfig(
    vocab_size=17, width=12, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=6, mlp_width=20)
# Windows shorter than prompts and rows, both soft caps, two kinds of layers and scaled positions.
UNEVEN = dataclasses.replace(
    TINY, num_layers=2, sliding_window=4, sliding_layers=(True, False), local_rope_theta=100.0,
    attention_softcap=3.0, logit_softcap=5.0, qk_norm=True, tie_embeddings=False,
    rope_scaling=YarnRopeScaling(2.0, 16, 1.1))
STOP = (3, 5, 11)
COLUMNS, CAPACITY, GIVEN = 5, 12, 3
KEY = jax.random.key(7)
HEAD = {"kernel": np.linspace(-1, 1, TINY.width, dtype=np.float32), "bias": np.float32(0.3)}

forward = jax.jit(models.forward, static_argnums=0)
logits_of = jax.jit(models.logits, static_argnums=0)


class Case(NamedTuple):
  """What a session is of."""

  config: ModelConfig
  options: SamplingOptions
  prompts: int
  group_size: int
  capacity: int = CAPACITY


SAMPLED = Case(UNEVEN, SamplingOptions(max_new_tokens=7, temperature=0.9, top_k=9), 2, 3)
GREEDY = Case(TINY, SamplingOptions(max_new_tokens=7, temperature=0.0), 3, 1)
INT8 = Case(TINY, SamplingOptions(max_new_tokens=7, weights="int8"), 1, 2)


@functools.cache
def params_of(config, is_rounded):
  """Random ones; where `is_rounded` with kernels that int8 loses nothing of."""
  random = np.random.default_rng(0)
  is_scale = lambda path: path[-1].key == "scale"
  params = jax.tree.map_with_path(
      lambda path, leaf: (0.4 * random.standard_normal(leaf.shape) + is_scale(path)).astype(
          leaf.dtype), models.abstract_params(config))

  def rounded(path, x):
    if path[-1].key not in ("kernel", "embedding"):
      return x
    inputs = {"embedding": (1,), "o": (1, 2)}.get(path[-2].key, (1,))
    inputs = (1,) if path[-1].key == "embedding" else inputs
    scale = np.max(np.abs(x), axis=inputs, keepdims=True) / 127
    return (np.round(x / scale) * scale).astype(x.dtype)

  return jax.tree.map_with_path(rounded, params) if is_rounded else params


class Programs(NamedTuple):
  """All that may be done, compiled for a case."""

  decoder: session_lib.Decoder
  begin: object
  run: object
  append: object
  fork: object
  refill: object
  without_end: object
  shorten: object


@functools.cache
def programs_of(case):
  decoder = session_lib.prepare(
      case.config, params_of(case.config, case.options.is_int8), value_head=HEAD,
      is_int8=case.options.is_int8)
  begin = functools.partial(
      session_lib.begin, options=case.options, stop_ids=STOP, group_size=case.group_size,
      capacity=case.capacity)
  return Programs(
      decoder, jax.jit(begin), *map(jax.jit, (
          session_lib.run, session_lib.append, session_lib.fork, session_lib.refill,
          session_lib.without_end, session_lib.shorten)))


def make_prompts(indices):
  """A prompt of 1 to 5 tokens for each index, always the same."""
  lengths = np.array([1 + 3 * index % COLUMNS for index in indices])
  tokens = np.stack([np.random.default_rng(index).integers(0, TINY.vocab_size, COLUMNS)
                     for index in indices])
  return Prompts(
      tokens=tokens.astype(np.int32), mask=np.arange(COLUMNS) >= COLUMNS - lengths[:, None],
      index=np.array(indices, np.int32))


@functools.partial(jax.jit, static_argnums=0)
def expected_tokens(options, logits, index, sample):
  """Tokens and log-probs [B, T] of logits [B, T, V], drawn for (index i32[B], sample i32[B, T])."""
  if options.temperature == 0:
    return jnp.argmax(logits, axis=-1), jnp.max(jax.nn.log_softmax(logits), axis=-1)

  def of_token(logits, index, sample, t):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(KEY, index), sample), t)
    token, log_prob = logits_lib.choose(
        logits_lib.filter_logits(logits[None], options), jax.random.uniform(key, (1, 2)))
    return token[0], log_prob[0]

  of_row = jax.vmap(of_token, (0, None, 0, 0))
  return jax.vmap(of_row, (0, 0, 0, None))(logits, index, sample, jnp.arange(logits.shape[1]))


class Walk:
  """A session, and beside it what is known without the model."""

  def __init__(self, case, parts=1, place=lambda tree: tree):
    """`parts` of prompts are on devices of their own, where `place` puts what has rows."""
    self.case, self.parts, self.place = case, parts, place
    self.programs = programs_of(case)
    rows = case.prompts * case.group_size
    self.index = np.arange(case.prompts)
    self.lengths, self.is_done = np.zeros(rows, int), np.zeros(rows, bool)
    # Of each token: whether it was given, which, and if not, the sample whose key drew it.
    self.is_given, self.given, self.sample = np.zeros((3, rows, case.capacity), int)
    self.session = self.programs.begin(
        self.programs.decoder, place(make_prompts(self.index)), KEY)

  def run(self, random):
    until = random.integers(0, self.case.capacity + 3, len(self.lengths))
    before = jax.device_get(session_lib.to_rollout(self.session))
    self.session = self.programs.run(
        self.programs.decoder, self.session, self.place(until.astype(np.int32)))
    is_open = ~self.is_done & (self.lengths < np.minimum(until, self.case.capacity))
    self._note_run(is_open, np.minimum(until, self.case.capacity))
    after = jax.device_get(session_lib.to_rollout(self.session))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[~is_open], y[~is_open]),
                 before, after)

  def finish(self):
    self.session = self.programs.run(
        self.programs.decoder, self.session,
        self.place(np.full(len(self.lengths), self.case.capacity, np.int32)))
    self._note_run(~self.is_done & (self.lengths < self.case.capacity), self.case.capacity)

  def _note_run(self, is_open, until):
    lengths, is_done = (np.asarray(x) for x in (self.session.lengths, self.session.is_done))
    np.testing.assert_array_equal(lengths[~is_open], self.lengths[~is_open])
    np.testing.assert_array_equal(is_done[~is_open], self.is_done[~is_open])
    assert np.all((lengths > self.lengths)[is_open])
    assert np.all((is_done | (lengths == until))[is_open])
    columns = np.arange(self.case.capacity)
    is_new = (columns >= self.lengths[:, None]) & (columns < lengths[:, None])
    is_stop = is_new & np.isin(np.asarray(self.session.tokens), STOP)
    np.testing.assert_array_equal(is_done[is_open], is_stop.any(axis=1)[is_open])
    assert np.all(is_stop[:, :-1].sum(axis=1) <= 1)
    assert not np.any(is_stop & (columns < lengths[:, None] - 1))  # none continues after it
    self.sample[is_new] = np.nonzero(is_new)[0] % self.case.group_size
    self.is_given[is_new] = 0
    self.lengths, self.is_done = lengths.copy(), is_done.copy()

  def append(self, random):
    ids = random.integers(0, TINY.vocab_size, (len(self.lengths), GIVEN))
    counts = random.integers(0, GIVEN + 1, len(self.lengths))
    self.session = self.programs.append(
        self.programs.decoder, self.session, *self.place(
            (ids.astype(np.int32), counts.astype(np.int32))))
    counts = np.minimum(counts, self.case.capacity - self.lengths)
    for row, count in enumerate(counts):
      where = slice(self.lengths[row], self.lengths[row] + count)
      self.is_given[row, where], self.given[row, where] = 1, ids[row, :count]
    self.lengths += counts
    self.is_done &= counts == 0

  def fork(self, random):
    group = self.case.group_size
    rows = random.integers(0, group, (self.case.prompts, group))
    self.session = self.programs.fork(self.session, self.place(rows.astype(np.int32)))
    source = (rows + group * np.arange(self.case.prompts)[:, None]).reshape(-1)
    for name in ("lengths", "is_done", "is_given", "given", "sample"):
      setattr(self, name, getattr(self, name)[source])

  def refill(self, random):
    """One group of each part begins anew; at times none."""
    size = self.case.prompts // self.parts
    slots = random.integers(0, size + 1, (self.parts, 1))
    new = 100 + random.integers(0, 9, self.parts)
    self.session = self.programs.refill(
        self.programs.decoder, self.session, self.place(slots.astype(np.int32)),
        self.place(make_prompts(new)), KEY)
    for part in np.flatnonzero(slots[:, 0] < size):
      group = part * size + slots[part, 0]
      self.index[group] = new[part]
      rows = slice(group * self.case.group_size, (group + 1) * self.case.group_size)
      self.lengths[rows], self.is_done[rows] = 0, False

  def without_end(self, random):
    is_chosen = random.integers(0, 2, len(self.lengths)).astype(bool)
    self.session = self.programs.without_end(self.session, self.place(is_chosen))
    is_chosen &= self.is_done
    self.lengths -= is_chosen
    self.is_done &= ~is_chosen

  def shorten(self, random):
    lengths = random.integers(0, self.case.capacity + 1, len(self.lengths))
    self.session = self.programs.shorten(self.session, self.place(lengths.astype(np.int32)))
    self.is_done &= lengths >= self.lengths
    self.lengths = np.minimum(lengths, self.lengths)

  def check(self):
    """Every token, log-prob and value again, from a full forward pass of each row."""
    case, rollout = self.case, jax.device_get(session_lib.to_rollout(self.session))
    np.testing.assert_array_equal(rollout.truncated, ~self.is_done)
    is_token = np.arange(case.capacity) < self.lengths[:, None]
    is_action = is_token & (self.is_given == 0)
    np.testing.assert_array_equal(rollout.token_mask, is_token)
    np.testing.assert_array_equal(rollout.action_mask, is_action)
    np.testing.assert_array_equal(
        rollout.prompt_tokens, np.repeat(make_prompts(self.index).tokens, case.group_size, axis=0))
    tokens = np.concatenate([rollout.prompt_tokens, rollout.completion_tokens], axis=1)
    mask = np.concatenate([rollout.prompt_mask, is_token], axis=1)
    params = params_of(case.config, case.options.is_int8)
    hidden = forward(case.config, params, tokens, mask)[:, COLUMNS - 1:-1]
    drawn, log_probs = jax.device_get(expected_tokens(
        case.options, logits_of(case.config, params, hidden),
        np.repeat(self.index, case.group_size), self.sample))
    values = np.asarray(models.apply_value_head(HEAD, hidden))
    expected = np.where(is_action, drawn, np.where(is_token, self.given, 0))
    np.testing.assert_array_equal(rollout.completion_tokens, expected)
    np.testing.assert_allclose(rollout.log_probs, np.where(is_action, log_probs, 0), atol=1e-5)
    np.testing.assert_allclose(
        rollout.values, np.where(is_action, values, 0), rtol=0,
        atol=1e-5 * max(1.0, np.abs(values).max()))


DEEDS = ("run", "append", "fork", "refill", "without_end", "shorten")


def walk(case, deeds, **options):
  """Does all of it and looks at the end, and once more when all rows have gone on."""
  walked = Walk(case, **options)
  for deed, seed in deeds:
    getattr(walked, deed)(np.random.default_rng(seed))
  walked.check()
  walked.finish()
  walked.check()


@pytest.mark.parametrize("case, examples", [(SAMPLED, 25), (GREEDY, 8), (INT8, 8)],
                         ids=["sampled", "greedy", "int8"])
def test_any_sequence_gives_what_full_forward_passes_give(case, examples):
  @hypothesis.settings(max_examples=examples)
  @hypothesis.given(st.lists(
      st.tuples(st.sampled_from(DEEDS), st.integers(0, 2**32 - 1)), max_size=7))
  def check(deeds):
    walk(case, deeds)

  check()


def test_kernels_of_the_int8_case_lose_nothing():
  """So that its full pass is that of the model, to rounding, and not an approximation."""
  plain, in_int8 = (models.split_layers(TINY, params_of(TINY, True), is_int8=is_int8)[0]
                    for is_int8 in (False, True))
  for part, name in (("attention", "q"), ("attention", "o"), ("mlp", "down")):
    kernel, expected = (layer[part][name]["kernel"] for layer in (in_int8, plain))
    assert quantize.is_quantized(kernel)
    got = kernel["int8"] * kernel["scale"]
    np.testing.assert_allclose(got, expected.reshape(got.shape), atol=1e-6)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_rows_on_eight_devices_stay_there():
  case = Case(UNEVEN, SAMPLED.options, 8, 2)
  mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:8]), ("data",))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  place = lambda tree: jax.device_put(tree, rows)
  walk(case, [(deed, seed) for seed in (1, 2) for deed in DEEDS], parts=8, place=place)
  walked = Walk(case, parts=8, place=place)
  programs, session = programs_of(case), walked.session
  ids, slots = np.zeros((16, GIVEN), np.int32), np.zeros((8, 1), np.int32)
  moved = [name for name, program, args in (
      ("append", programs.append, (programs.decoder, session, place(ids), place(ids[:, 0]))),
      ("fork", programs.fork, (session, place(np.zeros((8, 2), np.int32)))),
      ("refill", programs.refill, (programs.decoder, session, place(slots), place(
          make_prompts(range(8))), KEY)))
           if re.search("all-gather|all-to-all|collective-permute", program.lower(
               *args).compile().as_text())]
  assert not moved


def test_a_session_whose_cache_grows():
  """Appended to at once and once the first segment is full, and forked in between."""
  case = Case(TINY, SamplingOptions(max_new_tokens=40), 1, 2, capacity=40)
  walked = Walk(case)
  for deed, seed in (("append", 3), ("fork", 1), ("append", 0)):
    getattr(walked, deed)(np.random.default_rng(seed))
  walked.finish()
  walked.check()
  walked = Walk(case)
  walked.finish()
  for deed, seed in (("without_end", 5), ("append", 3)):
    getattr(walked, deed)(np.random.default_rng(seed))
  walked.finish()
  walked.check()


def test_what_ids_beyond_the_capacity_do():
  """They are dropped, and the row is full."""
  programs = programs_of(GREEDY)
  session = programs.begin(programs.decoder, make_prompts(range(3)), KEY)
  ids = np.tile(np.array([[1, 2, 4]], np.int32), (3, 1))
  for _ in range(5):
    session = programs.append(programs.decoder, session, ids, np.array([3, 2, 0], np.int32))
  assert session.lengths.tolist() == [12, 10, 0]
  np.testing.assert_array_equal(session.tokens[:2], [[1, 2, 4] * 4, [1, 2] * 5 + [0] * 2])
  assert programs.run(programs.decoder, session, jnp.full(3, 12)).lengths[0] == 12


def test_prompts_of_another_width_are_refused():
  programs = programs_of(GREEDY)
  session = programs.begin(programs.decoder, make_prompts(range(3)), KEY)
  prompts = jax.tree.map(lambda x: x[:1, 1:] if x.ndim > 1 else x[:1], make_prompts([0]))
  with pytest.raises(ValueError, match="prompts: got 4 columns, allowed: 5, those of the session"):
    session_lib.refill(programs.decoder, session, np.zeros((1, 1), np.int32), prompts, KEY)
