"""Every setting takes effect: one table of all fields of all dataclasses that a config may hold.

For each field there is a row: another value than that of a base, and an observation that must
differ (`bases.Row`). The table is complete by construction, as the dataclasses are walked from
`Recipe`: a new field without a row fails here, and so does a new dataclass without a base.

To add a row: name the field under its class in the `ROWS` of `of_stages`, `of_algorithms` or
`of_runs`, give another value, and an observation: a function of an instance of the class. For a
stage it is most often a list of its trace, `of("generators")` (`fakes.stage_trace`); for a plain
dataclass the cheapest function that reads the field. A new dataclass needs a base in `bases.BASES`,
which holds the fields without a default.

What follows the table are literal values of what a mutation of one line would change.
"""

import dataclasses
import typing

import jax
import numpy as np
import pytest

from rlreason.training.recipe import Recipe
from tests.settings import bases, of_algorithms, of_runs, of_stages

ROWS = {**of_stages.ROWS, **of_algorithms.ROWS, **of_runs.ROWS}


def classes_in(hint):
  """The dataclasses that an annotation names."""
  if dataclasses.is_dataclass(hint):
    yield hint
  for argument in typing.get_args(hint):
    yield from classes_in(argument)


def reachable(cls, found=()):
  """`cls` and the dataclasses in it, each once."""
  if cls in found:
    return found
  found = (*found, cls)
  for hint in typing.get_type_hints(cls).values():
    for inner in classes_in(hint):
      found = reachable(inner, found)
  return found


def has_choice(cls, name):
  """Whether a field may hold more than one value: `kind` of a stage may not."""
  hint = typing.get_type_hints(cls)[name]
  return typing.get_origin(hint) is not typing.Literal or len(typing.get_args(hint)) > 1


FIELDS = [(cls, field.name) for cls in reachable(Recipe) for field in dataclasses.fields(cls)
          if field.init and has_choice(cls, field.name)]


def observe(cls, fields, seen):
  try:
    return seen(cls(**fields))
  except ValueError as error:  # it is refused
    return f"{type(error).__name__}: {error}"


def is_same(left, right):
  """Whether two observations are equal: trees of arrays, of texts, and of whatever else."""
  left, right = ((leaves, str(structure)) for leaves, structure in map(
      lambda tree: jax.tree.flatten(tree, is_leaf=lambda x: x is None), (left, right)))
  if left[1] != right[1]:
    return False
  return all(_is_equal(*pair) for pair in zip(left[0], right[0], strict=True))


def _is_equal(left, right):
  if isinstance(left, (np.ndarray, jax.Array)) or isinstance(right, (np.ndarray, jax.Array)):
    return np.array_equal(np.asarray(left), np.asarray(right))
  return left == right


def test_there_is_a_row_for_every_field_and_a_field_for_every_row():
  missing = [f"{cls.__name__}.{name}" for cls, name in FIELDS if name not in ROWS.get(cls, {})]
  assert not missing, f"add rows (see the docstring of this file): {', '.join(missing)}"
  unknown = [f"{cls.__name__}.{name}" for cls, rows in ROWS.items() for name in rows
             if (cls, name) not in FIELDS]
  assert not unknown


@pytest.mark.parametrize("cls, name", [
    pytest.param(cls, name, id=f"{cls.__name__}.{name}") for cls, name in FIELDS])
def test_another_value_makes_a_difference(cls, name):
  row = ROWS[cls][name]
  fields = bases.BASES[cls] | row.beside
  changed = fields | row.with_other | {name: row.other}
  default = next(field.default for field in dataclasses.fields(cls) if field.name == name)
  assert row.other is not fields.get(name, default)
  for seen in row.seen if isinstance(row.seen, tuple) else (row.seen,):
    first = observe(cls, fields, seen)
    assert is_same(first, observe(cls, fields, seen)), "not even the same twice"
    assert not is_same(first, observe(cls, changed, seen)), f"{name}={row.other!r} changes nothing"
