"""Evaluation of made-up completions, where every figure can be worked out by hand."""

import dataclasses

import jax
import numpy as np
import pytest

from rlreason.data.fitting import encode_prompt
from rlreason.data.tasks.base import Task
from rlreason.evaluation import evaluator
from rlreason.evaluation.behaviours import Behaviours
from rlreason.evaluation.config import EvaluationConfig
from rlreason.evaluation.evaluator import make_evaluator
from rlreason.evaluation.reading import AnswerReader
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.rewards import RewardSpec, WorkerPool, verifier
from rlreason.rollout import forcing
from rlreason.rollout import generate as generate_lib
from rlreason.tokenizers import WordTokenizer
from rlreason.types import Rollout
from tests.algorithms import tiny
from tests.tracking_test import recorded

WORDS = ("p0", "p1", "p2", "p3", "p4", "\\boxed{", "}", "1", "2", "back", "check")
TOKENIZER = WordTokenizer.from_words(WORDS)
RIGHT, WRONG, NONE = "\\boxed{ 1 } <eos>", "\\boxed{ 2 } <eos>", "back back check"
GREEDY = {"p0": f"back {RIGHT}", "p1": RIGHT, "p2": WRONG, "p3": NONE,
          "p4": f"check back {RIGHT}"}
SAMPLED = {
    "p0": [RIGHT, RIGHT, WRONG], "p1": [WRONG, WRONG, RIGHT], "p2": [WRONG, WRONG, WRONG],
    "p3": [RIGHT, NONE, NONE], "p4": [RIGHT, WRONG, NONE]}
ROWS = [{"prompt": f"p{i}", "answer": "1"} for i in range(5)]
CONFIG = EvaluationConfig(num_problems=5, batch_size=2, max_new_tokens=8, num_samples=3)


@pytest.fixture(autouse=True, name="calls")
def canned_generator_fixture(monkeypatch):
  """Completions come from the tables above; returns what the generator was asked for."""
  calls = []

  def make_generator(
      model, tokenizer, layout, *, options, group_size, prompt_buckets, sampler=None):
    del model, layout, prompt_buckets

    def generate(params, rows, key):
      prompts = [row["prompt"] for row in rows]
      calls.append((options, group_size, prompts, key))
      texts = [text for prompt in prompts
               for text in ([GREEDY[prompt]] if group_size == 1 else params[prompt])]
      if sampler is not None and isinstance(sampler.args[0], forcing.Texts):
        forced = tokenizer.decode(sampler.args[0].answer)
        texts = [text if "<eos>" in text else f"{text} {forced} 1 }} <eos>" for text in texts]
      return make_rollout(tokenizer, texts)

    return generate

  monkeypatch.setattr(generate_lib, "make_generator", make_generator)
  return calls


def make_rollout(tokenizer, texts):
  tokens = np.zeros((len(texts), 8), np.int32)
  for row, text in enumerate(texts):
    ids = tokenizer.encode(text)
    tokens[row, :len(ids)] = ids
  mask = tokens > 0
  return Rollout(
      prompt_tokens=tokens[:, :1], prompt_mask=mask[:, :1], completion_tokens=tokens,
      token_mask=mask, action_mask=mask, log_probs=np.zeros(mask.shape), values=None,
      truncated=np.array(["<eos>" not in text for text in texts]))


def run(config=CONFIG, rows=ROWS, pool=None, **settings):
  evaluate_task = make_evaluator(
      config, Task(name="toy", rows=rows, verifier="math"), tiny.MODEL, TOKENIZER,
      make_layout(ParallelConfig(data=2)), prompt_buckets=(4,), **settings)
  return evaluate_task(SAMPLED, jax.random.key(0), pool)


def evaluate(*args, **settings):
  """The estimates and the samples."""
  return run(*args, **settings)[:2]


def values(estimates):
  return {name: estimate["value"] for name, estimate in estimates.items()}


def test_hand_worked(calls):
  reader = AnswerReader(count_behaviours=lambda text: Behaviours(
      text.split().count("back"), text.split().count("check")))
  evaluation, samples = evaluate(reader=reader)
  assert list(evaluation) == ["toy"]
  assert values(evaluation["toy"]) == pytest.approx({
      "greedy": 3 / 5, "greedy_unboxed": 3 / 5, "unscored_fraction": 0.0,
      "reasoning_length": (1 + 0 + 0 + 3 + 2) / 5,
      "length": (5 + 4 + 4 + 3 + 6) / 5,
      "backtracks": (1 + 2 + 1) / 5, "checks": 2 / 5, "truncated_fraction": 1 / 5,
      "outcome_efficiency": (4 / 5 + 3 / 4 + 0 + 0 + 5 / 6) / 5,  # all but `<eos>`
      "tokens_per_right": (5 + 4 + 4 + 3 + 6) / 3,
      "boxed_fraction": 4 / 5, "avg@3": (2 / 3 + 1 / 3 + 0 + 1 / 3 + 1 / 3) / 5,
      "pass@1": 5 / 15, "pass@2": (1 + 2 / 3 + 0 + 2 / 3 + 2 / 3) / 5, "pass@3": 4 / 5,
      # Of the first two p0 and p3 are right and p4 is a tie.
      "maj@1": 5 / 15, "maj@2": (1 + 0 + 0 + 1 + 0.5) / 5,
      # p0 right by 2 of 3, p1 and p2 wrong, p3 the only vote is right, p4 a tie.
      "maj@3": (1 + 0 + 0 + 1 + 0.5) / 5})
  greedy = evaluation["toy"]["greedy"]
  assert set(greedy) == {"value", "low", "high", "n"} and greedy["n"] == 5
  assert greedy["low"] == pytest.approx(0.2307, abs=1e-3)  # Wilson
  assert greedy["high"] == pytest.approx(0.8824, abs=1e-3)
  assert [sample["prompt"] for sample in samples] == [row["prompt"] for row in ROWS]
  assert samples[3] == {
      "prompt": "p3", "completion": NONE, "answer": "1", "rewards": {"verifier": 0.0}, "length": 3,
      "truncated": True}
  # One queue, whose last batch is filled up to the size of the others: one shape, one program.
  assert [prompts for _, size, prompts, _ in calls if size == 1] == [
      ["p0", "p1", "p2", "p3", "p4", "p4"]]
  options = {size: options for options, size, _, _ in calls}
  assert options[1].temperature == 0.0 and options[3].temperature == 1.0
  (keys,) = [key for _, size, _, key in calls if size == 3]
  assert len({tuple(key) for key in np.asarray(jax.random.key_data(keys))}) == 3  # one a batch


def test_a_queue_has_at_most_so_many_batches(calls, monkeypatch):
  """Of three batches two at once: the second call is filled up to as many."""
  monkeypatch.setattr(evaluator, "_QUEUED", 2)
  solutions = values(evaluate()[0]["toy"])
  assert [prompts for _, size, prompts, _ in calls if size == 1] == [
      ["p0", "p1", "p2", "p3"], ["p4"] * 4]
  monkeypatch.setattr(evaluator, "_QUEUED", 1)
  assert values(evaluate()[0]["toy"]) == solutions
  batches = [key for _, size, _, key in calls[4:] if size == 3]
  keys = [key for _, size, _, key in calls[:4] if size == 3]
  data = lambda keys: np.asarray(jax.random.key_data(keys))
  np.testing.assert_array_equal(
      np.concatenate(list(map(data, keys)))[:3], np.stack(list(map(data, batches))))


def test_each_pass_tells_how_many_problems_are_done():
  with recorded() as recorder:
    evaluate()
  assert [work[:3] for work in recorder.works] == [
      ("tokenising prompts", 5, ""), ("evaluation, greedy", 5, ""),
      ("evaluation, 3 samples", 5, "")]
  # Three of the five greedy completions are right, and of the samples of each 2, 1, 0, 1 and 1.
  for (*_, done), shares in zip(recorder.works[1:], ([1, 1 / 2, 3 / 5], [3 / 6, 4 / 12, 5 / 15])):
    assert [count for count, _ in done] == [2, 2, 1]
    assert [metrics["rollout/accuracy"] for _, metrics in done] == pytest.approx(shares)


def test_what_could_not_be_scored_is_counted(monkeypatch):
  unscored = lambda self, prompts, completions, **_: [
      None if "2" in text else 1.0 for text in completions]
  monkeypatch.setattr(verifier.MathVerifier, "__call__", unscored)
  evaluation, _ = evaluate(rows=ROWS[:2])
  # Of 2 greedy and 6 sampled completions three hold a 2.
  assert evaluation["toy"]["unscored_fraction"]["value"] == 3 / 8
  assert evaluation["toy"]["unscored_fraction"]["n"] == 2  # problems


def test_what_comes_after_the_first_right_box_is_overthinking(monkeypatch):
  monkeypatch.setitem(GREEDY, "p0", "\\boxed{ 2 } \\boxed{ 1 } check <eos>")  # right after 6 of 8
  monkeypatch.setitem(GREEDY, "p1", "\\boxed{ 1 } \\boxed{ 2 } <eos>")  # after 3 of 7, then not
  evaluation, _ = evaluate(rows=ROWS[:3])
  assert evaluation["toy"]["outcome_efficiency"]["value"] == pytest.approx((6 / 8 + 3 / 7 + 0) / 3)
  assert evaluation["toy"]["greedy"]["value"] == pytest.approx(1 / 3)
  assert evaluation["toy"]["tokens_per_right"]["value"] == 8 + 7 + 4


def test_greedy_only():
  evaluation, _ = evaluate(EvaluationConfig(num_problems=2, max_new_tokens=8, num_samples=0))
  assert evaluation["toy"]["greedy"] == pytest.approx(
      dict(value=1.0, low=0.3424, high=1.0, n=2), abs=1e-3)
  assert not any("@" in name for name in evaluation["toy"])


def test_without_a_box_the_last_number_may_count(monkeypatch):
  monkeypatch.setitem(GREEDY, "p2", "2 check 1 <eos>")
  monkeypatch.setitem(GREEDY, "p3", "1 check 2 <eos>")
  evaluation, _ = evaluate()
  assert evaluation["toy"]["greedy"]["value"] == 3 / 5
  assert evaluation["toy"]["greedy_unboxed"]["value"] == 4 / 5


def test_answers_are_compared_within_the_limits_of_the_pool_given():
  with WorkerPool(num_workers=1, timeout_seconds=20) as pool:
    evaluation, _ = evaluate(
        EvaluationConfig(num_problems=2, max_new_tokens=8, num_samples=0),
        [row | {"answer": "\\sqrt{1}"} for row in ROWS], pool)
    assert evaluation["toy"]["greedy"]["value"] == 1.0 and pool.counts.requests > 0


def test_a_gold_answer_may_be_in_a_box(monkeypatch):
  monkeypatch.setitem(GREEDY, "p3", "1 check 1 <eos>")
  evaluation, _ = evaluate(rows=[row | {"answer": "\\boxed{1}"} for row in ROWS])
  assert evaluation["toy"]["greedy"]["value"] == 3 / 5
  assert evaluation["toy"]["greedy_unboxed"] == evaluation["toy"]["greedy_unboxed"] | {
      "value": 4 / 5, "n": 5}


def test_sub_tasks_have_entries_of_their_own():
  rows = [row | {"task_name": "easy" if i < 2 else "hard"} for i, row in enumerate(ROWS)]
  evaluation, _ = evaluate(rows=rows)
  assert {name: (e["greedy"]["value"], e["greedy"]["n"]) for name, e in evaluation.items()} == {
      "toy": (0.6, 5), "easy": (1.0, 2), "hard": (pytest.approx(1 / 3), 3)}
  one, _ = evaluate(rows=[row | {"task_name": "easy"} for row in ROWS])
  assert list(one) == ["toy"]  # a single one would only repeat the whole


def test_blocked_words_become_ids(calls):
  blocked = ((("back",), ("\\boxed{", "}")),)
  evaluate(EvaluationConfig(
      num_problems=2, max_new_tokens=8, num_samples=3, blocked_words=blocked))
  ids = TOKENIZER.encode("back \\boxed{ }")
  for options, _, _, _ in calls:
    assert options.blocked_bigrams == (((ids[0],), (ids[1], ids[2])),)
  with pytest.raises(ValueError, match="blocked_words: got '1 2' of 2 tokens, allowed: words of o"):
    evaluate(EvaluationConfig(blocked_words=((("1 2",), ("back",)),)))


def test_what_was_cut_off_answers_when_forced(calls):
  evaluation, samples = evaluate(dataclasses.replace(
      CONFIG, forced_answer="\\boxed{", answer_tokens=3))
  assert samples[3]["completion"] == "back back check \\boxed{ 1 }"
  assert samples[3]["length"] == 3 + 1 + 3 and not samples[3]["truncated"]
  found = values(evaluation["toy"])
  assert found["greedy"] == 4 / 5 and found["truncated_fraction"] == 0.0
  assert found["length"] == (5 + 4 + 4 + 7 + 6) / 5
  # Two of three samples of p3 were truncated, and one of p4.
  assert found["avg@3"] == pytest.approx((2 / 3 + 1 / 3 + 0 + 3 / 3 + 2 / 3) / 5)
  # Three batches, greedy and sampled: what is resumed is in the batch it began in.
  assert [(options.temperature, options.max_new_tokens) for options, *_ in calls] == [
      (temperature, 8) for temperature in (0.0,) * 3 + (1.0,) * 3]


def test_a_suffix_is_put_after_each_prompt(calls, monkeypatch):
  config = EvaluationConfig(num_problems=2, max_new_tokens=8, num_samples=0, prompt_suffix=" 2")
  rows = [{"prompt": "1", "answer": "1", "prompt_ids": [7]}, {"prompt": "back", "answer": "1"}]
  monkeypatch.setitem(GREEDY, "1 2", RIGHT)
  monkeypatch.setitem(GREEDY, "back 2", WRONG)
  evaluation, samples = evaluate(config, rows)
  assert calls[0][2] == ["1 2", "back 2"] == [sample["prompt"] for sample in samples]
  assert evaluation["toy"]["greedy"]["value"] == 0.5
  row = evaluator._with_suffix(rows, " 2")[0]  # what a stage tokenised is of the old prompt
  assert encode_prompt(TOKENIZER, row) == TOKENIZER.encode("1 2")
  with pytest.raises(ValueError, match="got the words .'GOOD'."):
    evaluate(EvaluationConfig(prompt_suffix=" GOOD"), rows)


def test_no_problem_that_fits():
  with pytest.raises(ValueError, match="prompts: got 1 that are all empty or longer than 4 tokens"):
    evaluate(rows=[{"prompt": "p0 " * 5, "answer": "1"}])


@pytest.mark.parametrize("fields, message", [
    (dict(num_problems=0), "num_problems: got 0, allowed: 1 or more"),
    (dict(batch_size=0), "batch_size: got 0, allowed: 1 or more"),
    (dict(max_new_tokens=0), "max_new_tokens: got 0, allowed: 1 or more"),
    (dict(num_samples=-1), "num_samples: got -1, allowed: 0 or more"),
    (dict(split="train"), "split: got 'train', allowed: validation, test"),
    (dict(temperature=-1.0), "temperature: got -1.0, allowed: 0"),
    (dict(answer_tokens=0), "answer_tokens: got 0, allowed: 1 or more"),
    (dict(num_waits=-1), "num_waits: got -1, allowed: 0 or more"),
    (dict(num_waits=2), "wait: got '' with num_waits=2, allowed: a text"),
    (dict(top_p=0.0), "top_p: got 0.0, allowed: above 0, at most 1"),
])
def test_settings_out_of_range_are_named(fields, message):
  with pytest.raises(ValueError, match=message):
    EvaluationConfig(**fields)


# Grading as the training does.


HAS_TWO = """
def has_two(prompts, completions, *, answer, least=1, **columns):
  return [float(text.split().count("2") >= least) for text in completions]
"""


def test_options_of_the_trainings_verifier_hold(monkeypatch):
  """A box before the last, an answer between tags; what the evaluation says itself goes first."""
  monkeypatch.setitem(GREEDY, "p0", "\\boxed{ 1 } \\boxed{ 2 } <eos>")
  first = RewardSpec(name="verifier", options={"which_box": "first", "no_box_score": -0.5})
  greedy = lambda config, **settings: values(
      evaluate(config, ROWS[:2], **settings)[0]["toy"])["greedy"]
  assert greedy(CONFIG) == 0.5 and greedy(CONFIG, grading=first) == 1.0
  last = dataclasses.replace(CONFIG, which_box="last")
  assert greedy(last, grading=first) == 0.5
  assert greedy(dataclasses.replace(CONFIG, verifier_options={"which_box": "first"})) == 1.0
  with pytest.raises(ValueError, match="MathVerifier: got .'x'., allowed: .*'answer_tags'"):
    evaluate(dataclasses.replace(CONFIG, verifier_options={"x": 1}))


def test_answers_between_tags_are_found(monkeypatch):
  decode = WordTokenizer.decode
  tags = lambda text: text.replace("\\boxed{", "<answer>").replace(" }", "</answer>")
  monkeypatch.setattr(
      WordTokenizer, "decode", lambda self, *args, **options: tags(decode(self, *args, **options)))
  assert values(evaluate()[0]["toy"])["greedy"] == 0.0
  found = values(evaluate(
      grading=RewardSpec(name="verifier", options={"answer_tags": True}))[0]["toy"])
  assert found["greedy"] == found["greedy_unboxed"] == 3 / 5 and found["boxed_fraction"] == 4 / 5
  assert found["maj@3"] == pytest.approx((1 + 0 + 0 + 1 + 0.5) / 5)
  assert found["outcome_efficiency"] == pytest.approx(
      (4 / 5 + 3 / 4 + 0 + 0 + 5 / 6) / 5)  # to the end of the text, but for `<eos>`


@pytest.mark.parametrize("is_part", [True, False], ids=["part", "task"])
def test_a_reward_function_grades_in_the_workers(is_part, tmp_path, monkeypatch):
  """As the part "verifier" of the training, or as the verifier of the task, with its options."""
  (tmp_path / "grades_by_two.py").write_text(HAS_TWO)
  monkeypatch.syspath_prepend(str(tmp_path))
  target = "grades_by_two:has_two"
  grading = RewardSpec(name="verifier", function=target if is_part else None, weight=0.0)
  task = Task(name="toy", rows=ROWS, verifier="math" if is_part else target)
  run = lambda spec, pool: values(make_evaluator(
      CONFIG, task, tiny.MODEL, TOKENIZER, make_layout(ParallelConfig(data=1)),
      prompt_buckets=(4,), grading=spec)(SAMPLED, jax.random.key(0), pool)[0]["toy"])
  with WorkerPool(num_workers=1) as pool:
    found = run(grading, pool)
    assert found["greedy"] == 1 / 5 and "greedy_unboxed" not in found
    assert found["avg@3"] == pytest.approx((1 / 3 + 2 / 3 + 1 + 0 + 1 / 3) / 5)
    assert run(dataclasses.replace(grading, options={"least": 2}), pool)["greedy"] == 0.0


@pytest.mark.parametrize("verifier_name, message", [
    ("no_such_module:f", "reward function: 'no_such_module:f' cannot be imported"),
    (f"{__name__}:f", "has no function 'f'"), ("a:b:c", "allowed: 'package.module:function'"),
    ("chess", "verifier: got 'chess', allowed: .*'math'.* or a function")])
def test_a_verifier_that_is_not_there_is_found_when_it_is_loaded(verifier_name, message):
  task = Task(name="toy", rows=ROWS, verifier=verifier_name)
  with pytest.raises(ValueError, match=message):
    make_evaluator(CONFIG, task, tiny.MODEL, TOKENIZER, make_layout(ParallelConfig(data=1)),
                   prompt_buckets=(4,))
