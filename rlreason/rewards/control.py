"""The random reward: a control that any claim of a gain is measured against."""

import hashlib
from typing import Any


def random_reward(
    prompts: list[Any], completions: list[str], *, probability: float = 0.5, seed: int = 0,
    **unused_columns: list[Any],
) -> list[float]:
  """1 with the given probability, else 0, whatever the answer.

  Drawn from a hash of (seed, prompt, completion): no state, so that a resumed run pays the same,
  and the same text always gets the same reward, whichever the step. It says nothing about a text
  not seen before, which is what a model would have to learn from it.

  Args:
    prompts: text, or chat messages.
    completions: texts.
    probability: of a reward of 1, in [0, 1].
    seed: of the draw.
  """
  if not 0 <= probability <= 1:
    raise ValueError(f"probability: got {probability!r}, allowed: 0 to 1")
  return [
      float(_uniform(f"{seed}\0{prompt}\0{text}") < probability)
      for prompt, text in zip(prompts, completions, strict=True)
  ]


def _uniform(text: str) -> float:
  """A number in [0, 1) that depends on `text` alone."""
  digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
  return int.from_bytes(digest, "big") / 2**64
