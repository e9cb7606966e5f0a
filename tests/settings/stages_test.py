"""What each stage hands on, by literal values: what a mutation of one line would change.

Beside `settings_test.py`, whose table says that each setting makes a difference; here stands which.
"""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest

from rlreason.algorithms import presets
from rlreason.rewards import RewardSpec
from rlreason.sampling import SamplingOptions
from rlreason.tokenizers import WordTokenizer
from rlreason.training import stages as stages_lib
from rlreason.training.settings.distill import DistillStage
from rlreason.training.settings.preference import PreferenceStage
from rlreason.training.settings.reward_model import RewardModelStage
from rlreason.training.settings.rl import RLStage
from rlreason.training.settings.sample import SampleStage
from rlreason.training.settings.sft import SFTStage
from tests.algorithms import tiny
from tests.settings import bases, fakes

EXPLORATION = RewardSpec(name="exploration", options={"c": 0.1, "unit": "tokens"})
OTHERS = WordTokenizer.from_words(("b", "a", "p0", "p1", "p2", "p3", "wait"))


def make(cls, **changes):
  return cls(**bases.BASES[cls] | changes)


def data(keys):
  return [np.asarray(key).tolist() for key in keys]


def folded(key, number):
  return jax.random.key_data(jax.random.fold_in(key, number)).tolist()


@pytest.mark.parametrize("cls", [SFTStage, PreferenceStage, RewardModelStage, DistillStage])
def test_a_rate_falls_to_0_at_the_end_of_the_stage_and_is_told_as_it_is_used(cls):
  trace = fakes.stage_trace(make(cls))
  np.testing.assert_allclose(trace["rates"][0], [0.1, 0.05, 0, 0], atol=1e-6)
  assert [metrics["optim/lr"] for metrics in trace["host"]] == pytest.approx([0.1, 0.05])


def test_the_seed_orders_the_rows_of_every_stage():
  for cls in (RLStage, SampleStage, DistillStage):
    assert fakes.stage_trace(make(cls))["prompts"] == [["p1", "p0"], ["p2", "p3"]], cls
  firsts = lambda cls: [batch.prompt_tokens[:, -2].tolist()
                        for batch in fakes.stage_trace(make(cls))[
                            "batches" if cls is RewardModelStage else "scored"]]
  for cls in (PreferenceStage, RewardModelStage):
    assert firsts(cls) == [[4, 5], [3, 2]], cls
  packed = fakes.stage_trace(make(SFTStage), steps=3)["batches"]
  assert [batch.tokens[0, 0] for batch in packed] == [3, 5, 2]


def test_stages_say_how_many_tokens_they_worked_on_and_whether_they_train():
  """Prompts of a word; completions of 6, 3, 6 and 8. A packed row has 12; pairs 1 + 2 and 6."""
  found = {cls.__name__: fakes.stage_trace(make(cls), steps=1) for cls in (
      RLStage, SampleStage, DistillStage, SFTStage, PreferenceStage, RewardModelStage)}
  assert {name: (trace["tokens"], trace["trains"]) for name, trace in found.items()} == {
      "RLStage": ([4 + 23 + 1], True), "SampleStage": ([28], False),
      "DistillStage": ([12], True), "SFTStage": ([12], True),
      "PreferenceStage": ([28], True), "RewardModelStage": ([28], False)}


def test_sampling_and_updates_draw_from_keys_of_their_own():
  for cls, parts in ((RLStage, 2), (DistillStage, 3)):
    trace = fakes.stage_trace(make(cls))
    keys = [jax.random.key_data(jax.random.split(jax.random.key(number), parts)).tolist()
            for number in (0, 1)]
    assert data(trace["keys"]) == [of_step[0] for of_step in keys], cls
    assert data(trace["update_keys"]) == [of_step[-1] for of_step in keys], cls


def test_a_batch_is_made_with_the_coefficient_that_has_moved():
  """That of the state of the fake algorithm, 0.5, and not of the config, 0.05."""
  assert fakes.stage_trace(make(RLStage), steps=1)["kl_coefs"] == [0.5]


def test_the_longest_bucket_says_which_prompts_fit_and_what_is_left_out_is_counted():
  rows = [*fakes.ROWS[:2], {"prompt": "p2 a a", "answer": "1"}, {"prompt": "a " * 9, "answer": "1"}]
  for cls in (RLStage, SampleStage):
    trace = fakes.stage_trace(make(cls), rows=rows, prompt_buckets=(1, 4), steps=3)
    assert {prompt for batch in trace["prompts"] for prompt in batch} == {"p0", "p1", "p2 a a"}
    assert [metrics["rollout/dropped_prompts"] for metrics in trace["host"]] == [1, 1, 1]
  trace = fakes.stage_trace(make(DistillStage, examples="a.jsonl"), prompt_buckets=(1, 4))
  assert trace["prompts"] == [["p2 a", "p3 a"], ["p1 a", "p0 a"]]
  for cls in (PreferenceStage, RewardModelStage):
    trace = fakes.stage_trace(make(cls, completion_length=7), prompt_buckets=(1, 4))
    batches = trace.get("scored", trace["batches"])
    assert {batch.prompt_tokens.shape for batch in batches} == {(2, 4)}
  long = [{"prompt": f"p{i}", "answer": "1 " * (9 if i else 1)} for i in range(4)]
  trace = fakes.stage_trace(make(SFTStage, length=6), rows=long)
  assert [metrics["rollout/dropped_examples"] for metrics in trace["host"]] == [3, 3]


# Reinforcement learning.


def test_groups_are_sampled_until_enough_of_them_differ():
  """Both of a group are right and one is longer, so that they differ in the reward alone."""
  stage = make(
      RLStage, rewards=(bases.VERIFIER, EXPLORATION), max_resample_rounds=3,
      filter_groups_by="accuracy", writes_accuracy=True, length_buckets=(7,))
  with mock.patch.object(fakes, "SAMPLED", [fakes.RIGHT, fakes.LONG]):
    trace = fakes.stage_trace(stage, steps=1)
    by_reward = fakes.stage_trace(dataclasses.replace(stage, filter_groups_by="reward"), steps=1)
  (metrics,) = trace["host"]
  assert metrics["rollout/rounds"] == 3 and metrics["rollout/zero_variance_groups"] == 1
  assert metrics["rollout/sampled_groups"] == 6
  key = jax.random.split(jax.random.key(0))[0]
  assert data(trace["keys"]) == [folded(key, number) for number in range(3)]
  assert trace["tokens"] == [3 * (4 + 2 * (6 + 7))]
  assert [(row["right"], row["count"]) for row in trace["rows"][0]] == [(2, 2)] * 6
  assert trace["scored"][0].completion_tokens.shape == (4, 7)
  assert by_reward["host"][0]["rollout/rounds"] == 1
  assert by_reward["host"][0]["rollout/zero_variance_groups"] == 0


def test_no_more_is_sampled_than_is_needed():
  """2 of 4 groups differ in each round."""
  stage = make(RLStage, num_prompts=4, max_resample_rounds=5)
  (metrics,) = fakes.stage_trace(stage, steps=1)["host"]
  assert metrics["rollout/rounds"] == 2 and metrics["rollout/zero_variance_groups"] == 0


def unsure(prompts, completions, *, proof=None, **columns):
  """Gives nothing to what begins with a box."""
  del prompts, columns
  return [None if text.startswith("\\boxed") else 1.0 for text in completions]


def test_a_greedy_completion_without_a_score_is_no_baseline():
  verifier = RewardSpec(name="verifier", function=unsure)
  stage = make(RLStage, rewards=(verifier,), algorithm=presets.remax(
      minibatch_size=2, kl_coef=0.0, share_prompts=False, pack_rows=False))
  (outcome,) = fakes.stage_trace(stage, steps=1)["outcomes"]
  np.testing.assert_array_equal(outcome.greedy_scores, [1, 1, np.nan, np.nan])
  np.testing.assert_array_equal(outcome.is_scored, [True, False, True, True])


def test_an_option_of_a_reward_goes_before_the_stages():
  exploration = RewardSpec(
      name="exploration", options={"c": 0.8, "unit": "tokens", "min_length": 4})
  (outcome,) = fakes.stage_trace(make(RLStage, rewards=(exploration,)), steps=1)["outcomes"]
  np.testing.assert_allclose(outcome.scores, [-0.2, -0.2, -0.2, -0.1], rtol=1e-6)


def test_rows_need_the_columns_of_the_stages_own_verifier():
  def proven(prompts, completions, proof, **columns):
    del prompts, proof, columns
    return [1.0] * len(completions)

  rows = [row | ({"proof": "q"} if i else {}) for i, row in enumerate(fakes.ROWS)]
  stage = make(RLStage, rewards=(RewardSpec(name="verifier", function=proven),))
  trace = fakes.stage_trace(stage, rows=rows, steps=3)
  assert {prompt for batch in trace["prompts"] for prompt in batch} == {"p1", "p2", "p3"}


def test_a_critic_of_another_checkpoint_is_the_algorithms():
  stage = make(RLStage, critic_path="b", algorithm=dataclasses.replace(
      bases.REINFORCE, critic="separate"))
  trace = fakes.stage_trace(stage, model=dataclasses.replace(tiny.MODEL, dtype="bfloat16"))
  (_, _, settings), = trace["algorithm"]
  assert trace["loaded"] == ["b"] and settings["critic"].width == tiny.MODEL.width
  policy, critic = (given for given in trace["init"][0]["given"] if isinstance(given, dict))
  assert policy["w"].tolist() == [0, 0] and critic["w"].tolist() == [1, 1]


def test_a_reference_of_its_own_is_the_one_that_the_kl_is_to():
  """The policy starts at 0 and moves by 1, the loaded model is 1 and stays."""
  trace = fakes.stage_trace(make(RLStage, reference_path="b"), model=dataclasses.replace(
      tiny.MODEL, dtype="bfloat16"))
  (_, _, settings), = trace["algorithm"]
  assert trace["loaded"] == ["b"] and trace["dtypes"] == [("float32", "bfloat16")]
  assert settings["reference"] == tiny.MODEL
  assert [models["params"]["policy"]["w"].tolist() for models in trace["models"]] == [
      [0, 0], [1, 1]]
  assert [models["reference"]["w"].tolist() for models in trace["models"]] == [[1, 1], [1, 1]]


def test_models_beside_the_policy_are_stored_and_computed_as_it_is():
  model = dataclasses.replace(tiny.MODEL, dtype="bfloat16")
  learned = (bases.VERIFIER, RewardSpec(name="learned"))
  for stage in (
      make(DistillStage), make(SampleStage, reward_model="b", rewards=learned),
      make(RLStage, reward_model="b", rewards=learned), make(
          RLStage, critic_path="b", algorithm=dataclasses.replace(
              bases.REINFORCE, critic="separate"))):
    assert fakes.stage_trace(stage, model=model)["dtypes"] == [("float32", "bfloat16")]


# Distillation.


def test_the_teacher_says_what_is_learned():
  trace = fakes.stage_trace(make(DistillStage))
  assert [models["teacher"]["w"].tolist() for models in trace["models"]] == [[1, 1], [1, 1]]


def test_a_share_of_the_steps_is_on_the_students_own_samples():
  """By a draw of each step's own key."""
  stage = make(DistillStage, steps=8, examples="a.jsonl", student_fraction=0.8)
  drawn = [float(jax.random.uniform(jax.random.split(jax.random.key(number), 3)[1]))
           for number in range(8)]
  trace = fakes.stage_trace(stage, steps=8)
  assert [metrics["distill/is_own"] for metrics in trace["host"]] == [x < 0.8 for x in drawn]
  assert sum(x < 0.8 for x in drawn) not in (0, 4, 8)
  assert len(trace["keys"]) == sum(x < 0.8 for x in drawn)


def test_the_completions_of_examples_stand_beside_each_other():
  stage = make(DistillStage, examples="a.jsonl", group_size=2, student_fraction=0.5)
  setup = fakes.make_setup(bases.make_recipe(stages=(stage,)))
  rollout = fakes.distill._rollout_of_rows(setup, stage, fakes.FILE_ROWS[:2])
  assert rollout.prompt_tokens[:, -2].tolist() == [5, 5, 4, 4]  # p3 and p2
  assert rollout.token_mask.sum(axis=1).tolist() == [2] * 4 and not rollout.truncated.any()


# Data.


def test_rows_say_who_wrote_them():
  (first, *_), (second, *_) = fakes.stage_trace(make(SampleStage))["rows"]
  assert [(row["stage"], row["step"], row["policy"]) for row in (first, second)] == [
      ("sample", 0, "initial"), ("sample", 1, "initial")]
  assert first["prompt_ids"] == [10] and first["completion"] == "a a \\boxed{ 1 }"
  teacher = fakes.stage_trace(make(SampleStage, model="b"))["rows"][0][0]
  assert teacher["policy"] == "b" and teacher["prompt_ids"] == [10]


def test_what_a_model_of_another_vocabulary_wrote_is_text():
  row = fakes.stage_trace(make(SampleStage, model="b"), others=OTHERS)["rows"][0][0]
  assert row["prompt_ids"] is row["completion_ids"] is None
  assert row["completion"] == OTHERS.decode(fakes.TOKENIZER.encode(fakes.RIGHT))


# Supervised stages.


def test_demonstrations_are_as_many_as_asked_for():
  asked = []
  shown = lambda task, rows, count: asked.append(count) or [{"prompt": "p0", "completion": "a"}]
  with mock.patch.object(fakes.SFT, "demonstrations", shown):
    fakes.stage_trace(make(SFTStage, answer_template="", num_examples=3))
  assert set(asked) == {3}


def test_weights_of_tokens_hold_in_texts_and_in_chats():
  chats = WordTokenizer.from_words(("a", "b"), chat_template=(
      "{% for m in messages %}{{ m.content }} {% endfor %}"))
  weights = {chats.encode("b")[0]: 3.0}
  chat = {"prompt": [{"role": "user", "content": "a"}], "completion": "b a"}
  for row in (chat, {"prompt": "a", "completion": "b a"}):
    example = fakes.SFT._tokenize_example(chats, row, weights)
    assert example["loss_weights"].tolist()[:3] == [0, 3, 1]


# Reward models.


def test_scores_are_standardised_over_all_examples_and_each_once():
  """Batches of 3 pairs, scored 0 to 5; the last of the 4 pairs is 0 and 1: mean 2, variance 3."""
  from tests.settings import of_stages

  (params,) = of_stages.standardized(make(RewardModelStage, batch_size=3))
  np.testing.assert_allclose(params["value_head"]["kernel"], [3**-0.5] * 2, rtol=1e-5)
  np.testing.assert_allclose(params["value_head"]["bias"], -1.5 * 3**-0.5, rtol=1e-5)


@pytest.mark.parametrize("cls", [PreferenceStage, RewardModelStage])
@pytest.mark.parametrize("length, width, found", [
    (6, 4, "prompt of 2 and completion of 7 tokens, allowed: 4 and 6"),
    (8, 1, "prompt of 2 and completion of 7 tokens, allowed: 1 and 8")])
def test_the_longer_completion_and_the_prompt_of_a_pair_have_to_fit(cls, length, width, found):
  with pytest.raises(ValueError, match=found):
    fakes.stage_trace(make(cls, completion_length=length), prompt_buckets=(width,))
