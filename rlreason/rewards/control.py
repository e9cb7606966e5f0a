"""The random reward: the control for any claimed gain."""

import hashlib
from typing import Any


def random_reward(
    prompts: list[Any], completions: list[str], *, probability: float = 0.5, seed: int = 0,
    **unused_columns: list[Any],
) -> list[float]:
  """1 with the given probability, else 0, independent of the answer.

  Drawn from a hash of (seed, prompt, completion): it has no state, so that a resumed run gives the
  same rewards, and the same text gets the same reward in every step. It carries no information
  about unseen texts, so that a model cannot learn anything general from it.

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
  """A number in [0, 1) that depends only on `text`."""
  digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
  return int.from_bytes(digest, "big") / 2**64
