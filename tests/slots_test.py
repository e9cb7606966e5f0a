"""Slots: functions chosen by a config, their options, and flags that reach them."""

from collections.abc import Mapping
import dataclasses
import functools
import json
import pathlib
from typing import Literal

import numpy as np
import pytest

from rlreason import config as config_lib
from rlreason import commands, losses, records
from rlreason.algorithms import PolicyGradientConfig, presets
from rlreason.data.selections import problems
from rlreason.slots import Slot, import_function
from rlreason.training.settings import recipe as recipe_lib

TINY = pathlib.Path(__file__).parent / "tiny_experiment.py"


def scaled(x, mask, *, scale: float, power: int = 1, kind: Literal["sum", "none"] = "none",
           cap: float | None = None):
  """A slot's function: two arrays, a required option and three with defaults."""
  found = np.where(mask, scale * x**power, 0.0)
  found = found if cap is None else np.minimum(found, cap)
  return found.sum() if kind == "sum" else found


X, MASK = np.array([1.0, 2.0, 3.0]), np.array([True, False, True])


def test_arrays_go_by_name_and_options_are_bound():
  slot = Slot(scaled, {"scale": 2.0, "power": 2})
  assert slot.name == "scaled" and slot.arrays == ("x", "mask")
  # In any order, and what the function does not name it is not given.
  np.testing.assert_array_equal(slot(mask=MASK, other=None, x=X), [2.0, 0.0, 18.0])
  np.testing.assert_array_equal(Slot(scaled, {"scale": 2, "cap": 5.0})(x=X, mask=MASK), [2, 0, 5])
  assert Slot(scaled, {"scale": 2.0, "kind": "sum"})(x=X, mask=MASK) == 8.0


def test_a_slot_checks_what_it_is_offered():
  slot = Slot(scaled, {"scale": 1.0})
  slot.check(("mask", "x", "other"))
  with pytest.raises(ValueError, match=r"scaled: asks for \['mask'\], allowed: \['x', 'y'\]"):
    slot.check(("y", "x"))


def test_a_function_may_be_given_by_its_name():
  by_name = Slot("rlreason.losses:clipped_surrogate", {"clip_high": 0.28})
  assert by_name.function is losses.clipped_surrogate
  assert by_name == Slot(losses.clipped_surrogate, {"clip_high": 0.28})


def test_equal_slots_have_one_hash():
  """A config is a static argument of compiled functions."""
  slot = Slot(scaled, {"scale": 1.0, "power": 2})
  assert hash(slot) == hash(Slot(scaled, {"power": 2, "scale": 1.0}))
  assert slot == Slot(scaled, {"power": 2, "scale": 1.0})
  assert slot != Slot(scaled, {"scale": 1.0}) and slot != Slot(losses.kl_estimate)
  assert len({PolicyGradientConfig(), PolicyGradientConfig()}) == 1
  options = {"scale": 1.0}
  kept = Slot(scaled, options)
  options["scale"] = 3.0
  assert kept.options["scale"] == 1.0  # a later change of the dict does not reach it


def of_all_kinds(
    values, *, factor: float = 1.0, words: tuple[str, ...] = (),
    parts: Mapping[str, float] | None = None, kind: Literal["a", "b"] = "a",
):
  return factor, words, parts, kind, values


def test_options_of_every_kind():
  options = {"factor": 2, "words": ["x", "y"], "parts": {"p": 0.5}, "kind": "b"}
  slot = Slot(of_all_kinds, options)
  assert hash(slot) == hash(Slot(of_all_kinds, options))
  assert slot(values=[3], other=[4]) == (2, ("x", "y"), {"p": 0.5}, "b", [3])
  assert Slot(of_all_kinds, {"parts": None})(values=1) == (1.0, (), None, "a", 1)


@pytest.mark.parametrize("name, value, allowed", [
    ("factor", "2", "float"), ("factor", True, "float"), ("words", "x", "tuple"),
    ("parts", 0.5, "Mapping"), ("kind", "c", "'a', 'b'")])
def test_values_of_other_types_are_refused(name, value, allowed):
  message = f"options of of_all_kinds: {name}: got {value!r} .*, allowed: .*{allowed}"
  with pytest.raises(ValueError, match=message):
    Slot(of_all_kinds, {name: value})


@pytest.mark.parametrize("function, options, message", [
    (scaled, {}, r"options of scaled: got \[\], allowed: .*'scale'.*, with \['scale'\]"),
    (scaled, {"scale": 1.0, "x": 2.0}, r"options of scaled: got \['scale', 'x'\], allowed: "),
    (scaled, {"scale": "1"}, "options of scaled: scale: got '1' .str., allowed: float"),
    (scaled, {"scale": True}, "options of scaled: scale: got True .bool., allowed: float"),
    (scaled, {"scale": None}, "options of scaled: scale: got None .NoneType., allowed: float"),
    (scaled, {"scale": 1.0, "power": 2.0}, "power: got 2.0 .float., allowed: int"),
    (scaled, {"scale": 1.0, "kind": "mean"}, "kind: got 'mean' .*, allowed: 'sum', 'none'"),
    (scaled, {"scale": 1.0, "cap": "2"}, r"cap: got '2' .str., allowed: float or None"),
    (3, {}, "function: got 3, allowed: a function, or its 'package.module:function'"),
    (functools.partial(scaled, scale=1.0), {}, "function: got functools.partial.*, allowed: a fu"),
    ("clipped_surrogate", {}, "function: got 'clipped_surrogate', allowed: 'package.module:functi"),
    ("rlreason.losses:", {}, "function: got 'rlreason.losses:', allowed: 'package.module:fun"),
    ("rlreason.lost:gae", {}, "function: 'rlreason.lost:gae' cannot be imported"),
    ("rlreason.losses:lost", {}, "'rlreason.losses:lost', but rlreason.losses has no function"),
    ("rlreason.losses:__name__", {}, "has no function '__name__'"),
])
def test_a_mistake_is_named(function, options, message):
  with pytest.raises(ValueError, match=message) as error:
    Slot(function, options)
  assert "\n" not in str(error.value)


def test_a_function_whose_module_has_moved_keeps_its_old_name():
  old = "rlreason.data.selection:hard_questions"
  slot = Slot(old, {"min_pass_rate": 0.25})
  assert slot.function is problems.hard_questions
  new = records.with_defaults(config_lib.to_dict(slot), slot)
  assert new["function"] == "rlreason.data.selections.problems:hard_questions"
  record = {"function": old, "options": {"min_pass_rate": 0.25}}  # of a run of that time
  assert records.with_defaults(record, slot) == new


def test_import_function():
  assert import_function("rlreason.losses.returns:gae") is losses.gae


@pytest.mark.parametrize("fields, message", [
    (dict(advantage=Slot(losses.clipped_surrogate)), "advantage: clipped_surrogate: asks for"),
    (dict(policy_loss=Slot(losses.group_normalized)), "policy_loss: group_normalized: asks for"),
    (dict(correction=Slot(losses.group_normalized)), "correction: group_normalized: asks for"),
    (dict(selection=Slot(losses.reinforce)), "selection: reinforce: asks for"),
    (dict(policy_loss=Slot(losses.kl_cov)), "selection: got None with policy_loss=kl_cov"),
    (dict(selection=Slot(losses.select_kl_cov)), "got select_kl_cov with policy_loss=clipped_surr"),
])
def test_a_function_in_the_wrong_slot_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    PolicyGradientConfig(**fields)


# From configs.


@dataclasses.dataclass(frozen=True)
class Holder:
  slot: Slot = Slot(scaled, {"scale": 2.0, "power": 3})
  other: Slot | None = None


def test_what_a_mapping_leaves_out_stays_as_in_the_default():
  build = lambda **fields: config_lib.build(Holder, fields)
  assert build() == build(slot={}) == Holder()
  assert build(slot={"options": {"scale": 5}}).slot == Slot(scaled, {"scale": 5})
  twice = build(slot={"function": f"{__name__}:scaled"})
  assert twice.slot.options == {"scale": 2.0, "power": 3}
  assert build(slot=Slot(losses.reinforce)).slot == Slot(losses.reinforce)
  assert build(other=None).other is None
  assert build(other={"function": losses.reinforce}).other == Slot(losses.reinforce)
  with pytest.raises(ValueError, match="config.other.function: missing"):
    build(other={"options": {}})  # there is no default whose function it could be
  with pytest.raises(ValueError, match="config.slot.option: unknown field of Slot, did you mean"):
    build(slot={"option": {}})
  with pytest.raises(ValueError, match="config.slot.options.power: got 1.5 .float., allowed: int"):
    build(slot={"options": {"scale": 1.0, "power": 1.5}})
  with pytest.raises(ValueError, match="config.slot.function: got 3, allowed: a function"):
    build(slot={"function": 3})


def test_a_written_config_builds_the_same_again():
  config = PolicyGradientConfig(
      policy_loss=Slot(losses.gspo, {"clip_low": 1e-3}),
      correction=Slot(losses.truncated_importance, {"level": "sequence"}))
  written = json.loads(json.dumps(config_lib.to_dict(config)))
  assert written["policy_loss"] == {
      "function": "rlreason.losses.policy:gspo", "options": {"clip_low": 1e-3}}
  assert config_lib.build(PolicyGradientConfig, written) == config


def load_algorithm(path, *overrides):
  """The algorithm of the last stage, after flags such as `policy_loss.options.clip_high=0.28`."""
  pairs = [("rl.algorithm." + field, value)
           for field, _, value in (override.partition("=") for override in overrides)]
  return recipe_lib.from_config(commands.load_config(str(path), pairs)).stages[-1].algorithm


@pytest.fixture(name="preset_file")
def preset_file_fixture(tmp_path):
  """An experiment whose algorithm is a preset."""
  file = tmp_path / "experiment.py"
  file.write_text(
      "from rlreason.algorithms import presets\n"
      "from tests import tiny_experiment\n"
      "def get_config():\n"
      "  config = tiny_experiment.get_config()\n"
      "  with config.ignore_type():\n"
      "    config.rl.algorithm = presets.grpo(minibatch_size=8)\n"
      "    config.rl.group_size = 2\n"
      "  return config\n")
  return file


def test_flags_reach_the_options_of_a_default():
  changed = load_algorithm(TINY, "policy_loss.options.clip_high=0.28")
  assert changed.policy_loss == Slot(losses.clipped_surrogate, {"clip_high": 0.28})
  assert dataclasses.replace(changed, policy_loss=Slot(losses.clipped_surrogate)) == (
      load_algorithm(TINY))
  other = load_algorithm(TINY, "policy_loss.function=rlreason.losses:gspo")
  assert other.policy_loss == Slot(losses.gspo)
  corrected = load_algorithm(
      TINY, "correction.function=rlreason.losses:truncated_importance", "correction.options.cap=3",
      "recompute_log_probs=True")
  assert corrected.correction == Slot(losses.truncated_importance, {"cap": 3})
  with pytest.raises(ValueError, match="config.rl.algorithm.policy_loss: options of clipped_surro"):
    load_algorithm(TINY, "policy_loss.options.clip=0.28")


def test_a_preset_is_a_section_whose_fields_flags_reach(preset_file):
  preset = load_algorithm(preset_file)
  assert preset.advantage == Slot(losses.group_normalized, {"ddof": 1, "epsilon": 1e-6})
  assert preset.kl_estimator == "k3" and preset.minibatch_size == 8
  replaced = functools.partial(dataclasses.replace, preset)
  assert load_algorithm(preset_file, "kl_coef=0.5") == replaced(kl_coef=0.5)
  assert load_algorithm(preset_file, "advantage.options.ddof=0") == replaced(
      advantage=Slot(losses.group_normalized, {"ddof": 0, "epsilon": 1e-6}))
  assert load_algorithm(preset_file, "policy_loss.options.clip_high=0.28") == replaced(
      policy_loss=Slot(losses.clipped_surrogate, {"clip_high": 0.28}))
  assert load_algorithm(
      preset_file, "advantage.function=rlreason.losses:leave_one_out", "advantage.options={}"
  ) == replaced(advantage=Slot(losses.leave_one_out))
  # A slot that the preset leaves empty.
  assert load_algorithm(
      preset_file, "correction.function=rlreason.losses:truncated_importance",
      "recompute_log_probs=True"
  ) == replaced(correction=Slot(losses.truncated_importance), recompute_log_probs=True)


def test_a_preset_in_a_config_without_a_file():
  config = commands.load_config(str(TINY))
  preset = presets.dapo(minibatch_size=8)
  with config.unlocked(), config.ignore_type():
    config.rl.algorithm = preset
    config.rl.group_size = 2
  assert recipe_lib.from_config(config).stages[-1].algorithm == preset
