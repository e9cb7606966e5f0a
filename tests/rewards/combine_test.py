"""Tests of rlreason.rewards.combine."""

import decimal
import fractions
import math

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rlreason import rewards
from rlreason.rewards import RewardSpec, combine_rewards
from rlreason.workers import pool as pools

RLSP = dict(which_box="first", no_box_score=-0.5)
RIGHT = "x" * 8000 + r"\boxed{1}"  # 2000 tokens of reasoning
WRONG = "x" * 8000 + r"\boxed{2}"
NO_BOX = "x" * 4000


def score(completions, specs, **options):
  combined = combine_rewards(specs, **options)
  count = len(completions)
  return combined(["p"] * count, completions, answer=["1"] * count)


def constant(value):
  return lambda prompts, completions, **columns: [value] * len(completions)


def rlsp_specs(judge=None):
  weight = 1.0 if judge is None else 0.8
  specs = [
      RewardSpec(name="verifier", weight=weight, options=RLSP),
      RewardSpec(name="exploration", weight=weight, options=dict(c=1000)),
  ]
  if judge is not None:
    specs.append(RewardSpec(name="judge", weight=0.2, function=judge, is_judge=True))
  return specs


def test_the_paper_s_numbers():
  result = score([RIGHT, WRONG, NO_BOX], rlsp_specs())
  assert result.total == pytest.approx([0.5, -0.5, -1.5])
  assert result.parts == {"verifier": [1.0, 0.0, -0.5], "exploration": [-0.5, -0.5, -1.0]}
  assert result.counts["unscored"] == 0
  # With the judge: 0.8 * (1 - 0.5) + 0.2 * 0.75 = 0.55.
  assert score([RIGHT], rlsp_specs(constant(0.75))).total == pytest.approx([0.55])


def test_columns_that_are_called_like_an_option_are_not_it():
  specs = [RewardSpec(name="format"), RewardSpec(name="random"), RewardSpec(name="finished"),
           RewardSpec(name="exploration", options=dict(c=1000)),
           RewardSpec(name="mine", function=constant(2.0))]
  columns = {name: ["x"] for name in ("style", "seed", "unit", "options", "function", "self",
                                      "names", "prompts", "completions", "probability")}
  result = combine_rewards(specs)(["p"], [RIGHT], truncated=[False], **columns)
  without = combine_rewards(specs)(["p"], [RIGHT], truncated=[False])
  assert result.parts == without.parts and result.parts["format"] == [1.0]


@pytest.mark.parametrize("value", [None, math.nan, 1.5, -1, "high"])
def test_a_failing_judge_counts_half(value):
  result = score([RIGHT], rlsp_specs(constant(value)))
  assert result.total == pytest.approx([0.5])  # 0.8 * 0.5 + 0.2 * 0.5
  assert result.parts["judge"] == [0.5]
  assert result.counts["judge_failures"] == 1


def test_a_judge_that_raises_counts_half():
  def judge(prompts, completions, **columns):
    raise ConnectionError("no network")

  result = score([RIGHT, WRONG], rlsp_specs(judge))
  assert result.parts["judge"] == [0.5, 0.5]
  assert result.counts["judge_failures"] == 2


def test_the_total_is_clipped():
  result = score([r"\boxed{1}"], rlsp_specs())
  assert result.parts["exploration"] == [-1000.0]
  assert result.total == [-10.0]
  assert score([r"\boxed{1}"], rlsp_specs(), clip_range=(-2000, 2000)).total == [-999.0]


def test_the_sum_is_linear_in_the_weights():
  values = {"a": [1.0, -2.0], "b": [0.25, 4.0]}
  functions = {name: lambda p, c, column=value, **_: column for name, value in values.items()}

  def total(a, b):
    weights = dict(a=a, b=b)
    specs = [RewardSpec(name=n, weight=weights[n], function=functions[n]) for n in values]
    return np.array(score(["", ""], specs).total)

  np.testing.assert_allclose(total(2, 3), 2 * total(1, 0) + 3 * total(0, 1))
  np.testing.assert_allclose(total(2, 3), [2.75, 8.0])


def test_none_spreads_to_the_total_unless_its_weight_is_0():
  def specs(weight):
    some = lambda prompts, completions, **columns: [None, 2]
    return [
        RewardSpec(name="some", weight=weight, function=some),
        RewardSpec(name="one", function=constant(1)),
    ]

  result = score(["", ""], specs(0.5))
  assert result.total == [None, 2.0] and result.counts["unscored"] == 1
  result = score(["", ""], specs(0))
  assert result.total == [1.0, 1.0] and result.counts["unscored"] == 0
  assert result.parts["some"] == [None, 2.0]  # computed and logged all the same


def test_built_in_rewards_by_name():
  specs = [
      RewardSpec(name="verifier"),
      RewardSpec(name="format", weight=0.1),
      RewardSpec(name="exploration", options=dict(c=4, unit="tokens")),
      RewardSpec(name="random", weight=0, options=dict(probability=1.0)),
  ]
  combined = combine_rewards(specs)
  columns = dict(answer=["1", "1"], reasoning_tokens=[8, 16])
  result = combined(["", ""], [r"\boxed{1}", "1"], **columns)
  assert result.parts == {
      "verifier": [1.0, 0.0], "format": [1.0, 0.0], "exploration": [-0.5, -0.25],
      "random": [1.0, 1.0],
  }  # fmt: skip
  assert result.total == pytest.approx([0.6, -0.25])
  assert combined([], [], answer=[], reasoning_tokens=[]).total == []


def test_verdicts_of_the_verifier_reach_the_other_parts():
  """Whatever the order of the parts, and the verifier's weight; None stays None."""
  seen = []

  def mine(prompts, completions, is_right, **columns):
    seen.append(is_right)
    return [0.0] * len(completions)

  def verifier(prompts, completions, **columns):
    assert "is_right" not in columns
    return [1.0, 0.5, None, -0.5]

  specs = [RewardSpec(name="mine", function=mine), RewardSpec(name="kimi_length"),
           RewardSpec(name="verifier", weight=0)]
  for order in (specs, specs[::-1]):
    result = combine_rewards(order, verifier=verifier)(
        [""] * 4, [""] * 4, tokens=[10, 20, 99, 30], group=[0] * 4, is_right=["of the data"] * 4)
    assert list(result.parts) == [spec.name for spec in order]
    assert result.parts["kimi_length"] == [0.5, 0.0, None, -0.5]
    assert result.total == [0.5, 0.0, None, -0.5]
  assert seen == [[True, False, None, False]] * 2


def test_verdicts_need_a_verifier(tmp_path, monkeypatch):
  def mine(prompts, completions, is_right=None, **columns):
    return [0.0] * len(completions)

  (tmp_path / "verdict_rewards.py").write_text("def mine(prompts, completions, is_right): pass")
  monkeypatch.syspath_prepend(str(tmp_path))
  for spec in (RewardSpec(name="mine", function=mine), RewardSpec(name="kimi_length"),
               RewardSpec(name="mine", function="verdict_rewards:mine"),
               RewardSpec(name="l1_length", options=dict(target=5)), RewardSpec(name="restart")):
    with pytest.raises(
        ValueError, match=f"reward '{spec.name}': is_right: got no verdicts, allowed: beside"):
      combine_rewards([spec, RewardSpec(name="format")])
    combine_rewards([spec, RewardSpec(name="verifier", weight=0)])


def test_the_task_names_its_verifier():
  combined = combine_rewards([RewardSpec(name="verifier", options=RLSP)], verifier="countdown")
  result = combined(["", ""], [r"\boxed{1+2}", "?"], numbers=[[1, 2]] * 2, target=[3, 3])
  assert result.total == [1.0, -0.5]
  own = combine_rewards([RewardSpec(name="verifier", weight=2)], verifier=constant(0.5))
  assert own([""], [""]).total == [1.0]


REWARDS = '''
import time

def mine(prompts, completions, answer, bonus=0, **columns):
  if completions[0] == "hang":
    time.sleep(1000)
  if completions[0] == "fail":
    raise KeyError("mine")
  return [bonus + float(answer[0])]

def not_a_number(prompts, completions, **columns):
  return [float("nan")]

def text(prompts, completions, **columns):
  return ["1.0"]
'''


def test_functions_of_a_config_run_in_workers(tmp_path, monkeypatch):
  (tmp_path / "config_rewards.py").write_text(REWARDS)
  monkeypatch.syspath_prepend(str(tmp_path))
  mine = RewardSpec(name="mine", function="config_rewards:mine", options=dict(bonus=1))
  judge = RewardSpec(name="judge", weight=0, function="config_rewards:mine", is_judge=True)
  nan = RewardSpec(name="broken", function="config_rewards:not_a_number")
  text = RewardSpec(name="text", function="config_rewards:text")
  with pools.WorkerPool(1, timeout_seconds=2) as pool:
    result = score(["a", "hang", "fail"], [mine], pool=pool)
    assert result.total == [2.0, None, None]
    assert result.counts == dict(
        unscored=2, timeouts=1, crashes=0, errors=1, not_finite=0, judge_failures=0)
    result = score(["a", "fail"], [judge], pool=pool)
    assert result.parts["judge"] == [1.0, 0.5] and result.counts["judge_failures"] == 1
    with pytest.raises(ValueError, match="'config_rewards:mine' failed on all 2 completions: KeyE"):
      score(["fail", "fail"], [mine], pool=pool)
    assert score(["fail"], [mine], pool=pool).total == [None]  # that may be the text's fault
    assert score(["fail", "fail"], [judge], pool=pool).parts["judge"] == [0.5, 0.5]
    result = score(["a"], [nan], pool=pool)
    assert result.total == [None] and result.counts["not_finite"] == 1
    with pytest.raises(ValueError, match="'broken': got nan, allowed: finite numbers or None"):
      score(["a", "b"], [nan], pool=pool)
    with pytest.raises(ValueError, match="'text': got '1.0' .*, allowed: finite numbers or None"):
      score(["a"], [text], pool=pool)


@pytest.mark.parametrize("options, message", [
    (dict(no_box_score="x"), "no_box_score: got 'x' .str., allowed: float"),
    (dict(no_box_score=0.5), "no_box_score: got 0.5, allowed: at most 0"),
    (dict(answer_tags=1), "answer_tags: got 1 .int., allowed: bool"),
    (dict(which_box="middle"), "which_box: got 'middle' .str., allowed: 'first', 'last'"),
])
def test_options_of_the_verifier_are_checked(options, message):
  with pytest.raises(ValueError, match=message):
    combine_rewards([RewardSpec(name="verifier", options=options)])


@pytest.mark.parametrize("value", [
    math.nan, -math.inf, 1e39, 10**400, np.float32("inf"), decimal.Decimal("sNaN")])
def test_one_value_that_is_not_finite_is_no_score(value):
  spec = RewardSpec(name="mine", function=lambda p, c, **_: [1, value, None])
  result = score(["", "", ""], [spec, RewardSpec(name="format")])
  assert result.parts["mine"] == result.total == [1.0, None, None]
  assert result.counts["not_finite"] == 1 and result.counts["unscored"] == 2


def test_failures_are_logged_five_times(caplog):
  combined = combine_rewards([
      RewardSpec(name=name, function=lambda p, c, **_: [1, math.nan]) for name in ("a", "b")])
  with caplog.at_level("WARNING"):
    for _ in range(20):
      combined(["", ""], ["", ""])
  messages = [record.getMessage() for record in caplog.records]
  assert len(messages) == 10
  assert sum("reward 'b' failed on 1 of 2" in text for text in messages) == 5
  assert messages[-1].endswith("got nan, allowed: finite numbers or None (not said again)")


def test_a_function_that_fails_on_everything_from_some_call_on_is_given_up():
  """A call where it fails on all of a few completions is chance; many in a row are not."""
  values = []
  combined = combine_rewards([RewardSpec(name="mine", function=lambda p, c, **_: values)])

  def call(*new):
    values[:] = new
    return combined(["p"] * len(new), [""] * len(new)).total

  for _ in range(2):
    assert call(None, math.nan) == [None, None]  # None is no failure
    for _ in range(9):
      assert call(math.nan, math.inf) == [None, None]
    assert call() == []
  assert call(1.0, math.nan) == [1.0, None]
  for _ in range(9):
    call(math.nan, math.nan)
  with pytest.raises(ValueError, match="reward 'mine' failed on every completion of 10 calls in a "
                                       "row, the last time: .*: got nan, allowed: "):
    call(math.nan, math.nan)


@pytest.mark.parametrize("is_judge", [False, True])
def test_a_function_that_fails_on_the_only_completion_of_each_call_is_given_up(
    tmp_path, monkeypatch, is_judge):
  (tmp_path / "config_rewards.py").write_text(REWARDS)
  monkeypatch.syspath_prepend(str(tmp_path))
  spec = RewardSpec(name="mine", function="config_rewards:mine", is_judge=is_judge)
  with pools.WorkerPool(1, timeout_seconds=60) as pool:
    combined = combine_rewards([spec], pool=pool)
    for _ in range(9):
      assert combined(["p"], ["fail"], answer=["1"]).total == [0.5 if is_judge else None]
    with pytest.raises(ValueError, match="function 'config_rewards:mine' failed on every completion"
                                         " of 10 calls in a row, the last time: KeyError: 'mine'"):
      combined(["p"], ["fail"], answer=["1"])


def test_a_judge_that_always_fails_is_given_up():
  def judge(prompts, completions, **columns):
    raise ConnectionError("no network")

  combined = combine_rewards([RewardSpec(name="mine", function=judge, is_judge=True)])
  for _ in range(9):
    assert combined(["p", "p"], ["", ""]).total == [0.5, 0.5]
  with pytest.raises(ValueError, match="judge 'mine' failed .*: ConnectionError: no network"):
    combined(["p", "p"], ["", ""])


def test_what_a_callable_raises_goes_through():
  def mine(prompts, completions, **columns):
    raise KeyError("mine")

  with pytest.raises(KeyError, match="mine"):
    score([""], [RewardSpec(name="mine", function=mine)])


@pytest.mark.parametrize("value", [
    "1.0", b"1", np.str_("1"), 1j, np.complex64(1), np.array([1.0]), np.array([[1.0]]), [1.0],
    np.array("1"), {"score": 1.0}, object()])
def test_what_is_no_number_is_refused(value):
  with pytest.raises(ValueError, match="'mine': got .* for row 0, allowed: finite numbers or None"):
    score([""], [RewardSpec(name="mine", function=constant(value))])
  result = score([""], rlsp_specs(constant(value)))  # a judge that gives such a thing has failed
  assert result.parts["judge"] == [0.5] and result.counts["judge_failures"] == 1


@pytest.mark.parametrize("values", ["1", b"1", None, 1.0, {0: 1.0}, {1.0}, np.array(1.0)])
def test_what_is_no_list_is_refused(values):
  with pytest.raises(ValueError, match="'mine': got no list of .*, allowed: one number or None"):
    score([""], [RewardSpec(name="mine", function=lambda p, c, **_: values)])


PLACES = '''
import numpy as np

def mine(prompts, completions, turns, **columns):
  value = {"list": [(np.int64(1), True), (["step", 0], 0.5), (("turn", turns[0] - 1), 1)],
           "empty": [], "number": 2.0, "none": None, "far": [(99, 1.0)], "nan": [(0, float("nan"))],
           "text": [("a", 1.0)]}
  return [value[completions[0]]]
'''


@pytest.mark.parametrize("in_worker", [False, True])
def test_a_reward_may_be_a_list_of_places(in_worker, tmp_path, monkeypatch):
  (tmp_path / "place_rewards.py").write_text(PLACES)
  monkeypatch.syspath_prepend(str(tmp_path))
  import place_rewards
  function = "place_rewards:mine" if in_worker else lambda prompts, completions, turns, **_: [
      place_rewards.mine([""], [text], [n])[0] for text, n in zip(completions, turns)]
  spec = RewardSpec(name="mine", weight=2.0, function=function)
  texts = ["list", "empty", "number", "none", "far", "nan"]
  with pools.WorkerPool(1) as pool:
    combined = combine_rewards([spec], pool=pool)
    result = combined([""] * 6, texts, turns=[3] * 6)
    assert result.parts["mine"] == [2.5, 0.0, 2.0, None, None, None]
    assert result.total == [5.0, 0.0, 4.0, None, None, None]
    assert result.placed == [[(1, 2.0), (3, 1.0), (("turn", 2), 2.0)], [], [], [], [], []]
    assert result.counts["not_finite"] == 1 and result.counts["errors"] == 1
    with pytest.raises(ValueError, match=r"got a list of other things than .where, num.*'a'"):
      combined([""], ["text"], turns=[1])
    with pytest.raises(ValueError, match="failed on all 2 completions: reward 'mine': got charac"):
      combine_rewards([spec], pool=pool)([""] * 2, ["far"] * 2, turns=[1] * 2)


@pytest.mark.parametrize("value", [
    [(0,)], [(0, 1, 2)], [0, 1], [("step", 1)], [(("word", 0), 1)], [(True, 1)], [(0.5, 1)],
    [((0, 1), 1)], (0, 1.0), [{"where": 0}], [(0, "1")], [(("step", "1"), 1)], [None]])
def test_lists_of_anything_else_are_refused(value):
  with pytest.raises(ValueError, match="'mine': got .* for row 0, allowed: finite numbers or None"):
    score([""], [RewardSpec(name="mine", function=constant(value))])


def test_a_potential_gives_lists():
  spec = RewardSpec(name="mine", function=constant(1.0), is_potential=True)
  with pytest.raises(ValueError, match="'mine': got 1.0 for row 0, allowed: lists of .where, n"):
    score(["a"], [spec])
  unscored = RewardSpec(name="mine", function=constant(None), is_potential=True)
  assert score(["a"], [unscored, RewardSpec(name="format")]).total == [None]
  with pytest.raises(ValueError, match="is_potential: got True for a built-in reward, allowed: b"):
    RewardSpec(name="format", is_potential=True)
  with pytest.raises(ValueError, match="is_potential: got True for a judge"):
    RewardSpec(name="mine", function=constant(1.0), is_potential=True, is_judge=True)
  with pytest.raises(ValueError, match="step_separator: got '', allowed: text"):
    RewardSpec(name="mine", function=constant(1.0), step_separator="")


def test_the_verdict_on_a_list_is_that_of_its_sum():
  result = combine_rewards([RewardSpec(name="verifier")], verifier=constant([(0, 0.5), (1, 0.5)]))(
      [""], ["ab"])
  assert result.verdicts == [True] and result.total == [1.0]


@pytest.mark.parametrize("value, number", [
    (True, 1.0), (np.bool_(False), 0.0), (3, 3.0), (np.int8(-2), -2.0), (np.float16(0.5), 0.5),
    (ml_dtypes.bfloat16(0.5), 0.5), (np.array(0.25), 0.25), (jnp.float32(0.75), 0.75),
    (decimal.Decimal("0.1"), 0.1), (fractions.Fraction(1, 4), 0.25)])
def test_numbers_of_all_kinds(value, number):
  result = score([""], [RewardSpec(name="mine", function=constant(value))])
  assert result.total == [number] and type(result.total[0]) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", [1, 2], object()])
def test_bad_values_name_the_reward(value):
  with pytest.raises(ValueError, match="reward 'mine': got .*, allowed: finite numbers or None"):
    score(["", ""], [RewardSpec(name="mine", function=constant(value))])


def test_numbers_of_any_library_are_floats():
  spec = RewardSpec(name="mine", function=lambda p, c, **_: np.array([1, 2], np.float32))
  assert score(["", ""], [spec]).parts == {"mine": [1.0, 2.0]}


@pytest.mark.parametrize(
    "specs, options, message",
    [
        ([], {}, r"rewards: got \[\], allowed: one part or more"),
        ([RewardSpec(name="format")] * 2, {}, "each name once"),
        ([RewardSpec(name="verifier")], dict(verifier="maths"), "'countdown', 'math'"),
        ([RewardSpec(name="verifier", options=dict(box="first"))], {}, "which_box"),
        ([RewardSpec(name="format")], dict(clip_range=(1, 1)), "clip_range"),
    ],
)
def test_impossible_settings(specs, options, message):
  with pytest.raises(ValueError, match=message):
    combine_rewards(specs, **options)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(name=""), "name: got '', allowed: the name"),
        (dict(name="formt"), "exploration, finished, format, judge, kimi_length"),
        (dict(name="format", weight=math.nan), "weight: got nan, allowed: a finite"),
        (dict(name="mine", function="my_pkg.my_reward"), "package.module:function"),
        (dict(name="mine", function="my_pkg:f()"), "package.module:function"),
        (dict(name="exploration"), "with .'c'."),
        (dict(name="exploration", options=dict(c=None)), "c: got None .NoneType., allowed: float"),
        (dict(name="random", options=dict(sed=1)), "'seed'"),
        (dict(name="random", options=dict(probability=7)), "probability: got 7, allowed: 0 to 1"),
        (dict(name="format", options=dict(style="boxes")), "style: got 'boxes' .*, allowed: "),
        (dict(name="arora_length"), "with .'a'."),
        (dict(name="kimi_length", options=dict(min_accuracy=2)), "min_accuracy: got 2, allowed"),
        (dict(name="overlong", options=dict(max_length=8, cache=9)), "cache: got 9, allowed: abov"),
        (dict(name="language", options=dict(alphabet="runes")), "alphabet: got 'runes' .*, allow"),
        (dict(name="restart", options=dict(start="wrong")), "restart_reward: got .*, allowed: .'b"),
        (dict(name="unfinished", options=dict(tokens=3)), "_reward: got .*, allowed: .'max_le"),
    ],
)
def test_impossible_specs(fields, message):
  with pytest.raises(ValueError, match=message):
    RewardSpec(**fields)


def test_rows_must_agree():
  combined = combine_rewards([RewardSpec(name="format")])
  with pytest.raises(ValueError, match="'answer': got 1 rows, allowed: 2"):
    combined(["", ""], ["", ""], answer=["1"])
  with pytest.raises(ValueError, match="'mine': got 1 values, allowed: 2"):
    score(["", ""], [RewardSpec(name="mine", function=lambda p, c, **_: [1])])


def test_specs_are_built_from_a_config():
  from rlreason import config

  spec = config.build(RewardSpec, dict(name="mine", function="my_pkg:my_reward", weight=0.2))
  assert spec == RewardSpec(name="mine", function="my_pkg:my_reward", weight=0.2)
  spec = config.build(RewardSpec, dict(name="exploration", options=dict(c=1000)))
  assert rewards.combine_rewards([spec])([""], ["x" * 8000]).total == [-0.5]


@pytest.mark.parametrize("target, message", [
    ("no_such_module:f", "cannot be imported: No module named 'no_such_module'"),
    ("math:no_such_function", "math has no function 'no_such_function'"),
    ("math:pi", "math has no function 'pi'"),
])
def test_a_function_that_is_not_there_is_found_at_once(target, message):
  with pytest.raises(ValueError, match=message):
    combine_rewards([RewardSpec(name="mine", function=target)])
