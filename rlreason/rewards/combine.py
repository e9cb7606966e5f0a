"""A weighted, named sum of rewards.

Every reward has a name, a weight and its own values, even if its weight is 0. A custom reward
function is either a Python callable, which runs in this process, or "package.module:function" in a
config, which runs in the killable workers, one row at a time.

For each completion a function returns a number, given at its end, or a list of (where, number),
each given at its position (`places.Where`).
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import functools
import inspect
import math
from typing import Any, NamedTuple

from rlreason import config as config_lib, slots, users
from rlreason.rewards import answer
from rlreason.rewards import control
from rlreason.rewards import exploration
from rlreason.rewards import format as formats
from rlreason.rewards import judge
from rlreason.rewards import learned
from rlreason.rewards import length
from rlreason.rewards import majority
from rlreason.rewards import places
from rlreason.rewards import process
from rlreason.rewards import restart
from rlreason.rewards import style
from rlreason.rewards import values as values_lib
from rlreason.rewards import verifier as verifiers
from rlreason.rewards import worker
from rlreason.workers import pool as pools

# f(prompts, completions, **columns: list) -> for each row a number, a list of (where, number), or
# None (could not be scored)
RewardFunction = Callable[..., Sequence[float | Sequence[tuple[places.Where, float]] | None]]
TURNS_COLUMN = "turns"
Verifier = str | RewardFunction  # of a task: a name of `verifier.VERIFIERS`, or a function

# Columns of every rollout, in addition to the task's: number of generated tokens, that before the
# answer and its text, whether the length limit ended the completion, the index of its prompt, the
# tags at the end of the prompt, and the number of the policy's turns.
ROLLOUT_COLUMNS = (
    "tokens", "reasoning_tokens", "reasoning_text", "truncated", "group", "opened", TURNS_COLUMN)
VERDICT_COLUMN = "is_right"  # of the part "verifier": whether it scores at least 1; None: unknown
# Columns that built-in rewards may read; their other keyword-only parameters are options.
READ_COLUMNS = (
    *ROLLOUT_COLUMNS, VERDICT_COLUMN, restart.START_COLUMN, learned.SCORE_COLUMN,
    process.STEPS_COLUMN, judge.ASK)
BUILT_IN = {  # in addition to "verifier", which the task chooses
    "arora_length": length.arora_length_reward,
    "exploration": exploration.exploration_reward,
    "finished": formats.finished_reward,
    "format": formats.format_reward,
    "judge": judge.judge_reward,
    "kimi_length": length.kimi_length_reward,
    "l1_length": length.l1_length_reward,
    "l1_max_length": length.l1_max_length_reward,
    "learned": learned.learned_reward,
    "language": style.language_reward,
    "majority": majority.majority_reward,
    "overlong": length.overlong_reward,
    "process": process.process_reward,
    "random": control.random_reward,
    "repetition": style.repetition_reward,
    "restart": restart.restart_reward,
    "unfinished": formats.unfinished_reward,
}
_NAMES = ("verifier", *BUILT_IN)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardSpec:
  """One part of the reward.

  Attributes:
    name: a built-in reward ("verifier", or one of `BUILT_IN`), or any name with `function`.
    weight: factor in the sum; 0 computes and logs the reward without using it.
    function: a reward function, or "package.module:function"; None for a built-in.
    options: keyword arguments other than the columns, such as {"c": 1000} for exploration.
    is_judge: the function scores effort in [0, 1]; a failure or anything else counts as 0.5. True
      for the built-in "judge".
    is_potential: the function returns lists of potentials Φ, each of the state after its position,
      0 before the first; the rewards are the differences γΦ' - Φ (`losses.potential_shaping`).
    step_separator: the text between the steps that the function's ("step", i) count; for the
      reward "process", and what else reads `step_scores`, the text that ends a step.
  """

  name: str
  weight: float = 1.0
  function: Callable[..., Any] | str | None = None
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  is_judge: bool = False
  is_potential: bool = False
  step_separator: str = "\n"

  def __post_init__(self):
    if not self.name:
      raise ValueError("name: got '', allowed: the name of a reward")
    if not math.isfinite(self.weight):
      raise ValueError(
          f"reward {self.name!r}: weight: got {self.weight!r}, allowed: a finite number")
    if self.function is None and self.name not in _NAMES:
      raise ValueError(
          f"reward {self.name!r}: function: got None, allowed: a function, as only these are built "
          f"in: {', '.join(_NAMES)}")
    if isinstance(self.function, str):
      slots.check_path(self.function)
    if self.function is None and self.name == "judge":
      object.__setattr__(self, "is_judge", True)
    if self.is_potential and (self.function is None or self.is_judge):
      raise ValueError(
          f"reward {self.name!r}: is_potential: got True for a "
          f"{'judge' if self.is_judge else 'built-in reward'}, allowed: beside a function of lists")
    if not self.step_separator:
      raise ValueError(f"reward {self.name!r}: step_separator: got '', allowed: text")
    if self.function is None and self.name in BUILT_IN:
      _check_built_in(self.name, self.options)


class RewardResult(NamedTuple):
  """Scores of B completions.

  Attributes:
    total: [B] the weighted sum, clipped; None where a part with a weight other than 0 is None.
      Lists count with their sum; potentials do not count.
    parts: reward name -> [B] its values, before weighting: the sum of a list, the last of
      potentials.
    counts: unscored (rows whose total is None) and, of this call, timeouts, crashes and errors of
      workers, not_finite (values that were NaN or infinite, which are None in `parts`) and
      judge_failures (scores replaced by 0.5). Errors include positions that a completion lacks.
    placed: [B] the part of the total given within the completion, weighted; None if no function
      gave a list.
    potentials: [B] the increases of the weighted potential and their positions; None without one.
  """

  total: list[float | None]
  parts: dict[str, list[float | None]]
  counts: dict[str, int]
  placed: list[list[places.Placed]] | None = None
  potentials: list[list[places.Placed]] | None = None

  @property
  def verdicts(self) -> list[bool | None]:
    """[B] whether each is right; None where the verifier gives no score, or there is none."""
    scores = self.parts.get("verifier", [None] * len(self.total))
    return list(map(values_lib.is_right, scores))


def combine_rewards(
    specs: Sequence[RewardSpec],
    *,
    verifier: Verifier = "math",
    pool: pools.WorkerPool | None = None,
    clip_range: tuple[float, float] = (-10.0, 10.0),
    ask: judge.Ask | None = None,
) -> "CombinedReward":
  """Builds the reward of a run.

  Args:
    specs: the parts, each name once.
    verifier: that of the part "verifier": a name of `verifier.VERIFIERS` (from the task) or a
      reward function, also as "package.module:function". Its options are the fields of that
      verifier, or arguments of the function.
    pool: worker processes; None for the shared default pool.
    clip_range: of the total; [-10, 10] in RLSP.
    ask: the local model of the part "judge", if it has one.

  Raises:
    ValueError: no or repeated names, an unknown verifier, an option that is unknown or out of
      range, a part that reads `is_right` without a part "verifier", or an empty clip range.
  """
  names = [spec.name for spec in specs]
  if not names or len(set(names)) != len(names):
    raise ValueError(f"rewards: got {names}, allowed: one part or more, each name once")
  low, high = clip_range
  if not low < high:
    raise ValueError(f"clip_range: got {clip_range!r}, allowed: (low, high) with low < high")
  if "verifier" not in names:
    _check_no_verdicts(specs)
  pool = pool or pools.default_pool()
  functions = {spec.name: _make_function(spec, verifier, pool) for spec in specs}
  if ask is not None:
    functions["judge"] = functools.partial(functions["judge"], **{judge.ASK: ask})
  return CombinedReward(tuple(specs), functions, pool, (low, high))


class CombinedReward:
  """Scores completions by all parts; made by `combine_rewards`.

  Counts of workers are differences of the pool's totals: exact while one thread uses the pool.

  Attributes:
    mark: the text before an answer, as the part "verifier" reads it; empty: a box.
  """

  def __init__(self, specs, functions, pool, clip_range):
    self.specs = specs
    self.clip_range = clip_range
    self.mark = next((answer.mark_of(spec.options) for spec in specs
                      if spec.name == "verifier" and spec.function is None), "")
    self._functions = functions
    self._watches = {spec.name: _make_watch(spec) for spec in specs}
    self._pool = pool

  def __call__(
      self, prompts: Sequence[Any], completions: Sequence[str], /, **columns: Sequence[Any]
  ) -> RewardResult:
    """Scores B completions.

    Args:
      prompts: [B] text or chat messages.
      completions: [B] texts.
      **columns: [B] lists: those of the task (`answer`, ...), and those of `ROLLOUT_COLUMNS` that a
        reward reads. Columns called `prompts`, `completions`, `self` or `is_right` are dropped: the
        part "verifier" runs first, and the others receive its verdicts as `is_right`.

    Raises:
      ValueError: a column or a reward function's result has another length than B, a reward is
        neither None, a number nor a list of (where, number), a function always fails
        (`values.FailureWatch`), or the built-in judge lacks a column; the reward is named.
        Exceptions of a callable pass through, except those of a judge.
    """
    count = len(completions)
    for name, column in (("prompts", prompts), *columns.items()):
      if len(column) != count:
        raise ValueError(f"column {name!r}: got {len(column)} rows, allowed: {count}, one for each "
                         "completion")
    columns = {name: column for name, column in columns.items()
               if name not in ("prompts", "completions", "self", VERDICT_COLUMN)}
    before = self._pool.counts
    given = {spec.name: None for spec in self.specs}
    for spec in sorted(self.specs, key=lambda spec: spec.name != "verifier"):
      given[spec.name] = self._call(spec, prompts, completions, columns)
      self._watches[spec.name].note(given[spec.name].failures)
      if spec.name == "verifier":
        columns[VERDICT_COLUMN] = list(map(values_lib.is_right, given["verifier"].scores))
    parts = {name: values.scores for name, values in given.items()}
    total = [self._total([scores[row] for scores in parts.values()]) for row in range(count)]
    after = self._pool.counts
    counts = {
        "unscored": total.count(None),
        "timeouts": after.timeouts - before.timeouts,
        "crashes": after.crashes - before.crashes,
        "errors": after.errors - before.errors + sum(one.misplaced for one in given.values()),
        "not_finite": sum(one.not_finite for one in given.values()),
        "judge_failures": sum(count - given[spec.name].failures.count(None)
                              for spec in self.specs if spec.is_judge),
    }
    return RewardResult(total, parts, counts, placed=self._placed(given, is_potential=False),
                        potentials=self._placed(given, is_potential=True))

  def _call(self, spec: RewardSpec, prompts, completions, columns) -> values_lib.Values:
    function, count = self._functions[spec.name], len(completions)
    if spec.is_judge:
      scores, failures = _call_judge(spec, function, prompts, completions, columns)
      return values_lib.Values(scores, [None] * count, failures, 0, 0)
    num_turns = columns.get(TURNS_COLUMN, [1] * count)
    locate = lambda row, where: places.locate(
        where, completions[row], num_turns=num_turns[row], separator=spec.step_separator)
    values = values_lib.read_values(
        spec.name, function(prompts, completions, **columns), count, locate)
    return values_lib.as_potentials(spec.name, values) if spec.is_potential else values

  def _total(self, values: list[float | None]) -> float | None:
    weighted = [(spec, value) for spec, value in zip(self.specs, values) if spec.weight]
    if any(value is None for _, value in weighted):
      return None
    low, high = self.clip_range
    return min(high, max(low, math.fsum(
        spec.weight * value for spec, value in weighted if not spec.is_potential)))

  def _placed(
      self, given: dict[str, values_lib.Values], is_potential: bool
  ) -> list[list[places.Placed]] | None:
    """The weighted list entries of each completion; None if no function gave a list."""
    lists = [(spec.weight, given[spec.name].placed) for spec in self.specs
             if spec.weight and spec.is_potential == is_potential]
    lists = [(weight, rows) for weight, rows in lists if any(row is not None for row in rows)]
    return [[(position, weight * number) for (weight, _), row in zip(lists, rows)
             for position, number in row or ()]
            for rows in zip(*(rows for _, rows in lists))] if lists else None


def _make_function(
    spec: RewardSpec, verifier: Verifier, pool: pools.WorkerPool
) -> RewardFunction:
  options = dict(spec.options)
  if isinstance(spec.function, str):
    return _make_pool_function(spec.function, options, pool)
  if spec.function is not None:
    return functools.partial(_call_with_options, spec.function, options)
  if spec.name == "verifier":
    return _make_verifier(verifier, options, pool)
  function = BUILT_IN[spec.name]
  names = slots.option_names(function, READ_COLUMNS)
  return functools.partial(_call_built_in, function, options, names)


def _check_no_verdicts(specs: Sequence[RewardSpec]):
  """Raises ValueError if a part reads the verdicts of a verifier, as there is none."""
  for spec in specs:
    function = spec.function or BUILT_IN[spec.name]
    function = _import(function) if isinstance(function, str) else function
    if VERDICT_COLUMN in inspect.signature(function).parameters:
      raise ValueError(
          f"reward {spec.name!r}: {VERDICT_COLUMN}: got no verdicts, allowed: beside a part "
          "'verifier', whose weight may be 0")


def _make_verifier(
    verifier: Verifier, options: dict[str, Any], pool: pools.WorkerPool
) -> RewardFunction:
  if callable(verifier):
    check_arguments(f"verifier {config_lib.to_dict(verifier)!r}", verifier, options)
    return functools.partial(_call_with_options, verifier, options)
  if not is_built_in(verifier):
    return _make_pool_function(verifier, options, pool)
  make = verifiers.find(verifier)
  slots.check_options(make, options, READ_COLUMNS)
  if "pool" in inspect.signature(make).parameters:
    options.setdefault("pool", pool)
  return make(**options)


def is_built_in(verifier: Verifier) -> bool:
  """Whether the verifier of a task is built in, not a custom function."""
  return isinstance(verifier, str) and ":" not in verifier


def default_options(spec: RewardSpec, verifier: Verifier) -> dict[str, Any]:
  """The default options of a part; arguments as for `verifier_columns`."""
  function = spec.function or BUILT_IN.get(spec.name)
  if function is None:
    function = verifiers.find(verifier) if is_built_in(verifier) else verifier
  function = _import(function) if isinstance(function, str) else function
  return config_lib.options_of(function, skipped=("pool", *READ_COLUMNS))


def verifier_columns(spec: RewardSpec, verifier: Verifier) -> set[str]:
  """The columns that rows must have for the part "verifier" of a task with this verifier.

  Args:
    spec: the part.
    verifier: of the task, as for `combine_rewards`.

  Raises:
    ValueError: there is no such verifier or function.
  """
  function = spec.function or (None if is_built_in(verifier) else verifier)
  if function is None:
    return verifiers.columns(verifier)
  function = _import(function) if isinstance(function, str) else function
  given = (*ROLLOUT_COLUMNS, VERDICT_COLUMN, learned.SCORE_COLUMN, process.STEPS_COLUMN,
           *spec.options)
  parameters = list(inspect.signature(function).parameters.values())[2:]  # prompts, completions
  return {parameter.name for parameter in parameters
          if parameter.default is parameter.empty and parameter.name not in given
          and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)}


def has_math_golds(spec: RewardSpec, verifier: Verifier) -> bool:
  """Whether the part "verifier" of the task reads gold answers as mathematics."""
  return spec.function is None and verifier == "math"


def _call_with_options(function, options, prompts, completions, /, **columns):
  with users.contained(f"reward function {getattr(function, '__qualname__', function)!r}"):
    return function(prompts, completions, **{**columns, **options})


def _call_built_in(function, options, names, prompts, completions, /, **columns):
  """Drops columns of the data set that have the name of an option (`names`)."""
  kept = {name: column for name, column in columns.items() if name not in names}
  return function(prompts, completions, **kept, **options)


def _check_built_in(name: str, options: Mapping[str, Any]) -> None:
  slots.check_options(BUILT_IN[name], options, READ_COLUMNS)
  try:  # with no rows: it checks the range of its options itself
    BUILT_IN[name]([], [], **options, **{column: [] for column in READ_COLUMNS})
  except ValueError as error:
    raise ValueError(f"reward {name!r}: {error}") from error


def _make_pool_function(
    target: str, options: dict[str, Any], pool: pools.WorkerPool
) -> RewardFunction:
  check_arguments(f"reward function {target!r}", _import(target), options)

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
    replies = pool.map(worker.row_target(target), requests)
    # A failed reply represents its row: its reason is reported with those of the whole call.
    return [reply if reply.failure else reply.value for reply in replies]

  return score


def check_arguments(where: str, function: Callable[..., Any], options: Mapping[str, Any]):
  """Raises ValueError if a custom function has no parameter with the name of an option."""
  try:
    parameters = inspect.signature(function).parameters.values()
  except ValueError:  # some functions of C have none
    return
  if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
    return
  allowed = [parameter.name for parameter in parameters][2:]  # prompts, completions
  if not set(options) <= set(allowed):
    raise ValueError(f"{where}: options: got {sorted(options)}, allowed: {allowed}")


def _import(target: str) -> Callable[..., Any]:
  """Reports a misspelt name now, not in the workers after the first rollout."""
  return slots.import_function(target, "reward function")


def _make_watch(spec: RewardSpec) -> values_lib.FailureWatch:
  kind = "judge" if spec.is_judge else "reward"
  label = f"{kind} {spec.name!r}"
  if isinstance(spec.function, str):
    label = f"{kind} function {spec.function!r}"
  # A judge's service can be unavailable for a while; a run continues.
  return values_lib.FailureWatch(label, may_never_score=spec.is_judge)


def _call_judge(
    spec: RewardSpec, function, prompts, completions, columns
) -> tuple[list[float], list[str | None]]:
  """The judge's scores, and the reasons where they had to be replaced."""
  count = len(completions)
  try:
    scores = list(function(prompts, completions, **columns))
  except Exception as error:  # it calls a service that can fail in any way
    if spec.function is None:  # the built-in one raises for its settings and columns only
      raise ValueError(f"reward {spec.name!r}: {error}") from error
    scores, reason = [], f"{type(error).__name__}: {error}"
  else:
    reason = f"it returned {len(scores)} scores for {count} completions"
  cleaned = exploration.clean_judge_scores(scores, count)
  if len(scores) != count:
    return cleaned, [reason] * count
  return cleaned, [_judge_failure(score, clean) for score, clean in zip(scores, cleaned)]


def _judge_failure(score: Any, clean: float) -> str | None:
  if isinstance(score, pools.Reply):
    return score.message or values_lib.FAILURES[score.failure]
  with contextlib.suppress(worker.NoNumber):
    if worker.to_number(score) == clean:
      return None
  return f"it returned {repr(score)[:200]}, allowed: a number from 0 to 1"
