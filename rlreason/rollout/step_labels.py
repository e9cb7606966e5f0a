"""Labels of steps without people: from completions of the prefixes of a solution.

A search is a generator. It yields a `Prefix`, receives the completions that the policy samples from
it, and returns paths with labels. `label` runs the searches of several prompts together.

- `every_step`: Math-Shepherd, Wang et al. 2023, https://arxiv.org/abs/2312.08935.
- `first_error`: the binary search of Luo et al. 2024 (OmegaPRM), https://arxiv.org/abs/2406.06592,
  on the given solution alone.
- `omega_tree`: their tree.

Not here: the sampler that computes no prefix twice (`prefixes.py`).
"""

from collections.abc import Callable, Generator, Mapping, Sequence
import dataclasses
import math
from typing import Literal, NamedTuple


class Prefix(NamedTuple):
  """The beginning of a solution, whose completions a search asks for."""

  ids: tuple[int, ...]  # of the whole solution
  length: int  # its first tokens that are the prefix


class Completion(NamedTuple):
  """A completion of a prefix, with the prefix."""

  ids: tuple[int, ...]
  is_right: bool


class Solution(NamedTuple):
  """A solution whose steps are to be labelled."""

  ids: tuple[int, ...]
  is_right: bool
  ends_of: Callable[[Sequence[int]], list[int]]  # token ids -> the tokens up to each step's end


class Labelled(NamedTuple):
  """A solution with a label for each of its steps: 0 (wrong) to 1 (right), None: none."""

  ids: tuple[int, ...]
  is_right: bool
  labels: list[float | None]


Search = Generator[Prefix, Sequence[Completion], list[Labelled]]


def every_step(solution: Solution, *, labels: Literal["soft", "hard"] = "soft") -> Search:
  """Completes the prefix of every step.

  The label of the last step is the verdict on the solution.

  Args:
    solution: given.
    labels: soft: shares of completions that reach the answer, eq. (4) of
      https://arxiv.org/abs/2312.08935, whose error is sqrt(p (1 - p) / N). hard: 1 where any does,
      eq. (3), with the probability 1 - (1 - p)^N.

  Raises:
    ValueError: another kind of labels.
  """
  if labels not in ("soft", "hard"):
    raise ValueError(f"labels: got {labels!r}, allowed: soft, hard")
  found, ends = [], solution.ends_of(solution.ids)
  if not ends:
    return []
  for end in ends[:-1]:
    share = _share((yield Prefix(solution.ids, end)))
    found.append(share if labels == "soft" else float(share > 0))
  return [Labelled(solution.ids, solution.is_right, [*found, float(solution.is_right)])]


def first_error(solution: Solution) -> Search:
  """Finds the first step from which no completion reaches the answer, by binary search.

  Steps before it get 1, that step 0, and those after it no label; all of a right solution get 1
  without a completion. Of M steps, 1 + log2(M) prefixes are completed: first the prompt, as nothing
  can be said of a problem that the policy never solves, which gives no row. It takes for granted
  that no completion reaches the answer from a prefix longer than one from which none does.
  """
  ends = solution.ends_of(solution.ids)
  if solution.is_right:
    return [Labelled(solution.ids, True, [1.0] * len(ends))]
  if not ends or not _share((yield Prefix(solution.ids, 0))):
    return []
  low, high = 0, len(ends)  # steps after which the answer can, and cannot, be reached
  while high - low > 1:
    middle = (low + high) // 2
    share = _share((yield Prefix(solution.ids, ends[middle - 1])))
    low, high = (middle, high) if share else (low, middle)
  labels = [1.0] * low + [0.0] + [None] * (len(ends) - high)
  return [Labelled(solution.ids, False, labels)]


@dataclasses.dataclass
class _Node:
  """A prefix in the tree, and completions from it that were wrong."""

  share: float
  wrong: list[Completion]
  visits: int = 0


def omega_tree(
    solution: Solution, *, alpha: float = 0.5, beta: float = 0.9, length_scale: float = 500.0,
    exploration: float = 0.125, max_searches: int = 20, max_completions: int = 200,
) -> Search:
  """Grows a tree of prefixes by binary searches of wrong completions: OmegaPRM.

  The next one is the pair of a prefix and a wrong completion of it with the highest Q + U, of the
  prefixes from which some completions are right and some are wrong:

      Q = α^(1 - share) β^(tokens / L),   U = c sqrt(Σ visits) / (1 + visits)

  Eqs. (1) and (2), Luo et al. 2024, https://arxiv.org/abs/2406.06592. Each prefix that a search
  visits becomes a node, whose wrong completions are candidates in turn.

  Args:
    solution: given; its prompt is the root, and it is one of the root's completions.
    alpha: α in (0, 1], prefers prefixes that are mostly right.
    beta: β in (0, 1], prefers short completions.
    length_scale: L, tokens.
    exploration: c.
    max_searches: binary searches of a prompt.
    max_completions: after these no search begins.

  Returns:
    A row for each completion that was searched; its steps without a node have no label.

  Raises:
    ValueError: an option is out of range.
  """
  _check_tree(alpha, beta, length_scale, exploration, max_searches, max_completions)
  sampled = yield Prefix(solution.ids, 0)
  count, paths = len(sampled), []
  nodes = {(): _node([*sampled, Completion(solution.ids, solution.is_right)])}
  for _ in range(max_searches):
    total = sum(node.visits for node in nodes.values())
    value = lambda prefix, found: _value(
        nodes[prefix], len(found.ids) - len(prefix), total, alpha, beta, length_scale,
        exploration)
    candidates = [(prefix, found) for prefix, node in nodes.items() if 0 < node.share < 1
                  for found in node.wrong]
    if not candidates or count >= max_completions:
      break
    prefix, chosen = max(candidates, key=lambda pair: value(*pair))
    nodes[prefix].wrong.remove(chosen)
    nodes[prefix].visits += 1
    ends = [end for end in solution.ends_of(chosen.ids) if end > len(prefix)]
    low, high = 0, len(ends)
    while high - low > 1:
      middle = (low + high) // 2
      beginning = chosen.ids[:ends[middle - 1]]
      if beginning not in nodes:
        sampled = yield Prefix(chosen.ids, len(beginning))
        count += len(sampled)
        nodes[beginning] = _node(sampled)
      low, high = (middle, high) if nodes[beginning].share else (low, middle)
    paths.append(chosen)
  return [_labelled_by(nodes, chosen, ends) for chosen in paths
          if (ends := solution.ends_of(chosen.ids))]


def label(
    searches: Sequence[Search],
    complete: Callable[[Mapping[int, Prefix]], Mapping[int, Sequence[Completion]]],
) -> list[list[Labelled]]:
  """Runs searches together: each call of `complete` has the next prefix of all that go on.

  Args:
    searches: of the prompts.
    complete: {index of a prompt: prefix} -> {index: completions}.

  Returns:
    What each of them found.
  """
  found: list[list[Labelled]] = [[] for _ in searches]
  wanted: dict[int, Prefix] = {}

  def go_on(i, completions):
    try:
      wanted[i] = searches[i].send(completions)
    except StopIteration as stop:
      found[i] = stop.value

  for i in range(len(searches)):
    go_on(i, None)
  while wanted:
    now, wanted = wanted, {}
    for i, completions in complete(now).items():
      go_on(i, completions)
  return found


def _share(completions: Sequence[Completion]) -> float:
  return sum(one.is_right for one in completions) / len(completions)


def _node(completions: Sequence[Completion]) -> _Node:
  distinct = dict.fromkeys(one for one in completions if not one.is_right)
  return _Node(_share(completions), list(distinct))


def _value(
    node: _Node, tokens: int, total: int, alpha: float, beta: float, length_scale: float,
    exploration: float,
) -> float:
  return (alpha ** (1 - node.share) * beta ** (tokens / length_scale)
          + exploration * math.sqrt(total) / (1 + node.visits))


def _labelled_by(
    nodes: Mapping[tuple[int, ...], _Node], chosen: Completion, ends: Sequence[int]
) -> Labelled:
  labels = [nodes[chosen.ids[:end]].share if chosen.ids[:end] in nodes else None
            for end in ends[:-1]]
  return Labelled(chosen.ids, chosen.is_right, [*labels, float(chosen.is_right)])


def _check_tree(alpha, beta, length_scale, exploration, max_searches, max_completions):
  for name, value in (("alpha", alpha), ("beta", beta)):
    if not 0 < value <= 1:
      raise ValueError(f"{name}: got {value}, allowed: above 0 to 1")
  if not length_scale > 0:
    raise ValueError(f"length_scale: got {length_scale}, allowed: above 0")
  if not exploration >= 0:
    raise ValueError(f"exploration: got {exploration}, allowed: 0 or more")
  for name, value in (("max_searches", max_searches), ("max_completions", max_completions)):
    if value < 1:
      raise ValueError(f"{name}: got {value}, allowed: 1 or more")
