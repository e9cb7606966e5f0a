"""Math-Verify as usually called: a reward function for the processes of workers/pool.py."""

import re

import math_verify

# The text in which its `parse` finds an answer; a bare gold answer gets a box, as in verl.
_FOUND = re.compile(
    r"\\(?:boxed|fbox)(?![A-Za-z])|(?<!\\)\$|\\\[|\\\(|####|answer is", re.IGNORECASE)


def judge(prompts, completions, *, gold):
  """1.0 if `math_verify.verify` accepts, else 0.0; its own limits are 5 s a step."""
  del prompts
  return [float(_is_equal(*pair)) for pair in zip(gold, completions, strict=True)]


def _is_equal(gold, completion):
  gold = gold if _FOUND.search(gold) else rf"\boxed{{{gold}}}"
  return math_verify.verify(math_verify.parse(gold), math_verify.parse(completion))
