"""Settings of an evaluation."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from rlreason.config import Examples, Rows, Tokens, check_unread
from rlreason.evaluation.expected import Expected
from rlreason.rewards import answer
from rlreason.rollout import forcing as forcing_lib
from rlreason.sampling import SamplingOptions
from rlreason.searching.config import SearchConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
  """Settings of the evaluations between stages and at the end."""

  split: str = "test"  # of the task: validation to choose settings, test for results
  num_problems: Examples = 500  # the first of the split
  batch_size: Rows = 100  # problems sampled at once
  max_new_tokens: Tokens = 256  # of a completion
  num_samples: Rows = 8  # n of avg@n, largest k of pass@k and maj@k; 0 = greedy only
  temperature: float = 1.0  # of those samples
  top_p: float = 1.0  # of those samples
  # The answer of a completion with several boxes, and other options of the verifier. Options that
  # are not given are as in training: those of the part "verifier" of its last stage that has one.
  which_box: answer.WhichBox | None = None
  verifier_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  # Pairs (previous words, next words), one token each: after one of the first, none of the second
  # may follow. For controls, such as a model that cannot give up.
  blocked_words: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
  # Appended unchanged to each prompt (or the text of its last message), such as the label " GOOD"
  # of a return-conditioned policy.
  prompt_suffix: str = ""
  # Budget forcing (`rollout/forcing.py`): a completion that `max_new_tokens` truncated continues
  # after the text `forced_answer`, and one that ended earlier after `wait`, instead of its end
  # token.
  forced_answer: str = ""  # put after truncated completions, such as "\\boxed{"; empty: off
  answer_tokens: Tokens = 16  # sampled after `forced_answer`
  wait: str = ""  # put instead of an end token that comes too early
  num_waits: int = 0  # at most this many times, within `max_new_tokens`
  search: SearchConfig | None = None  # a search at test time (docs/search.md), beside the samples
  every_stage: bool = True  # also before the first stage and between stages; else only at the end
  every_steps: int = 0  # also within training stages, every this many steps; 0 = never
  # Ends a stage after this many evaluations within it without an improvement of the best value, by
  # the metric `checkpoint.keep_best`; 0 = never.
  stop_after: int = 0
  expected: Expected | None = None  # earlier results of the recipe, to compare runs with

  def __post_init__(self):
    for name in ("num_problems", "batch_size", "max_new_tokens"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}: got {getattr(self, name)}, allowed: 1 or more")
    for name in ("num_samples", "every_steps", "stop_after"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name}: got {getattr(self, name)}, allowed: 0 or more")
    if self.split not in ("validation", "test"):
      raise ValueError(f"split: got {self.split!r}, allowed: validation, test")
    if self.which_box is not None:
      answer.check_which_box(self.which_box)
    self.options(is_greedy=False)
    self.forcing()
    if self.num_samples > 1 and not self.temperature:
      raise ValueError(
          f"temperature: got 0 with num_samples={self.num_samples}, allowed: above 0 (all samples "
          "of a problem would be the same), or num_samples=0")
    if not self.temperature:
      check_unread(self, "with temperature=0", "top_p")
    if not self.num_samples and not self.search:
      names = ("temperature", "top_p") if self.temperature else ("top_p",)
      check_unread(self, "with num_samples=0, where all is greedy", *names)
    if not self.forced_answer:
      check_unread(self, "without forced_answer", "answer_tokens")
    if not self.num_waits:
      check_unread(self, "with num_waits=0", "wait")
    named = self.verifier_options.get("which_box")
    if None not in (named, self.which_box) and named != self.which_box:
      raise ValueError(
          f"verifier_options.which_box: got {named!r} beside which_box={self.which_box!r}, "
          "allowed: one of the two")

  def forcing(self) -> forcing_lib.Forcing:
    """The texts appended to completions."""
    return forcing_lib.Forcing(
        forced_answer=self.forced_answer, answer_tokens=self.answer_tokens, wait=self.wait,
        num_waits=self.num_waits)

  def options(self, *, is_greedy: bool, blocked_bigrams: tuple = ()) -> SamplingOptions:
    """The sampling options of completions."""
    return SamplingOptions(
        max_new_tokens=self.max_new_tokens, blocked_bigrams=blocked_bigrams,
        temperature=0.0 if is_greedy else self.temperature, top_p=1.0 if is_greedy else self.top_p)
