"""Given answers instead of the completions' own."""

import numpy as np

from rlreason.rollout.answers import append_answers
from tests.rollout.made import TOKENIZER, make_rollout


def test_answers_take_the_place_of_the_completions_own():
  rollout = make_rollout(
      ["a b \\boxed{ 1 } <eos>", "a b c <eos>", "a b c a", "\\boxed{ 2 } <eos>"])
  rows = [{"prompt": "a", "answer": "2"}, {"prompt": "b", "answer": "1"}]
  made = append_answers(TOKENIZER, rows, rollout, "\\boxed{ {answer} }")
  eos = TOKENIZER.eos_ids[0]
  boxed = lambda text: [*TOKENIZER.encode(f"\\boxed{{ {text} }}"), eos]
  expected = [("a b", "2"), ("a b c", "2"), ("a b c a", "1"), ("", "1")]
  for i, (reasoning, answer) in enumerate(expected):
    ids = TOKENIZER.encode(reasoning) if reasoning else []
    tokens = made.completion_tokens[i][made.token_mask[i]].tolist()
    assert tokens == [*ids, *boxed(answer)], i
    np.testing.assert_array_equal(
        made.action_mask[i][:len(tokens)], [True] * len(ids) + [False] * len(boxed(answer)))
  assert made.truncated.tolist() == [False, False, True, False]
  assert made.completion_tokens.shape[1] == made.action_mask.shape[1] == 16
