"""Made-up completions to texts to rewards."""

import numpy as np
import pytest

from rlreason.rewards import RewardSpec, combine_rewards
from rlreason.rollout.scored import reasoning_tokens, score
from rlreason.tokenizers import WordTokenizer
from tests.rollout.made import TOKENIZER, make_rollout


def test_rewards_see_the_tags_that_a_prompt_opens():
  tokenizer = WordTokenizer.from_words(("a", "<think>", "</think>", "<answer>", "</answer>"))
  rollout = make_rollout(["a"] * 4)
  ids = np.array([tokenizer.encode(text) for text in ("a a <think>", "<think> a a")], np.int32)
  rollout = rollout.replace(
      prompt_tokens=np.repeat(ids, 2, axis=0),
      completion_tokens=np.tile(tokenizer.encode("a </think> <answer> a </answer> <eos> <pad>"
                                                 " <pad>"), (4, 1)).astype(np.int32),
      token_mask=np.tile(np.arange(8) < 6, (4, 1)))
  reward = combine_rewards([RewardSpec(name="format", options={"style": "tags"}), RewardSpec(
      name="mine", function=lambda prompts, completions, opened, **rest: list(map(len, opened)))])
  rows = [{"prompt": "p", "answer": "1"}] * 2
  scored = score(reward, tokenizer, rows, rollout)
  assert scored.rewards.parts == {"format": [1.0, 1.0, 0.0, 0.0], "mine": [7.0, 7.0, 0.0, 0.0]}


@pytest.mark.parametrize("text, expected", [
    ("a b c \\boxed{ 1 } a <eos>", 3), ("\\boxed{ 1 } <eos>", 0), ("a b c <eos>", 4),
    ("a b \\boxed{ 1", 4),  # never closed: no box, as for the verifier
    ("a \\boxed{ 1 } b \\boxed{ 2 }", 1), ("a \\boxed{ b \\boxed{ 2 }", 3)])
def test_reasoning_ends_before_the_first_box(text, expected):
  ids = TOKENIZER.encode(text)
  assert reasoning_tokens(TOKENIZER, ids, TOKENIZER.decode(ids)) == expected


@pytest.mark.parametrize("options, lengths", [
    ({}, [8, 2]), ({"answer_after": "b b"}, [1, 6]), ({"answer_tags": True}, [8, 8])])
def test_reasoning_ends_where_the_verifier_looks_for_the_answer(options, lengths):
  """Padding behind the answer never pays, whatever marks it, in tokens or in characters."""
  texts = ["a b b 1 c c c c", "a c \\boxed{ 1 } a b b"]
  specs = [RewardSpec(name="verifier", options=options), RewardSpec(
      name="exploration", options=dict(c=1.0, unit="tokens"), weight=0.0)]
  rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "1"}]
  scored = score(combine_rewards(specs), TOKENIZER, rows, make_rollout(texts))
  assert scored.reasoning_lengths.tolist() == lengths
  assert scored.rewards.parts["exploration"] == pytest.approx([-1 / n for n in lengths])
  specs[1] = RewardSpec(name="exploration", options=dict(c=1.0), weight=0.0)
  scored = score(combine_rewards(specs), TOKENIZER, rows, make_rollout(texts))
  ends = {8: len(texts[0]), 2: len("a c "), 1: len("a "), 6: len("a c \\boxed{ 1 } a ")}
  if not options.get("answer_tags"):
    assert scored.rewards.parts["exploration"] == pytest.approx(
        [-1 / max(1.0, ends[n] / 4) for n in lengths])


def test_scores_of_completions():
  """Columns reach the reward once per completion; None is no score, which is not 0."""
  seen = {}

  def mine(prompts, completions, **columns):
    seen.update(columns, prompts=prompts, completions=completions)
    return [None if text == "b" else float(len(text)) for text in completions]

  reward = combine_rewards(
      [RewardSpec(name="mine", function=mine), RewardSpec(name="exploration", weight=0.0,
                                                          options=dict(c=6.0, unit="tokens"))],
      verifier="math")
  rows = [{"prompt": "a", "answer": "1", "level": 7}, {"prompt": "b", "answer": "2", "level": 8}]
  texts = ["a b \\boxed{ 1 } <eos>", "b <eos>", "<eos>", "c c c c c c c c"]
  scored = score(reward, TOKENIZER, rows, make_rollout(texts))
  assert scored.completions == ["a b \\boxed{ 1 }", "b", "", "c c c c c c c c"]
  assert seen["prompts"] == ["a", "a", "b", "b"] and seen["level"] == [7, 7, 8, 8]
  assert seen["answer"] == ["1", "1", "2", "2"] and seen["completions"] == scored.completions
  assert seen["reasoning_tokens"] == [2, 2, 1, 8] and seen["tokens"] == [6, 2, 1, 8]
  assert seen["group"] == [0, 0, 1, 1] and seen["truncated"] == [False] * 3 + [True]
  assert scored.rewards.parts["exploration"] == [-3.0, -3.0, -6.0, -0.75]
  np.testing.assert_array_equal(scored.is_scored, [True, False, True, True])
  np.testing.assert_array_equal(scored.totals, np.float32([10.0, 0.0, 0.0, 10.0]))  # clipped
  np.testing.assert_array_equal(scored.lengths, [6, 2, 1, 8])
