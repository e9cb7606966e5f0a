"""The loops of the sampler: the cache grows in segments, and rows that have ended are dropped.

Each loop has a name in profiles and in the text of the compiled program, `scope`; `turns` says how
often each turns if all completions have the same length.
"""

from rlreason.sampling.options import SamplingOptions

FIRST_SEGMENT = 32  # tokens
_GROWTH = 4
_SHRINKAGE = 4  # of the rows of a group; a smaller one needs more compiled loops
# 1 / 8 of the groups of a queue is refilled at once: single prompts prefill too slowly.
REFILLED = 8


def num_slots(capacity: int) -> int:
  """Number of slots of the cache: the newest token needs none."""
  return max(capacity - 1, 1)


def lengths(capacity: int) -> list[int]:
  """The sequence of cache lengths for `capacity` tokens (1 or more)."""
  needed = num_slots(capacity)
  found = [min(FIRST_SEGMENT, needed)]
  while found[-1] < needed:
    found.append(min(found[-1] * _GROWTH, needed))
  return found


def lengths_from(length: int, capacity: int) -> list[int]:
  """The sequence of cache lengths for `capacity` tokens, starting at `length`."""
  return [other for other in lengths(capacity) if other >= length]


def row_budgets(group_size: int) -> list[int]:
  """Numbers of rows of a group that successive loops continue, the last of them 0.

  16 -> [4, 1, 0]
  """
  budgets = [group_size // _SHRINKAGE]
  while budgets[-1]:
    budgets.append(budgets[-1] // _SHRINKAGE)
  return budgets


def scope(length: int, max_open_rows: int) -> str:
  """The name of the loop with this cache length, until few rows of every group are open."""
  return f"decode_{length}_above_{max_open_rows}"


def queue_scopes(length: int) -> tuple[str, str]:
  """Of the loop over refills with this cache length, and of the one over tokens within it."""
  return f"refill_{length}", f"decode_{length}_refilled"


def last_scope(kept: int) -> str:
  """Of the loop after the last refill, until few groups are open."""
  return f"decode_last_above_{kept}"


def turns(options: SamplingOptions, group_size: int, tokens: int) -> dict[str, float]:
  """How often each loop of `sample` turns if all completions have `tokens` tokens.

  The first loop of each cache length then has all rows, and those with fewer rows none. The first
  token of a row is drawn before the loops.
  """
  sequence, before = lengths(options.max_new_tokens), 0
  budgets = row_budgets(group_size if len(sequence) > 1 else 1)
  found = {scope(sequence[-1], budget): 0.0 for budget in budgets}
  for length in sequence:
    found[scope(length, budgets[0])] = max(0.0, float(min(length, tokens - 1) - before))
    before = length
  return found


def queue_turns(
    options: SamplingOptions, prompts: int, groups: int, tokens: int) -> dict[str, float]:
  """How often each loop of `sample_queue` turns if all completions have `tokens` tokens.

  Args:
    options: of the sampler.
    prompts: of the queue, of one part.
    groups: of the part that are sampled at once.
    tokens: of a completion.
  """
  sequence = lengths(options.max_new_tokens)
  found, before, left = {}, 0, float(tokens - 1) * (prompts - groups) / groups
  for length in sequence[1:] or sequence:
    outer, inner = queue_scopes(length)
    is_last = length >= tokens - 1 or length == sequence[-1]
    refills = -(-(prompts - groups) // max(groups // REFILLED, 1)) if is_last else 1
    steps = left if is_last else min(left, float(length - before))
    found |= {outer: float(refills), inner: steps / max(refills, 1)}
    before, left = length, left - steps
  for number, kept in enumerate(row_budgets(groups)):
    found[last_scope(kept)] = float(tokens - 1) if not number else 0.0
  return found
