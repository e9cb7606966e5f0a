"""The options of sampling."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
  """Length limit, temperature and filters.

  Hashable, so that it can be a static argument of `jax.jit`. The temperature is applied first; then
  top-k, top-p and min-p, in this order, each on the tokens left by the previous one.
  """

  max_new_tokens: int  # of a completion, including its end token
  temperature: float = 1.0  # 0 = greedy: always the most likely token; else 1e-4 to 1e4
  top_k: int = 0  # tokens kept; 0 = all
  top_p: float = 1.0  # in (0, 1], probability mass kept; 1 = all
  min_p: float = 0.0  # in [0, 1], share of the largest probability a token must have; 0 = all
  # Pairs (previous ids, next ids): after one of `previous`, none of `next` may follow.
  blocked_bigrams: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
  # The precision in which decode steps read the model: int8 halves the bytes of bf16, and its
  # log-probs differ slightly from the model's. Prompts (except the logits after them), norms,
  # biases and experts are not quantised.
  weights: Literal["full", "int8"] = "full"

  @property
  def is_int8(self) -> bool:
    return self.weights == "int8"

  def __post_init__(self):
    if self.max_new_tokens < 1:
      raise ValueError(f"max_new_tokens: got {self.max_new_tokens}, allowed: 1 or more")
    # Logits divided by less overflow, and divided by more are all equal.
    if self.temperature and not 1e-4 <= self.temperature <= 1e4:
      raise ValueError(
          f"temperature: got {self.temperature}, allowed: 0 (greedy), or 0.0001 to 10000, finite")
    if self.top_k < 0:
      raise ValueError(f"top_k: got {self.top_k}, allowed: 0 (off) or more")
    if not 1e-30 < self.top_p <= 1:  # less is 0 in float32
      raise ValueError(f"top_p: got {self.top_p}, allowed: above 0, at most 1 (off)")
    if not 0 <= self.min_p <= 1:
      raise ValueError(f"min_p: got {self.min_p}, allowed: 0 (off) to 1")
    if self.weights not in ("full", "int8"):
      raise ValueError(f"weights: got {self.weights!r}, allowed: full, int8")
    # Lists (from a JSON or a ConfigDict) are not hashable.
    object.__setattr__(self, "blocked_bigrams", tuple(
        (tuple(previous), tuple(following)) for previous, following in self.blocked_bigrams))
