"""Settings of a search at test time."""

import dataclasses
from typing import Literal

from rlreason.config import Path, Rows, Tokens, check_unread
from rlreason.searching.scores import Aggregate
from rlreason.searching.votes import Choice

Method = Literal["sample", "beam", "mcts", "token_mcts", "revise", "rewrite"]
LIKELIHOOD = "likelihood"  # a scorer: the policy's own probability
# The prompt of the first call of System 2 Attention, in words of our own.
REWRITE = (
    "Below is a text with a question. Write it again without anything that does not matter for "
    "the answer, and without opinions. First write \"Context:\" and the facts that matter, then "
    "\"Question:\" and the question.\n\nText: {prompt}")
_READ_BY = {  # field -> methods that read it
    "width": ("beam", "mcts", "token_mcts"), "subtrees": ("beam",), "lookahead": ("beam",),
    "max_steps": ("beam", "mcts"), "step_tokens": ("beam", "mcts"),
    "simulations": ("mcts", "token_mcts"), "form": ("mcts", "token_mcts"),
    "selection": ("mcts", "token_mcts"), "exploration": ("mcts", "token_mcts"),
    "max_depth": ("token_mcts",), "num_revisions": ("revise",), "revision": ("revise",),
    "rewrite": ("rewrite",), "keep_original": ("rewrite",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
  """How solutions of a problem are searched at test time, and which of them is the answer.

  All methods give solutions with scores, and one is chosen. Temperature, top-p and the length limit
  are those of the evaluation.
  """

  # sample: independently; beam: step by step, keeping the best prefixes; mcts, token_mcts: a tree
  # over steps or over tokens; revise: each solution is followed by others; rewrite: System 2
  # Attention, solutions of a prompt that the policy has written again.
  method: Method = "sample"
  choose: Choice = "vote"  # of the solutions: vote, weighted_vote, best (by score)
  # A reward model, which scores every step: a folder or the name of a run; "likelihood": the
  # policy's own mean probability of a step's tokens; empty: no scores.
  scorer: Path = ""
  aggregate: Aggregate = "last"  # from scores of steps to one: last, min, product, mean
  num_samples: Rows = 8  # solutions of a problem; of a beam: its rows; trees of a problem
  delimiter: str = "\n"  # ends a step
  width: Rows = 4  # prefixes that a beam keeps; candidates of a tree's node
  subtrees: Rows = 1  # parts of the beam that do not compete; as many as `width`: DVTS
  lookahead: int = 0  # steps by which a candidate is continued, greedily, to be scored there
  max_steps: int = 32  # of a solution; also the depth of a tree over steps
  step_tokens: Tokens = 64  # of a step, which ends there without a delimiter
  simulations: int = 32  # of a tree; with form="reroot" before each step
  # vanilla: the most visited path of one tree; reroot: a tree for every step; rollout: all
  # solutions in one tree, until `simulations` or `max_tokens`.
  form: Literal["vanilla", "reroot", "rollout"] = "vanilla"
  selection: Literal["puct", "gumbel", "uct"] = "puct"  # of the child to descend to
  exploration: float = 1.25  # c of puct and uct, 0 or more
  max_depth: int = 16  # tokens of a tree over tokens; the policy continues from there
  num_revisions: int = 2  # after the first solution
  revision: str = "Wait"  # put instead of the end token before each revision
  rewrite: str = REWRITE  # the prompt that rewrites `{prompt}`
  keep_original: bool = False  # the original prompt also stays before the rewritten one
  max_tokens: int = 0  # generated for a problem; no more is begun beyond; 0 = no limit
  # Prices per million tokens, of any currency: generated, scored by the reward model, and of
  # prompts.
  price_generated: float = 0.0
  price_scored: float = 0.0
  price_prompt: float = 0.0

  def __post_init__(self):
    for name in ("num_samples", "width", "subtrees", "max_steps", "step_tokens", "simulations",
                 "max_depth"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}: got {getattr(self, name)}, allowed: 1 or more")
    for name in ("lookahead", "exploration", "num_revisions", "max_tokens", "price_generated",
                 "price_scored", "price_prompt"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name}: got {getattr(self, name)}, allowed: 0 or more")
    for name, methods in _READ_BY.items():
      if self.method not in methods:
        check_unread(self, f"with method={self.method!r}", name)
    self._check_scorer()
    if self.method == "beam":
      self._check_beam()
    if not self.delimiter:
      raise ValueError("delimiter: got '', allowed: a text such as '\\n' or '\\n\\n'")
    if self.method == "revise" and not (self.revision and self.num_revisions):
      raise ValueError(f"revision: got {self.revision!r} with num_revisions={self.num_revisions}, "
                       "allowed: a text, and 1 revision or more")
    if self.method == "rewrite" and "{prompt}" not in self.rewrite:
      raise ValueError(f"rewrite: got {self.rewrite!r}, allowed: a text with {{prompt}}")
    if self.method in ("mcts", "token_mcts") and self.form == "vanilla":
      check_unread(self, "with form='vanilla'", "max_tokens")
    if self.selection == "gumbel":
      check_unread(self, "with selection='gumbel'", "exploration")

  @property
  def reads_model(self) -> bool:
    """Whether the scorer is a reward model."""
    return self.scorer not in ("", LIKELIHOOD)

  @property
  def rows_per_problem(self) -> int:
    """Rows of a problem that are in memory at once, with those in the nodes of its trees."""
    is_tree = self.method in ("mcts", "token_mcts")
    return self.num_samples * (1 + self.simulations + self.width if is_tree else 1)

  def _check_scorer(self):
    needed = [part for part, is_so in (
        (f"method={self.method!r}", self.method in ("beam", "mcts", "token_mcts")),
        (f"choose={self.choose!r}", self.choose != "vote")) if is_so]
    if needed and not self.scorer:
      raise ValueError(f"scorer: got '' with {needed[0]}, allowed: a reward model, or likelihood")
    if not self.scorer:
      check_unread(self, "without a scorer", "delimiter", "aggregate", "price_scored")
    if self.method == "token_mcts":
      check_unread(self, "with method='token_mcts'", "delimiter", "aggregate")
    if self.scorer == LIKELIHOOD:
      check_unread(self, "with scorer='likelihood'", "price_scored")

  def _check_beam(self):
    if self.num_samples % self.width or self.width % self.subtrees:
      raise ValueError(
          f"width: got {self.width} with num_samples={self.num_samples} and subtrees="
          f"{self.subtrees}, allowed: a divisor of num_samples, and a multiple of subtrees")
