"""Accuracy, avg@n, pass@k and maj@k with 95% confidence intervals.

An estimate is a dict {value, low, high, n}: n problems were counted, [low, high] is the interval.
Shares, including pass@k and maj@k, get Wilson's interval or its extension in `share`, which stay
valid at 0 and 1; means of other values, such as lengths, get a percentile bootstrap over problems.
A sample whose score is None could not be scored: it is excluded, not counted as wrong.

Not here: sampling and scoring (`evaluation/evaluator.py`), and the equality of answers
(`rewards/answer.py`).
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
import math
from typing import Any

import numpy as np
from scipy import special

Estimate = dict[str, float | int]  # value, low, high, n

_RESAMPLED = 2**15  # numbers of a bootstrap that are drawn at once
_ACCURACIES = (
    "greedy", "greedy_unboxed", "search_accuracy", "search_vote", "search_weighted_vote",
    "search_best", "search_any")
_Z_95 = 1.959963984540054  # 97.5% quantile of the normal distribution


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
  """Probability that k of the samples, drawn without replacement, include a correct one.

  1 - C(n - c, k) / C(n, k): the unbiased estimator of Chen et al. 2021,
  https://arxiv.org/abs/2107.03374, eq. (1); exact integers, rounded once. n=4, c=1, k=2 -> 0.5.

  Raises:
    ValueError: not 0 <= num_correct <= num_samples, or not 1 <= k <= num_samples.
  """
  if not 0 <= num_correct <= num_samples:
    raise ValueError(
        f"num_correct: got {num_correct}, allowed: 0 to {num_samples}, the number of samples")
  if not 1 <= k <= num_samples:
    raise ValueError(f"k: got {k}, allowed: 1 to {num_samples}, the number of samples")
  subsets = math.comb(num_samples, k)
  return (subsets - math.comb(num_samples - num_correct, k)) / subsets


def counts_up_to(n: int) -> list[int]:
  """The k of pass@k and maj@k: 1, 2, 4 and so on below n, and n. 6 -> [1, 2, 4, 6]."""
  return [2**i for i in range(n.bit_length()) if 2**i < n] + [n]


def maj_at_k(
    answers: Sequence[Hashable | None], is_correct: Sequence[bool | None], k: int) -> float:
  """Probability that the most frequent answer of the first k samples is correct.

  Samples without an answer (None) do not vote. Ties are broken uniformly, so a tie between a right
  and a wrong answer counts 0.5: the value does not depend on the order of the k samples. Without
  any vote it is 0.

  Args:
    answers: normalised answer of each sample: equal answers count as one.
    is_correct: whether each sample is correct; None if unknown, which excludes its vote.
    k: how many samples vote, 1..len(answers).

  Raises:
    ValueError: lengths differ, or k is out of range.
  """
  if len(answers) != len(is_correct):
    raise ValueError(
        f"is_correct: got {len(is_correct)} verdicts, allowed: {len(answers)}, one for each answer")
  if not 1 <= k <= len(answers):
    raise ValueError(f"k: got {k}, allowed: 1 to {len(answers)}, the number of samples")
  votes = {}
  for answer, correct in zip(answers[:k], is_correct[:k]):
    if answer is not None and correct is not None:
      votes.setdefault(answer, []).append(bool(correct))
  most = max(map(len, votes.values()), default=0)
  winners = [verdicts for verdicts in votes.values() if len(verdicts) == most]
  # Samples of one answer share a verdict; if the verifier contradicts itself, their mean.
  return float(np.mean([np.mean(verdicts) for verdicts in winners])) if winners else 0.0


def maj_of_parts(
    answers: Sequence[Hashable | None], is_correct: Sequence[bool | None], k: int
) -> float | None:
  """The mean of maj@k over the first k samples, the next k and so on.

  It is unbiased, because samples are exchangeable, and has less variance than the first k alone.
  Parts in which nothing could be scored are excluded; None if those are all. Arguments as for
  `maj_at_k`.
  """
  parts = [slice(start, start + k) for start in range(0, len(answers) - k + 1, k)]
  values = [maj_at_k(answers[part], is_correct[part], k) for part in parts
            if any(verdict is not None for verdict in is_correct[part])]
  return float(np.mean(values)) if values else None


def has_votes(
    problems: Iterable[tuple[Sequence[Hashable | None], Sequence[bool | None]]]) -> bool:
  """Whether maj@k is meaningful: a verifier may accept texts without an answer to vote for.

  Args:
    problems: the answers and the verdicts of each problem's samples, as for `maj_at_k`.
  """
  samples = [pair for answers, verdicts in problems for pair in zip(answers, verdicts, strict=True)]
  return (any(answer is not None for answer, _ in samples)
          or not any(verdict for _, verdict in samples))


def proportion(successes: Sequence[bool | None]) -> Estimate:
  """Share of successes with Wilson's 95% interval; None entries are excluded.

  Wilson 1927: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n). 8 of 10 -> [0.490, 0.943].
  Without any entry the value is NaN and the interval [0, 1].
  """
  return share([float(bool(success)) for success in successes if success is not None])


def share(values: Sequence[float]) -> Estimate:
  """Mean over problems of numbers in [0, 1], such as the share of each problem's samples.

  The interval is Wilson's for n / ρ problems, the effective number of samples in clusters (Kish
  1965; for intervals of shares Korn and Graubard 1998, Dean and Pagano 2015): ρ is the variance
  between problems over p (1 - p), its maximum. Both include the z² pseudo observations, half of
  them 1, that Wilson's interval itself adds (a sum of squares of z²/4), so that the interval never
  has width 0: values of only 0 and 1 give Wilson's own. 0, 0.5, 0.5, 1 -> [0.177, 0.823].

  Args:
    values: one number for each problem.
  """
  n = len(values)
  if not n:
    return dict(value=math.nan, low=0.0, high=1.0, n=0)
  value = math.fsum(values) / n
  if set(values) <= {0.0, 1.0}:
    return _wilson(value, n, n)
  prior = _Z_95**2 / 4
  squares = math.fsum((one - value) ** 2 for one in values)
  return _wilson(value, n * (n * value * (1.0 - value) + prior) / (squares + prior), n)


def share_of(value: float, n: int) -> Estimate:
  """`proportion` of n problems of which a share `value` is right; n * value may be fractional."""
  return _wilson(value, n, n)


def _wilson(value: float, count: float, n: int) -> Estimate:
  """Wilson's interval of a share of `count` problems, which may be fractional; `n` is recorded."""
  scale = 1.0 + _Z_95**2 / count
  center = (value + _Z_95**2 / (2 * count)) / scale
  half = _Z_95 * math.sqrt(value * (1.0 - value) / count + _Z_95**2 / (4 * count**2)) / scale
  # The ends are exactly 0 and 1 without failures or successes; rounding must not cross `value`.
  low, high = min(max(center - half, 0.0), value), max(min(center + half, 1.0), value)
  return dict(value=value, low=low, high=high, n=n)


def mean(values: Sequence[float], *, seed: int = 0, num_resamples: int = 2000) -> Estimate:
  """Mean over problems with a 95% percentile-bootstrap interval.

  Problems are resampled, not samples within them: the interval generalises to other problems of the
  same kind. It is seeded: the same values give the same interval. Equal values give an interval of
  width 0; use `share` for numbers in [0, 1]. Without any value, all is NaN.

  Args:
    values: one number for each problem.
    seed: of the resampling.
    num_resamples: number of bootstrap resamples.
  """
  values = np.asarray(values, dtype=np.float64)
  if not len(values):
    return dict(value=math.nan, low=math.nan, high=math.nan, n=0)
  means = [values[draws].mean(axis=1) for draws in _resamples(len(values), seed, num_resamples)]
  low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
  return dict(value=float(values.mean()), low=float(low), high=float(high), n=len(values))


def _resamples(n: int, seed: int, count: int) -> Iterator[np.ndarray]:
  """`count` draws of n indices with replacement, int[rows, n], in parts that fit the cache."""
  rng, rows = np.random.default_rng(seed), max(1, _RESAMPLED // n)
  for start in range(0, count, rows):
    yield rng.integers(n, size=(min(rows, count - start), n))


def mean_share(is_so: Sequence[Sequence[bool | None]]) -> Estimate:
  """Mean over problems of the share of each one's samples with a property.

  None entries are excluded, and problems with no other entries. The interval is that of `share`:
  the samples of one problem are not independent.
  """
  known = [[entry for entry in row if entry is not None] for row in is_so]
  return share([float(np.mean(row)) for row in known if row])


def mean_pass_at_k(is_correct: Sequence[Sequence[bool | None]], k: int) -> Estimate:
  """Mean pass@k over problems.

  Problems with fewer than k scored samples are excluded. The interval is that of `share`.

  Args:
    is_correct: for each problem, whether each of its samples is correct, None where not scored.
    k: as in `pass_at_k`.
  """
  scored = [[correct for correct in row if correct is not None] for row in is_correct]
  return share([pass_at_k(len(row), sum(map(bool, row)), k) for row in scored if len(row) >= k])


def mean_maj_at_k(
    answers: Sequence[Sequence[Hashable | None]], is_correct: Sequence[Sequence[bool | None]],
    k: int,
) -> Estimate:
  """Mean maj@k (`maj_of_parts`) over problems, with lists of answers and verdicts for each.

  Problems where no sample could be scored are excluded. The interval is that of `share`. The value
  is NaN if samples are right but none votes (`has_votes`): there is no majority.
  """
  problems = list(zip(answers, is_correct, strict=True))
  values = [maj_of_parts(*one, k) for one in problems] if has_votes(problems) else []
  return share([value for value in values if value is not None])


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
  """Mean over problems of second - first, both in [0, 1], with a 95% interval.

  It is the adjusted Wald interval of Bonett and Price 2012 (J. Educ. Behav. Stat. 37), for any
  differences: with one of +1 and one of -1 added, mean ± z sqrt((mean of squares - mean²) / (n +
  2)). It has a positive width at the edges: no difference in n problems is 0 ± 2.77 / (n + 2). If
  only the second solves 2 of 10 problems -> 0.2 [-0.146, 0.479].

  Args:
    first: one number for each problem.
    second: of the same problems.
  """
  differences = [b - a for a, b in zip(first, second, strict=True)]
  n = len(differences)
  if not n:
    return dict(value=math.nan, low=-1.0, high=1.0, n=0)
  value, center = math.fsum(differences) / n, math.fsum(differences) / (n + 2)
  squares = (math.fsum(one * one for one in differences) + 2) / (n + 2)
  half = _Z_95 * math.sqrt((squares - center**2) / (n + 2))
  return dict(value=value, low=max(center - half, -1.0), high=min(center + half, 1.0), n=n)


def paired_mean_difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
  """The same for numbers that are not shares, such as lengths: a bootstrap over problems."""
  return mean([b - a for a, b in zip(first, second, strict=True)])


def over_seeds(estimates: Sequence[Estimate], *, is_share: bool) -> dict[str, Any]:
  """Combines the estimates of runs that differ in their seed.

  The interval covers two: Student's over the seeds, mean ± t s / sqrt(number of seeds), and the
  mean of the runs' own intervals, since all have the same problems. So its width is positive even
  if all runs have the same value, and it generalises to other seeds and other problems.

  Args:
    estimates: of each run; those with the value None or NaN are excluded.
    is_share: whether the values are in [0, 1].

  Returns:
    value (the mean), low, high, n (problems), std (between seeds; 0 of one), values (of each run).
  """
  known = [one for one in estimates if one["value"] is not None and not math.isnan(one["value"])]
  values = [one["value"] for one in known]
  if not values:
    return dict(value=None, low=None, high=None, n=0, std=None, values=[])
  value, std = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
  half = 0.0
  if len(values) > 1:
    half = float(special.stdtrit(len(values) - 1, 0.975)) * std / math.sqrt(len(values))
  of_runs = [[one[side] if one[side] is not None else one["value"] for one in known]
             for side in ("low", "high")]
  low = min(value - half, float(np.mean(of_runs[0])))
  high = max(value + half, float(np.mean(of_runs[1])))
  if is_share:
    low, high = max(low, 0.0), min(high, 1.0)
  return dict(value=value, low=low, high=high, n=min(one["n"] for one in known), std=std,
              values=values)


def is_share(name: str) -> bool:
  """Whether an evaluation metric is a share of problems, shown in percent."""
  is_accuracy = name.startswith(("avg@", "pass@", "maj@")) or name in _ACCURACIES
  return is_accuracy or name.endswith("_fraction")


def with_current_names(estimates: dict[str, Estimate]) -> dict[str, Estimate]:
  """Metrics of a task under their current names: an old `mean` next to `pass@8` is `avg@8`."""
  samples = [name.removeprefix("pass@") for name in estimates if name.startswith("pass@")]
  new = f"avg@{max(map(int, samples))}" if "mean" in estimates and samples else "mean"
  return {new if name == "mean" else name: estimate for name, estimate in estimates.items()}


def with_current_summary(summary: dict[str, Any]) -> dict[str, Any]:
  """The content of summary.json, also of older versions, with current names of metrics."""
  return summary | {"stages": [
      stage | {"evaluation": {task: with_current_names(estimates)
                              for task, estimates in stage["evaluation"].items()}}
      for stage in summary["stages"]]}


def outcome_efficiency(
    first_right: Sequence[int | None], lengths: Sequence[int]) -> Estimate:
  """Mean over completions of the share of tokens up to the first right solution; 0 without one.

  xi_O of https://arxiv.org/abs/2412.21187: 39 of 901 tokens -> 0.0433. Text after the first right
  solution is overthinking.

  Args:
    first_right: tokens up to the end of the first right solution of each completion, or None.
    lengths: tokens of each completion.
  """
  return share([first / length if first else 0.0
                for first, length in zip(first_right, lengths, strict=True)])


def tokens_per_right(
    lengths: Sequence[int], is_right: Sequence[bool], *, seed: int = 0,
    num_resamples: int = 2000) -> Estimate:
  """The cost of a right answer: tokens of all completions over the number of right ones.

  The interval is a bootstrap over completions; an end that is not finite, as with too many
  resamples without a right answer, is NaN, and so is the value without any right answer.
  """
  lengths, right = np.asarray(lengths, np.float64), np.asarray(is_right, np.float64)
  if not right.any():
    return dict(value=math.nan, low=math.nan, high=math.nan, n=len(right))
  costs = []
  for draws in _resamples(len(right), seed, num_resamples):
    tokens, counts = lengths[draws].sum(axis=1), right[draws].sum(axis=1)
    costs.append(np.divide(tokens, counts, out=np.full(len(draws), math.inf), where=counts > 0))
  # Between inf and inf is NaN.
  ends = np.quantile(np.concatenate(costs), [0.025, 0.975], method="inverted_cdf")
  low, high = (float(end) if np.isfinite(end) else math.nan for end in ends)
  return dict(value=float(lengths.sum() / right.sum()), low=low, high=high, n=len(right))
