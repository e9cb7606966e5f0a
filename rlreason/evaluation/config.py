"""Settings of an evaluation."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from rlreason.config import Examples, Rows, Tokens, check_unread
from rlreason.evaluation.expected import Expected
from rlreason.rewards import answer
from rlreason.rollout import forcing as forcing_lib
from rlreason.sampling import SamplingOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
  """What is measured, between stages and at the end."""

  split: str = "test"  # of the task: validation while settings are chosen, test for a result
  num_problems: Examples = 500  # the first of the split
  batch_size: Rows = 100  # problems sampled at once
  max_new_tokens: Tokens = 256  # of a completion
  num_samples: Rows = 8  # n of avg@n, largest k of pass@k and maj@k; 0 = greedy only
  temperature: float = 1.0  # of those samples
  top_p: float = 1.0  # of those samples
  # The answer of a completion with several boxes, and other options of the verifier. What is not
  # given here is as in the training: of the part "verifier" of its last stage that has one.
  which_box: answer.WhichBox | None = None
  verifier_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  # Pairs (previous words, next words), one token each: after one of the first, none of the second
  # may follow. For controls, such as a model that is kept from giving up.
  blocked_words: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
  # Put after each prompt (or the text of its last message) as it is, such as the label " GOOD" of a
  # policy that is conditioned on its return.
  prompt_suffix: str = ""
  # Budget forcing (`rollout/forcing.py`): a completion that `max_new_tokens` cut off goes on after
  # the text `forced_answer`, and one that ended before after `wait`, in the place of its end token.
  forced_answer: str = ""  # put after what was cut off, such as "\\boxed{"; empty: off
  answer_tokens: Tokens = 16  # that may follow `forced_answer`
  wait: str = ""  # put in the place of an end token that comes too early
  num_waits: int = 0  # times at most, within `max_new_tokens`
  every_stage: bool = True  # also before the first stage and between stages; else only at the end
  every_steps: int = 0  # also within a stage that trains, each time after so many steps; 0 = not
  # Ends a stage after so many evaluations within it of which none was better than the best before,
  # by the metric `checkpoint.keep_best`; 0 = never.
  stop_after: int = 0
  expected: Expected | None = None  # what this recipe gave before: a run says where it lies to it

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
    if not self.num_samples:
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
    """What is put after completions."""
    return forcing_lib.Forcing(
        forced_answer=self.forced_answer, answer_tokens=self.answer_tokens, wait=self.wait,
        num_waits=self.num_waits)

  def options(self, *, is_greedy: bool, blocked_bigrams: tuple = ()) -> SamplingOptions:
    """How completions are sampled."""
    return SamplingOptions(
        max_new_tokens=self.max_new_tokens, blocked_bigrams=blocked_bigrams,
        temperature=0.0 if is_greedy else self.temperature, top_p=1.0 if is_greedy else self.top_p)
