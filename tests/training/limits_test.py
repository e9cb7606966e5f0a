"""The largest values of fields (`config.AtMost`): what is above is refused, by its full path."""

import dataclasses
import re
import typing

import pytest

from rlreason import config
from rlreason.config import AtMost
from rlreason.training.settings.kinds import STAGES
from rlreason.training.settings.recipe import Recipe, from_config
from tests.training import tiny_run


def limits(hint, path=(), seen=()):
  """(path of fields, limit) of every `AtMost` below a type; the path ends where the type does."""
  notes = getattr(hint, "__metadata__", ())
  for note in notes:
    if isinstance(note, AtMost):
      yield path, note.limit
  if dataclasses.is_dataclass(hint) and hint not in seen:
    for field in dataclasses.fields(hint):
      yield from limits(
          config._hints(hint)[field.name], (*path, (hint, field.name)), (*seen, hint))
  else:
    for inner in (hint.__origin__,) if notes else typing.get_args(hint):
      yield from limits(inner, path, seen)


FOUND = sorted(
    {(path[-1], limit) for root in (Recipe, *STAGES.values()) for path, limit in limits(root)},
    key=str)


def test_all_of_them_are_found():
  names = {(cls.__name__, name) for (cls, name), _ in FOUND}
  assert len(names) == len(FOUND) > 30
  assert {("Recipe", "reward_workers"), ("NewModel", "width"), ("SFTStage", "length"),
          ("EvaluationConfig", "num_samples"), ("LoRAConfig", "rank"),
          ("ChainConfig", "rounds")} <= names


@pytest.mark.parametrize(
    "field, limit", FOUND, ids=[f"{cls.__name__}.{name}" for (cls, name), _ in FOUND])
def test_a_value_above_a_limit_is_refused(field, limit):
  cls, name = field
  hint = config._hints(cls)[name]
  got = limit + 1 if isinstance(limit, int) else 2 * limit
  assert config.convert(hint, limit, f"config.a.{name}") == limit
  message = rf"config\.a\.{name}: got {got}\b.*, allowed: at most {limit} \(\w.*\)"
  with pytest.raises(ValueError) as error:
    config.convert(hint, got, f"config.a.{name}")
  assert re.fullmatch(message, str(error.value))


@pytest.mark.parametrize("path", [
    "reward_workers", "reward_timeout", "model.num_layers", "task.problems.max_words",
    "evaluation.answer_tokens", "sft.batch_size", "sft.num_examples", "rl.group_size"])
def test_the_whole_path_of_a_field_is_named(path):
  recipe = tiny_run.make_config()
  with recipe.unlocked():
    recipe.update_from_flattened_dict({path: 2**30})
  with pytest.raises(ValueError, match=rf"^config\.{path}: got 1073741824\b.*, allowed: at most "):
    from_config(recipe)
