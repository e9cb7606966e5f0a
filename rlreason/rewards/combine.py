"""A weighted, named sum of rewards.

Every reward has a name, a weight and its own values, also where its weight is 0. A reward function
of the user's comes as a Python callable, which runs in this process as the user's own code, or from
a config as "package.module:function", which runs in the killable workers, one row at a time.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import importlib
import inspect
import math
import numbers
import typing
from typing import Any, Literal, NamedTuple

from absl import logging

from rlreason.rewards import control
from rlreason.rewards import exploration
from rlreason.rewards import format as formats
from rlreason.rewards import learned
from rlreason.rewards import length
from rlreason.rewards import pool as pools
from rlreason.rewards import restart
from rlreason.rewards import style
from rlreason.rewards import verifier as verifiers

# f(prompts, completions, **columns: list) -> one number or None (could not be scored) for each row
RewardFunction = Callable[..., Sequence[float | None]]

# Of every rollout, beside the task's columns: generated tokens, those before the first box, whether
# the length limit ended the completion, the index of its prompt, and the tags that this ends with.
ROLLOUT_COLUMNS = ("tokens", "reasoning_tokens", "truncated", "group", "opened")
VERDICT_COLUMN = "is_right"  # of the part "verifier": whether it scores at least 1; None: unknown
# What a built-in reward may read; its other keyword-only parameters are options.
_READ = (*ROLLOUT_COLUMNS, VERDICT_COLUMN, restart.START_COLUMN, learned.SCORE_COLUMN)
BUILT_IN = {  # beside "verifier", which the task chooses
    "arora_length": length.arora_length_reward,
    "exploration": exploration.exploration_reward,
    "finished": formats.finished_reward,
    "format": formats.format_reward,
    "kimi_length": length.kimi_length_reward,
    "l1_length": length.l1_length_reward,
    "l1_max_length": length.l1_max_length_reward,
    "learned": learned.learned_reward,
    "language": style.language_reward,
    "overlong": length.overlong_reward,
    "random": control.random_reward,
    "repetition": style.repetition_reward,
    "restart": restart.restart_reward,
    "unfinished": formats.unfinished_reward,
}
_NAMES = ("verifier", *BUILT_IN)
_MAX_LOGGED = 5  # failures of reward functions


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardSpec:
  """One part of the reward.

  Attributes:
    name: a built-in reward ("verifier", or one of `BUILT_IN`), or any name with `function`.
    weight: factor in the sum; 0 computes and logs the reward without using it.
    function: a reward function, or "package.module:function"; None for a built-in.
    options: keyword arguments beside the columns, such as {"c": 1000} for exploration.
    is_judge: the function scores effort in [0, 1]; a failure or anything else counts as 0.5.
  """

  name: str
  weight: float = 1.0
  function: Callable[..., Any] | str | None = None
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  is_judge: bool = False

  def __post_init__(self):
    if not self.name:
      raise ValueError("a reward needs a name. Got: ''")
    if not math.isfinite(self.weight):
      raise ValueError(f"reward {self.name!r}: weight must be finite. Got: {self.weight!r}")
    if self.function is None and self.name not in _NAMES:
      raise ValueError(
          f"reward {self.name!r}: not built in ({', '.join(_NAMES)}), so it needs a function"
      )
    if isinstance(self.function, str):
      module, colon, function = self.function.partition(":")
      if not (colon and function.isidentifier() and module.replace(".", "_").isidentifier()):
        raise ValueError(
            f"reward {self.name!r}: function must be 'package.module:function'."
            f" Got: {self.function!r}"
        )
    if self.function is None and self.name in BUILT_IN:
      _check_built_in(self.name, self.options)


class RewardResult(NamedTuple):
  """Scores of B completions.

  Attributes:
    total: [B] the weighted sum, clipped; None where a part with a weight other than 0 is None.
    parts: reward name -> [B] its values, before weighting.
    counts: unscored (rows whose total is None) and, of this call, timeouts, crashes and errors of
      workers and judge_failures (scores replaced by 0.5).
  """

  total: list[float | None]
  parts: dict[str, list[float | None]]
  counts: dict[str, int]


def combine_rewards(
    specs: Sequence[RewardSpec],
    *,
    verifier: str | RewardFunction = "math",
    pool: pools.WorkerPool | None = None,
    clip_range: tuple[float, float] = (-10.0, 10.0),
) -> "CombinedReward":
  """Builds the reward of a run.

  Args:
    specs: the parts, each name once.
    verifier: what the part "verifier" is: a name of `verifier.VERIFIERS` (a task gives it) or a
      reward function. Its options are the fields of that verifier.
    pool: worker processes; None for the shared default pool.
    clip_range: of the total; [-10, 10] in RLSP.

  Raises:
    ValueError: no or repeated names, an unknown verifier, an option that is unknown or out of
      range, a part that asks for `is_right` without a part "verifier", or an empty clip range.
  """
  names = [spec.name for spec in specs]
  if not names or len(set(names)) != len(names):
    raise ValueError(f"rewards must have at least one part and each name once. Got: {names}")
  low, high = clip_range
  if not low < high:
    raise ValueError(f"clip_range must be (low, high) with low < high. Got: {clip_range!r}")
  if "verifier" not in names:
    _check_no_verdicts(specs)
  pool = pool or pools.default_pool()
  functions = {spec.name: _make_function(spec, verifier, pool) for spec in specs}
  return CombinedReward(tuple(specs), functions, pool, (low, high))


class CombinedReward:
  """Scores completions by all parts; made by `combine_rewards`.

  Counts of workers are differences of the pool's totals: exact while one thread uses the pool.
  """

  def __init__(self, specs, functions, pool, clip_range):
    self.specs = specs
    self.clip_range = clip_range
    self._functions = functions
    self._pool = pool

  def __call__(
      self, prompts: Sequence[Any], completions: Sequence[str], /, **columns: Sequence[Any]
  ) -> RewardResult:
    """Scores B completions.

    Args:
      prompts: [B] text or chat messages.
      completions: [B] texts.
      **columns: [B] lists: those of the task (`answer`, ...), and those of `ROLLOUT_COLUMNS` that a
        reward wants. Columns called `prompts`, `completions`, `self` or `is_right` are left out:
        the part "verifier" goes first, and the others find its verdicts in `is_right`.

    Raises:
      ValueError: a column or a reward function's result has another length than B, a reward is
        neither None nor a finite number, or a function of the config raised on every one of
        several rows; the reward is named.
    """
    count = len(completions)
    for name, column in (("prompts", prompts), *columns.items()):
      if len(column) != count:
        raise ValueError(f"column {name!r} has {len(column)} rows for {count} completions")
    columns = {name: column for name, column in columns.items()
               if name not in ("prompts", "completions", "self", VERDICT_COLUMN)}
    before = self._pool.counts
    parts, judge_failures = {spec.name: [] for spec in self.specs}, 0
    for spec in sorted(self.specs, key=lambda spec: spec.name != "verifier"):
      function = self._functions[spec.name]
      if spec.is_judge:
        parts[spec.name], failures = _call_judge(function, prompts, completions, columns)
        judge_failures += failures
      else:
        values = function(prompts, completions, **columns)
        parts[spec.name] = _check_values(spec.name, values, count)
      if spec.name == "verifier":
        columns[VERDICT_COLUMN] = [
            None if value is None else value >= 1.0 for value in parts["verifier"]]
    total = [self._total([values[row] for values in parts.values()]) for row in range(count)]
    after = self._pool.counts
    counts = {
        "unscored": total.count(None),
        "timeouts": after.timeouts - before.timeouts,
        "crashes": after.crashes - before.crashes,
        "errors": after.errors - before.errors,
        "judge_failures": judge_failures,
    }
    return RewardResult(total, parts, counts)

  def _total(self, values: list[float | None]) -> float | None:
    weighted = [(spec.weight, value) for spec, value in zip(self.specs, values) if spec.weight]
    if any(value is None for _, value in weighted):
      return None
    low, high = self.clip_range
    return min(high, max(low, math.fsum(weight * value for weight, value in weighted)))


def _make_function(
    spec: RewardSpec, verifier: str | RewardFunction, pool: pools.WorkerPool
) -> RewardFunction:
  options = dict(spec.options)
  if isinstance(spec.function, str):
    return _make_pool_function(spec.function, options, pool)
  if spec.function is not None:
    return functools.partial(_call_with_options, spec.function, options)
  if spec.name == "verifier":
    return _make_verifier(verifier, options, pool)
  function = BUILT_IN[spec.name]
  return functools.partial(_call_built_in, function, options, _option_names(function))


def _check_no_verdicts(specs: Sequence[RewardSpec]):
  """Raises ValueError if a part asks for the verdicts of a verifier, as there is none."""
  for spec in specs:
    function = spec.function or BUILT_IN[spec.name]
    function = _import(function) if isinstance(function, str) else function
    if VERDICT_COLUMN in inspect.signature(function).parameters:
      raise ValueError(
          f"reward {spec.name!r}: needs {VERDICT_COLUMN}, allowed: beside a part 'verifier', whose "
          "weight may be 0")


def _make_verifier(
    verifier: str | RewardFunction, options: dict[str, Any], pool: pools.WorkerPool
) -> RewardFunction:
  if callable(verifier):
    return functools.partial(_call_with_options, verifier, options)
  make = verifiers.find(verifier)
  _check_options("verifier", options, make)
  if "pool" in inspect.signature(make).parameters:
    options.setdefault("pool", pool)
  return make(**options)


def _call_with_options(function, options, prompts, completions, /, **columns):
  return function(prompts, completions, **{**columns, **options})


def _call_built_in(function, options, names, prompts, completions, /, **columns):
  """A column of the data set that is called like an option (`names`) is not that option."""
  kept = {name: column for name, column in columns.items() if name not in names}
  return function(prompts, completions, **kept, **options)


def _option_names(function: Callable[..., Any]) -> set[str]:
  """Keyword-only parameters that are no columns."""
  parameters = inspect.signature(function).parameters.values()
  return {parameter.name for parameter in parameters
          if parameter.kind == parameter.KEYWORD_ONLY and parameter.name not in _READ}


def _check_built_in(name: str, options: Mapping[str, Any]) -> None:
  _check_options(name, options, BUILT_IN[name])
  try:  # on nothing: it checks the range of its options itself
    BUILT_IN[name]([], [], **options, **{column: [] for column in _READ})
  except ValueError as error:
    raise ValueError(f"reward {name!r}: {error}") from error


def _check_options(name: str, options: Mapping[str, Any], function: Callable[..., Any]) -> None:
  """Built-in rewards take any column, so that a misspelt option would pass without a word."""
  parameters = inspect.signature(function).parameters.values()
  allowed = _option_names(function)
  required = {
      parameter.name for parameter in parameters
      if parameter.name in allowed and parameter.default is parameter.empty
  }
  unknown, missing = set(options) - allowed, required - set(options)
  if unknown or missing:
    raise ValueError(
        f"reward {name!r}: options must be of {sorted(allowed)}, with {sorted(required)}."
        f" Got: {sorted(options)}"
    )
  hints = typing.get_type_hints(function)
  for option, value in options.items():
    _check_option(f"reward {name!r}: {option}", value, hints[option])


def _check_option(where: str, value: Any, hint: Any) -> None:
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if hint in (int, float) and not is_number:
    raise ValueError(f"{where} must be a number. Got: {value!r}")
  if hint is bool and not isinstance(value, bool):
    raise ValueError(f"{where} must be True or False. Got: {value!r}")
  if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
    raise ValueError(f"{where} must be one of {typing.get_args(hint)}. Got: {value!r}")


def _make_pool_function(
    target: str, options: dict[str, Any], pool: pools.WorkerPool
) -> RewardFunction:
  _import(target)

  def score(prompts, completions, **columns):
    requests = [
        dict(
            prompt=prompts[row],
            completion=completions[row],
            columns={name: column[row] for name, column in columns.items()},
            options=options,
        )
        for row in range(len(completions))
    ]
    replies = pool.map(target, requests)
    _report_errors(target, [reply.message for reply in replies if reply.failure == "error"],
                   len(replies))
    return [reply.value for reply in replies]

  return score


def _report_errors(target: str, errors: list[str], count: int):
  """Shows what a function raised, and gives up on one that fails on all of several completions."""
  if len(errors) == count > 1:
    raise ValueError(f"reward function {target!r} failed on all {count} completions: {errors[0]}")
  if errors:
    logging.log_first_n(
        logging.WARNING, "reward function %r failed on %d of %d completions: %s", _MAX_LOGGED,
        target, len(errors), count, errors[0])


def _import(target: str) -> Callable[..., Any]:
  """Finds a misspelt name now, and not in the workers after the first rollout."""
  module, _, name = target.partition(":")
  try:
    function = vars(importlib.import_module(module)).get(name)
  except ImportError as error:
    raise ValueError(f"reward function {target!r} cannot be imported: {error}") from error
  if not callable(function):
    raise ValueError(f"reward function {target!r}: {module} has no function {name!r}")
  return function


def _call_judge(function, prompts, completions, columns) -> tuple[list[float], int]:
  """The judge's scores, and how many of them had to be replaced."""
  try:
    scores = list(function(prompts, completions, **columns))
  except Exception as error:  # it asks a service that can fail in any way; a run survives that
    logging.log_first_n(
        logging.WARNING, "a judge failed, and its scores are replaced: %r", _MAX_LOGGED, error)
    scores = []
  cleaned = exploration.clean_judge_scores(scores, len(completions))
  if len(scores) != len(cleaned):
    return cleaned, len(cleaned)
  return cleaned, sum(score != clean for score, clean in zip(scores, cleaned))


def _check_values(name: str, values: Sequence[Any], count: int) -> list[float | None]:
  values = list(values)
  if len(values) != count:
    raise ValueError(f"reward {name!r} returned {len(values)} values for {count} completions")
  return [_check_value(name, row, value) for row, value in enumerate(values)]


def _check_value(name: str, row: int, value: Any) -> float | None:
  if value is None:
    return None
  try:
    number = math.nan if isinstance(value, str) else float(value)
  except (TypeError, ValueError):
    number = math.nan
  if not math.isfinite(number):
    raise ValueError(
        f"reward {name!r} must return finite numbers or None. Got: {value!r} for row {row}"
    )
  return number
