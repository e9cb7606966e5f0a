"""From rows to prompts to completions to rewards, with a tiny model and with made-up texts."""

import json

import jax
import numpy as np
import pytest

from rlreason import rollout as rollout_lib
from rlreason.data.sources import FileRows
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.rewards import RewardSpec, combine_rewards
from rlreason.sampling import SamplingOptions
from rlreason.tokenizers import WordTokenizer
from rlreason.types import Rollout
from tests.algorithms import tiny

WORDS = ("a", "b", "c", "\\boxed{", "}", "user", "assistant", "1", "2")
TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}assistant"
TOKENIZER = WordTokenizer.from_words(WORDS, chat_template=TEMPLATE)


def make_rollout(texts, columns=8, prompts=3):
  """A rollout whose completions are these texts, `<eos>` and all."""
  tokens = np.zeros((len(texts), columns), np.int32)
  mask = np.zeros((len(texts), columns), bool)
  for row, text in enumerate(texts):
    ids = TOKENIZER.encode(text)
    tokens[row, :len(ids)], mask[row, :len(ids)] = ids, True
  return Rollout(
      prompt_tokens=np.zeros((len(texts), prompts), np.int32),
      prompt_mask=np.ones((len(texts), prompts), bool), completion_tokens=tokens,
      token_mask=mask, action_mask=mask, log_probs=np.zeros(mask.shape, np.float32), values=None,
      truncated=~np.array(["<eos>" in text for text in texts]))


def test_a_prompt_is_text_or_a_chat():
  assert rollout_lib.encode_prompt(TOKENIZER, {"prompt": "a b"}) == TOKENIZER.encode("a b")
  chat = [{"role": "user", "content": "a b"}]
  assert TOKENIZER.decode(rollout_lib.encode_prompt(TOKENIZER, {"prompt": chat})) == (
      "user a b assistant")


def test_rows_that_fit():
  rows = [{"prompt": "a " * length} for length in (1, 5, 3, 4, 0)]
  fitting = rollout_lib.FittingRows(rows, TOKENIZER, 3)
  assert len(fitting) == 2 and fitting.num_dropped == 3
  assert [fitting[0], fitting[1]] == [rows[0], rows[2]]
  with pytest.raises(ValueError, match="got 5 that are all empty or longer than 0 tokens"):
    rollout_lib.FittingRows(rows, TOKENIZER, 0)


def test_a_row_that_cannot_be_read_is_left_out(caplog):
  class Rows(list):
    def __getitem__(self, index):
      if index == 1:
        raise ValueError("answer is empty")
      return list.__getitem__(self, index)

  rows = Rows([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "nowhere"}, {"prompt": "c"}])
  with caplog.at_level("WARNING"):
    fitting = rollout_lib.FittingRows(rows, TOKENIZER, 3)
  assert [row["prompt"] for row in fitting] == ["a", "c"] and fitting.num_dropped == 2
  line, = [record.getMessage() for record in caplog.records]
  assert line.startswith("prompts: 2 of 4 prompts left out: 1 x answer is empty (1); 1 x text: got")
  assert "nowhere" in line and line.endswith("(2)")
  with pytest.raises(ValueError, match="prompts: no usable row among 1; row 0: text: got the wo"):
    rollout_lib.FittingRows([{"prompt": "nowhere"}], TOKENIZER, 3)


def test_a_prompt_with_a_token_that_the_model_has_no_embedding_for_is_left_out(caplog):
  rows = [{"prompt": "a"}, {"prompt": "b 2"}, {"prompt": "1 c"}]  # "2" is the last word
  tokenizer = TOKENIZER.with_rows(TOKENIZER.vocab_size - 1)
  with caplog.at_level("WARNING"):
    fitting = rollout_lib.FittingRows(rows, tokenizer, 3)
  assert [row["prompt"] for row in fitting] == ["a", "1 c"] and fitting.num_dropped == 1
  assert "text: got 'b 2' with the token '2' (id 10)" in caplog.text


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
  scored = rollout_lib.score(reward, tokenizer, rows, rollout)
  assert scored.rewards.parts == {"format": [1.0, 1.0, 0.0, 0.0], "mine": [7.0, 7.0, 0.0, 0.0]}


def test_a_prompt_that_ends_with_the_assistant_is_left_out_by_its_line(tmp_path, caplog):
  class Rows(FileRows):  # rows of other makers than files come as they are
    def __getitem__(self, index):
      return {"prompt": super().__getitem__(index)["prompt"] + [
          {"role": "assistant", "content": "b"}] * index}

  row = {"prompt": [{"role": "user", "content": "a"}], "answer": "1"}
  (tmp_path / "a.jsonl").write_text("\n\n".join([json.dumps(row)] * 2))
  fitting = rollout_lib.FittingRows(Rows(tmp_path / "a.jsonl"), TOKENIZER, 9)
  assert len(fitting) == 1
  assert ("prompts: 1 of 2 prompts left out: 1 x the prompt ends with the assistant's turn "
          f"({tmp_path / 'a.jsonl'}:3)") in caplog.text


def test_a_row_without_what_its_verifier_needs_is_left_out(caplog):
  rows = [{"prompt": "a", "target": 3}, {"prompt": "b", "target": None}, {"prompt": "c"}]
  fitting = rollout_lib.FittingRows(rows, TOKENIZER, 3, columns={"target"})
  assert [row["prompt"] for row in fitting] == ["a"] and fitting.num_dropped == 2
  assert "2 of 3 prompts left out: 1 x the verifier needs the columns ['target']" in caplog.text
  assert "(1); 1 x " in caplog.text and caplog.text.endswith("(2)\n")


@pytest.mark.parametrize("text, expected", [
    ("a b c \\boxed{ 1 } a <eos>", 3), ("\\boxed{ 1 } <eos>", 0), ("a b c <eos>", 4),
    ("a b \\boxed{ 1", 4),  # never closed: no box, as for the verifier
    ("a \\boxed{ 1 } b \\boxed{ 2 }", 1), ("a \\boxed{ b \\boxed{ 2 }", 3)])
def test_reasoning_ends_before_the_first_box(text, expected):
  ids = TOKENIZER.encode(text)
  assert rollout_lib.reasoning_tokens(TOKENIZER, ids, TOKENIZER.decode(ids)) == expected


@pytest.mark.parametrize("options, lengths", [
    ({}, [8, 2]), ({"answer_after": "b b"}, [1, 6]), ({"answer_tags": True}, [8, 8])])
def test_reasoning_ends_where_the_verifier_looks_for_the_answer(options, lengths):
  """Padding behind the answer never pays, whatever marks it, in tokens or in characters."""
  texts = ["a b b 1 c c c c", "a c \\boxed{ 1 } a b b"]
  specs = [RewardSpec(name="verifier", options=options), RewardSpec(
      name="exploration", options=dict(c=1.0, unit="tokens"), weight=0.0)]
  rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "1"}]
  scored = rollout_lib.score(combine_rewards(specs), TOKENIZER, rows, make_rollout(texts))
  assert scored.reasoning_lengths.tolist() == lengths
  assert scored.rewards.parts["exploration"] == pytest.approx([-1 / n for n in lengths])
  specs[1] = RewardSpec(name="exploration", options=dict(c=1.0), weight=0.0)
  scored = rollout_lib.score(combine_rewards(specs), TOKENIZER, rows, make_rollout(texts))
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
  scored = rollout_lib.score(reward, TOKENIZER, rows, make_rollout(texts))
  assert scored.completions == ["a b \\boxed{ 1 }", "b", "", "c c c c c c c c"]
  assert seen["prompts"] == ["a", "a", "b", "b"] and seen["level"] == [7, 7, 8, 8]
  assert seen["answer"] == ["1", "1", "2", "2"] and seen["completions"] == scored.completions
  assert seen["reasoning_tokens"] == [2, 2, 1, 8] and seen["tokens"] == [6, 2, 1, 8]
  assert seen["group"] == [0, 0, 1, 1] and seen["truncated"] == [False] * 3 + [True]
  assert scored.rewards.parts["exploration"] == [-3.0, -3.0, -6.0, -0.75]
  np.testing.assert_array_equal(scored.is_scored, [True, False, True, True])
  np.testing.assert_array_equal(scored.totals, np.float32([10.0, 0.0, 0.0, 10.0]))  # clipped
  np.testing.assert_array_equal(scored.lengths, [6, 2, 1, 8])


def test_crop_to_the_smallest_bucket_that_holds_all():
  rollout = make_rollout(["a b c", "a", "a b"])
  for buckets, width in (((2, 5, 8), 5), ((3, 8), 3), ((8,), 8)):
    cropped = rollout_lib.crop(rollout, buckets)
    assert cropped.completion_tokens.shape == cropped.log_probs.shape == (3, width)
    assert cropped.token_mask.sum() == 6 and cropped.values is None
    np.testing.assert_array_equal(cropped.action_mask, cropped.token_mask)
    assert cropped.prompt_tokens.shape == (3, 3)


@pytest.fixture(scope="module", name="generate")
def generate_fixture():
  return rollout_lib.make_generator(
      tiny.MODEL, TOKENIZER, make_layout(ParallelConfig(data=2)),
      options=SamplingOptions(max_new_tokens=4), group_size=2, prompt_buckets=(3, 5))


def test_generated_rows_follow_their_prompts(generate):
  assert TOKENIZER.vocab_size == tiny.MODEL.vocab_size
  rows = [{"prompt": "a b"}, {"prompt": "c"}]
  params = {"policy": jax.device_put(tiny.random_params())}
  rollout = generate(params, rows, jax.random.key(0))
  assert isinstance(rollout.completion_tokens, np.ndarray) and rollout.values is None
  assert rollout.completion_tokens.shape == (4, 4) and rollout.prompt_tokens.shape == (4, 3)
  prompts = [TOKENIZER.decode(ids[mask]) for ids, mask in zip(
      rollout.prompt_tokens, rollout.prompt_mask)]
  assert prompts == ["a b", "a b", "c", "c"]
  again = generate(params, rows, jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, rollout, again)
  other = generate(params, rows, jax.random.key(1))
  assert np.any(other.completion_tokens != rollout.completion_tokens)
  texts = rollout_lib.completion_texts(TOKENIZER, rollout)
  assert texts[0] == TOKENIZER.decode(rollout.completion_tokens[0][rollout.token_mask[0]])


def test_prompts_and_rows_that_do_not_fit_are_refused(generate):
  params = {"policy": tiny.random_params()}
  with pytest.raises(ValueError, match="prompts must have at most 5 tokens"):
    generate(params, [{"prompt": "a " * 6}] * 2, jax.random.key(0))
  with pytest.raises(ValueError, match="rows: got 3, allowed: a multiple of 2"):
    generate(params, [{"prompt": "a"}] * 3, jax.random.key(0))
