"""Completions that go on: with made-up ones by hand, with a tiny model against plain sampling."""

import dataclasses

import jax
import numpy as np
import pytest

from rlreason import sampling
from rlreason.data import fitting
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.rollout import forcing
from rlreason.rollout.forcing import Forcing
from rlreason.sampling import SamplingOptions
from rlreason.tokenizers import WordTokenizer
from rlreason.types import Rollout
from tests.algorithms import tiny

WORDS = ("a", "b", "c", "d", "e", "f", "g", "h", "i")  # ids 2 to 10
# Several end tokens, so that some completions end early and others do not.
TOKENIZER = dataclasses.replace(WordTokenizer.from_words(WORDS), eos_ids=tiny.STOP)
PROMPTS = ("a", "b c", "d", "e f g", "h", "i a", "c c", "g")
BUDGET = 5


def make_rollout(completions, truncated, columns):
  """Of prompts 9, 9 9, 9 9 9...; log-prob -t of the token t."""
  tokens = np.zeros((len(completions), columns), np.int32)
  for row, ids in enumerate(completions):
    tokens[row, :len(ids)] = ids
  prompts = np.tril(np.full((len(completions),) * 2, 9, np.int32))[:, ::-1]
  return Rollout(
      prompt_tokens=prompts, prompt_mask=prompts > 0, completion_tokens=tokens,
      token_mask=tokens > 0, action_mask=tokens > 0, log_probs=-tokens.astype(np.float32),
      values=None,
      truncated=np.array(truncated))


def test_hand_worked():
  """Two rows a call: of three rows that go on, the third is filled up with itself."""
  rollout = make_rollout(
      [[2, 3, 1], [5, 6, 7], [8, 1], [4, 4, 4]], [False, True, False, True], columns=3)
  answers = [make_rollout([[2, 1], [3, 3]], [False, True], 2),
             make_rollout([[8, 8], [1]], [True, False], 2)]
  seen = []

  def generate(params, rows, key):
    seen.append((params, [row["prompt_ids"] for row in rows], key))
    return answers[len(seen) - 1]

  result = forcing.go_on(
      forcing.Continuation(generate, [6, 5], limit=6), "params", rollout,
      np.array([True, True, False, True]), 2, jax.random.key(0))
  # The end token of row 0 is taken away; row 1 ended in none.
  assert [rows for _, rows, _ in seen] == [
      [[9, 2, 3, 6, 5], [9, 9, 5, 6, 7, 6, 5]], [[9, 9, 9, 9, 4, 4, 4, 6, 5]] * 2]
  np.testing.assert_array_equal(result.completion_tokens, [
      [2, 3, 6, 5, 2, 1], [5, 6, 7, 6, 5, 3], [8, 1, 0, 0, 0, 0], [4, 4, 4, 6, 5, 8]])
  np.testing.assert_array_equal(result.log_probs, [
      [-2, -3, 0, 0, -2, -1], [-5, -6, -7, 0, 0, -3], [-8, -1, 0, 0, 0, 0], [-4, -4, -4, 0, 0, -8]])
  np.testing.assert_array_equal(result.token_mask.sum(axis=1), [6, 6, 2, 6])
  np.testing.assert_array_equal(result.action_mask, np.array(  # not of what was put there
      [[1, 1, 0, 0, 1, 1], [1, 1, 1, 0, 0, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 1]], bool))
  np.testing.assert_array_equal(result.truncated, [False, True, False, True])
  np.testing.assert_array_equal(result.prompt_tokens, rollout.prompt_tokens)
  assert seen[0][0] == "params"
  assert len({tuple(np.asarray(jax.random.key_data(key))) for *_, key in seen}) == 2
  assert rollout.completion_tokens.shape == (4, 3) and rollout.completion_tokens[0, 2] == 1


def test_an_end_beyond_the_limit_is_cut_off():
  rollout = make_rollout([[2, 3, 1], [2, 1]], [False, False], columns=5)
  new = make_rollout([[4, 4, 1], [4, 4, 1]], [False, False], columns=3)
  result = forcing.go_on(
      forcing.Continuation(lambda *_: new, [6], limit=5), {}, rollout, np.array([True, True]), 2,
      jax.random.key(0))
  np.testing.assert_array_equal(result.completion_tokens, [[2, 3, 6, 4, 4], [2, 6, 4, 4, 1]])
  np.testing.assert_array_equal(result.truncated, [True, False])


def test_nothing_is_sampled_where_nothing_goes_on():
  rollout = make_rollout([[2, 1], [3, 3]], [False, True], columns=2)
  result = forcing.go_on(  # the generator cannot be called
      forcing.Continuation(None, [6], limit=4), {}, rollout, np.zeros(2, bool), 2,
      jax.random.key(0))
  np.testing.assert_array_equal(result.completion_tokens, [[2, 1, 0, 0], [3, 3, 0, 0]])
  np.testing.assert_array_equal(result.token_mask.sum(axis=1), [2, 2])
  np.testing.assert_array_equal(result.truncated, [False, True])


def generate(settings, *, temperature=0.0, group_size=1, model=tiny.MODEL):
  generator = forcing.make_generator(
      model, TOKENIZER, make_layout(ParallelConfig(data=2)), Forcing(**settings),
      options=SamplingOptions(max_new_tokens=BUDGET, temperature=temperature),
      group_size=group_size, prompt_buckets=(3, 4))
  rows = [{"prompt": prompt} for prompt in PROMPTS]
  return generator({"policy": tiny.random_params()}, rows, jax.random.key(3))


@pytest.fixture(scope="module", name="plain")
def plain_fixture():
  """Greedy completions without forcing: lists of ids."""
  completions = greedy([TOKENIZER.encode(prompt) for prompt in PROMPTS])
  ended = [ids[-1] in tiny.STOP for ids in completions]
  assert any(ended) and not all(ended) and min(map(len, completions)) < BUDGET
  return completions


@jax.jit
def sample_greedily(params, prompts):
  return sampling.sample(
      tiny.MODEL, params, prompts, jax.random.key(0), stop_ids=tiny.STOP,
      options=SamplingOptions(max_new_tokens=BUDGET, temperature=0.0))


def greedy(prompts):
  """Up to `BUDGET` tokens that the sampler alone puts after token ids."""
  return completions_of(sample_greedily(
      tiny.random_params(), fitting.make_prompts(prompts, (32,))))


def completions_of(rollout):
  return [ids[mask].tolist() for ids, mask in zip(
      np.asarray(rollout.completion_tokens), np.asarray(rollout.token_mask))]


def greedy_after(completions, ids):
  """Completions with ids after them, and what greedily follows the whole."""
  begun = [done + ids for done in completions]
  return begun, greedy([TOKENIZER.encode(prompt) + done for prompt, done in zip(PROMPTS, begun)])


def answered(completions, ids, answer_tokens):
  """All that did not end have the ids and an answer after them."""
  return [done if done[-1] in tiny.STOP else start + tail[:answer_tokens]
          for done, start, tail in zip(completions, *greedy_after(completions, ids))]


def test_off_is_plain_sampling(plain):
  rollout = generate({})
  assert completions_of(rollout) == plain
  assert rollout.completion_tokens.shape == (len(PROMPTS), BUDGET)


def test_a_forced_answer_is_that_to_the_whole_text(plain):
  model = dataclasses.replace(tiny.MODEL, max_positions=4 + BUDGET + 6)  # just enough
  rollout = generate(dict(forced_answer="b d", answer_tokens=4), model=model)
  expected = answered(plain, TOKENIZER.encode("b d"), 4)
  assert completions_of(rollout) == expected
  assert rollout.completion_tokens.shape == (len(PROMPTS), BUDGET + 2 + 4)
  assert rollout.truncated.tolist() == [done[-1] not in tiny.STOP for done in expected]


def test_what_ends_early_goes_on_within_the_budget(plain):
  model = dataclasses.replace(tiny.MODEL, max_positions=4 + BUDGET + 4)  # just enough
  rollout = generate(dict(wait="c", num_waits=2, forced_answer="d", answer_tokens=3), model=model)
  expected, times = plain, []
  for _ in range(2):
    goes_on = [done[-1] in tiny.STOP and len(done) < BUDGET for done in expected]
    begun, more = greedy_after([done[:-1] for done in expected], TOKENIZER.encode("c"))
    expected = [(start + tail)[:BUDGET] if is_open else done for start, tail, is_open, done in zip(
        begun, more, goes_on, expected)]
    times.append(sum(goes_on))
  assert min(times) > 0
  assert completions_of(rollout) == answered(expected, TOKENIZER.encode("d"), 3)


def test_samples_of_a_group_go_on_one_by_one():
  plain = generate({}, temperature=1.0, group_size=3)
  forced = generate(dict(forced_answer="d", answer_tokens=3), temperature=1.0, group_size=3)
  assert 1 < plain.truncated.sum() < 24
  for before, after, cut in zip(completions_of(plain), completions_of(forced), plain.truncated):
    assert after[:len(before)] == before
    assert after[len(before):len(before) + 1] == (TOKENIZER.encode("d") if cut else [])
    assert len(before) + 2 <= len(after) <= BUDGET + 4 if cut else len(after) == len(before)


@pytest.mark.parametrize("settings, positions, message", [
    (dict(forced_answer=" "), 99, "forced_answer: got ' ' of 0 tokens, allowed: a text of 1 or m"),
    (dict(wait=" ", num_waits=1), 99, "wait: got ' ' of 0 tokens"),
    (dict(wait="a a a a a", num_waits=1), 99, "of 5 tokens, allowed: fewer than 5 .max_new_tokens"),
    (dict(forced_answer="a b", answer_tokens=4), 4 + BUDGET + 5, "prompts of 4, completions of 5 "
     "and answers of 6 tokens, allowed: 14 together, the positions of the model"),
])
def test_texts_that_do_not_fit(settings, positions, message):
  """Before anything is computed: there are no parameters yet."""
  with pytest.raises(ValueError, match=message):
    forcing.make_generator(
        dataclasses.replace(tiny.MODEL, max_positions=positions), TOKENIZER,
        make_layout(ParallelConfig(data=2)), Forcing(**settings),
        options=SamplingOptions(max_new_tokens=BUDGET), group_size=1, prompt_buckets=(3, 4))
