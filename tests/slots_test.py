"""Slots: functions and the options they are given."""

from collections.abc import Mapping
from typing import Literal

import pytest

from rlreason.slots import Slot


def scale(
    values, *, factor: float = 1.0, words: tuple[str, ...] = (),
    parts: Mapping[str, float] | None = None, kind: Literal["a", "b"] = "a",
):
  return factor, words, parts, kind, values


def test_options_of_every_kind():
  options = {"factor": 2, "words": ["x", "y"], "parts": {"p": 0.5}, "kind": "b"}
  slot = Slot(scale, options)
  assert hash(slot) == hash(Slot(scale, options))
  assert slot(values=[3], other=[4]) == (2, ("x", "y"), {"p": 0.5}, "b", [3])
  assert Slot(scale, {"parts": None})(values=1) == (1.0, (), None, "a", 1)


@pytest.mark.parametrize("name, value, allowed", [
    ("factor", "2", "float"), ("factor", True, "float"), ("words", "x", "tuple"),
    ("parts", 0.5, "Mapping"), ("kind", "c", "'a', 'b'")])
def test_values_of_other_types_are_refused(name, value, allowed):
  message = f"options of scale: {name}: got {value!r}, allowed: .*{allowed}"
  with pytest.raises(ValueError, match=message):
    Slot(scale, {name: value})


def test_unknown_options_and_arrays_are_refused():
  with pytest.raises(ValueError, match="options of scale: got .'facto'., allowed: .'factor', 'ki"):
    Slot(scale, {"facto": 1.0})
  with pytest.raises(ValueError, match="scale: asks for .'values'., allowed: .'rows'."):
    Slot(scale).check(("rows",))
