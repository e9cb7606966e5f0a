"""Resumed completions: fake ones by hand, and a tiny model against plain sampling."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rlreason import models, sampling
from rlreason.data import fitting
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.rollout import forcing
from rlreason.rollout.forcing import Forcing
from rlreason.sampling import SamplingOptions
from rlreason.tokenizers import WordTokenizer
from tests.algorithms import tiny

WORDS = ("a", "b", "c", "d", "e", "f", "g", "h", "i")  # ids 2 to 10
# Several end tokens, so that some completions end early and others do not.
TOKENIZER = dataclasses.replace(WordTokenizer.from_words(WORDS), eos_ids=tiny.STOP)
PROMPTS = ("a", "b c", "d", "e f g", "h", "i a", "c c", "g")
BUDGET = 5


# Of a model whose next token is this function of the last, each with the same log-prob.
NEXT = {2: 3, 3: 1, 8: 1, 4: 4, 5: 7, 6: 7, 7: 9, 9: 10, 10: 1}
CHAIN = dataclasses.replace(
    tiny.MODEL, tie_embeddings=False, width=16, norm_eps=1e-12, max_positions=64)
LOG_PROB = np.float32(4 - np.log(np.exp(4) + tiny.MODEL.vocab_size - 1))


@functools.cache
def chain_params():
  """Embeddings are units, layers add nothing: a logit is 4 for the next token, 0 for all others."""
  params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), models.abstract_params(CHAIN))
  params = jax.tree.map_with_path(
      lambda path, x: x + (path[-1].key == "scale"), params)
  params["embed"] = {"embedding": np.eye(CHAIN.vocab_size, CHAIN.width, dtype=np.float32)}
  kernel = np.zeros((CHAIN.width, CHAIN.vocab_size), np.float32)
  for last, following in NEXT.items():
    kernel[last, following] = 1
  return params | {"lm_head": {"kernel": kernel}}


def force(prompts, texts, budget):
  """Greedy completions of the model of `NEXT` that end with token 1."""
  return jax.device_get(jax.jit(functools.partial(
      forcing.sample_forced, texts, CHAIN, stop_ids=(1,),
      options=SamplingOptions(max_new_tokens=budget, temperature=0.0)))(
          chain_params(), fitting.make_prompts(prompts, (3,)), jax.random.key(0)))


def test_hand_worked():
  """Waits instead of an end token, and an answer after completions without one."""
  texts = forcing.Texts(wait=(6, 5), num_waits=1, answer=(8, 6), answer_tokens=3)
  # 3 1 | 1 | 4 4 4 4 4 | 10 1: of the first and the last the end token is taken away, and the
  # second had no token before it.
  rollout = force([[9, 2], [8], [4, 4, 4], [9, 9]], texts, budget=5)
  np.testing.assert_array_equal(rollout.completion_tokens, [
      [3, 6, 5, 7, 9, 8, 6, 7, 9, 10],
      [6, 5, 7, 9, 10, 8, 6, 7, 9, 10],
      [4, 4, 4, 4, 4, 8, 6, 7, 9, 10],
      [10, 6, 5, 7, 9, 8, 6, 7, 9, 10]])
  is_action = np.array([
      [1, 0, 0, 1, 1, 0, 0, 1, 1, 1],
      [0, 0, 1, 1, 1, 0, 0, 1, 1, 1],
      [1, 1, 1, 1, 1, 0, 0, 1, 1, 1],
      [1, 0, 0, 1, 1, 0, 0, 1, 1, 1]], bool)  # not what was put there
  np.testing.assert_array_equal(rollout.action_mask, is_action)
  np.testing.assert_allclose(rollout.log_probs, np.where(is_action, LOG_PROB, 0), atol=1e-6)
  assert np.all(rollout.token_mask) and np.all(rollout.truncated)


def test_an_answer_that_ends():
  texts = forcing.Texts(wait=(), num_waits=0, answer=(2,), answer_tokens=3)
  rollout = force([[2], [4]], texts, budget=3)
  np.testing.assert_array_equal(
      rollout.completion_tokens, [[3, 1, 0, 0, 0, 0, 0], [4, 4, 4, 2, 3, 1, 0]])
  np.testing.assert_array_equal(
      rollout.action_mask, np.array([[1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0]], bool))
  np.testing.assert_array_equal(rollout.token_mask, rollout.completion_tokens > 0)
  assert rollout.truncated.tolist() == [False, False]
  np.testing.assert_array_equal(rollout.prompt_tokens, [[0, 0, 2], [0, 0, 4]])


def test_an_end_beyond_the_limit_is_cut_off():
  """3 6 9 10 1 has no space for its end, 6 9 10 1 has."""
  texts = forcing.Texts(wait=(6, 9), num_waits=1, answer=(), answer_tokens=1)
  rollout = force([[2], [8]], texts, budget=4)
  np.testing.assert_array_equal(rollout.completion_tokens, [[3, 6, 9, 10], [6, 9, 10, 1]])
  np.testing.assert_array_equal(rollout.truncated, [True, False])


def test_nothing_is_sampled_where_nothing_is_resumed():
  """The wait does not fit, and no row is truncated."""
  texts = forcing.Texts(wait=(6, 9), num_waits=3, answer=(4,), answer_tokens=2)
  rollout = force([[2], [8]], texts, budget=3)
  np.testing.assert_array_equal(rollout.completion_tokens[0], [3, 1, 0, 0, 0, 0])
  # The second: 6 9 instead of its end token, 10 sampled; then the answer.
  np.testing.assert_array_equal(rollout.completion_tokens[1], [6, 9, 10, 4, 4, 4])
  np.testing.assert_array_equal(rollout.truncated, [False, True])


def test_prompts_are_computed_once(monkeypatch):
  calls, prefill = [], models.prefill
  monkeypatch.setattr(models, "prefill", lambda *args: (calls.append(1), prefill(*args))[1])
  force([[2], [8]], forcing.Texts((6,), 2, (5,), 4), budget=4)
  assert len(calls) == 1


def generate(
    settings, *, temperature=0.0, group_size=1, model=tiny.MODEL, prompts=PROMPTS):
  generator = forcing.make_generator(
      model, TOKENIZER, make_layout(ParallelConfig(data=2)), Forcing(**settings),
      options=SamplingOptions(max_new_tokens=BUDGET, temperature=temperature),
      group_size=group_size, prompt_buckets=(3, 4))
  rows = [{"prompt": prompt} for prompt in prompts]
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


def test_what_follows_a_text_does_not_depend_on_other_rows():
  settings = dict(wait="c", num_waits=1, forced_answer="d", answer_tokens=3)
  whole = generate(settings, temperature=1.0, group_size=2)
  part = generate(settings, temperature=1.0, group_size=2, prompts=PROMPTS[:2])
  assert completions_of(whole)[:4] == completions_of(part)


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
