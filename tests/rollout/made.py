"""Rollouts of made-up texts, for tests."""

import numpy as np

from rlreason.tokenizers import WordTokenizer
from rlreason.types import Rollout

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
