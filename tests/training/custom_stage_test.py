"""Stages of the user's own: what their function gets, and what is said of mistakes."""

import jax
import numpy as np
import optax
import pytest

import rlreason as rr
from rlreason.algorithms import base
from rlreason.training import stages as stages_lib
from rlreason.training.settings.recipe import from_config
from tests.settings import fakes
from tests.training import tiny_run


def make_one(stage, policy, *, shift: float = 1.0):
  """Adds a number to what is trained."""
  def learn(state, number, drawn, key):
    del number, drawn, key
    moved = jax.tree.map(lambda x: x + shift, state.params)
    return stages_lib.StepOutput(state.replace(params=moved), {}, {"seen": stage.steps}, tokens=1)

  state = base.init_state({"policy": policy}, optax.identity())
  return stages_lib.Stage("anything", 99, state, None, learn)


def make_nothing():
  return None


def make_no_policy():
  return stages_lib.Stage("a", 1, base.empty_state(), None, None)


def make_config(**make):
  config = tiny_run.make_config().to_dict()
  config.pop("optimizer")
  custom = dict(kind="custom", steps=2, make={"function": make_one} | make)
  return config | dict(stages=("custom",), custom=custom)


def make_stage(**make):
  recipe = from_config(make_config(**make))
  stage = recipe.stages[0]
  return recipe, stages_lib.make_stage(
      fakes.make_setup(recipe), stage, {"x": np.float32(1)}, 7, None, None)


@pytest.mark.parametrize("make", [
    dict(options={"shift": 0.5}), dict(function=f"{__name__}:make_one", options={"shift": 0.5})])
def test_a_function_makes_a_stage_of_the_name_and_the_steps_of_its_settings(make):
  recipe, made = make_stage(**make)
  assert (made.name, made.steps, made.trains) == ("custom", 2, True)
  output = made.step(made.state, 0, None, None)
  assert output.state.params["policy"]["x"] == 1.5 and output.host_metrics == {"seen": 2}
  assert recipe.stages[0].work(8) == "2 steps of make_one"


@pytest.mark.parametrize("make, message", [
    (dict(options={"shfit": 1.0}), r"config.custom.make.*options of make_one: got \['shfit'\]"),
    (dict(options={"shift": "a"}), "custom.make.options.shift: got 'a' .str., allowed: float"),
    (dict(function=lambda rollout: rollout), r"asks for \['rollout'\], allowed: \['folder',"),
    (dict(function="tests.training.custom_stage_test:no_such"), "has no function 'no_such'"),
    (dict(function=make_nothing), "config.custom.make: make_nothing returned a NoneType, allowed"),
    (dict(function=make_no_policy), "make_no_policy returned a Stage, allowed: a .* whose state")])
def test_a_mistake_is_one_line(make, message):
  with pytest.raises(ValueError, match=message) as error:
    make_stage(**make)
  assert "\n" not in str(error.value)


def test_a_stage_of_no_steps_or_from_nowhere_is_refused():
  config = make_config()
  config["custom"] |= {"steps": 0}
  with pytest.raises(ValueError, match="config.custom.steps: got 0"):
    rr.from_config(config)
  config["custom"] |= {"steps": 1, "start": "later"}
  config |= {"stages": ("custom", "later"), "later": config["custom"] | {"start": "previous"}}
  with pytest.raises(ValueError, match="custom.start: got 'later', which does not come before"):
    rr.from_config(config)
