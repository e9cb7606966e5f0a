"""Tests of rlreason.training.experience: with which parameters steps are drawn, and when."""

import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from rlreason.training import experience
from rlreason.training.stages.base import Stage

KEY = jax.random.key(3)


class Data:
  """Counts what is taken."""

  def __init__(self):
    self.count = 0

  def get_state(self):
    return {"count": self.count}

  def set_state(self, state):
    self.count = state["count"]

  def __next__(self):
    self.count += 1
    return self.count


def make_stage(ahead, steps=6, draw=None):
  def record(params, data, key):
    return (next(data), float(params["policy"]["x"]), sorted(params),
            np.asarray(jax.random.key_data(key)).tolist())

  return Stage("a", steps, None, Data(), lambda *unused: None, draw or record, draws_ahead=ahead)


def params_of(step):
  return {"policy": {"x": np.float32(step)}, "value_head": {"w": np.ones(2, np.float32)},
          "critic": {"x": np.float32(0)}}


def run(draws, first, last):
  """What the steps draw, each with the parameters of its number, which the next step deletes."""
  found = []
  for step in range(first, last):
    params = jax.tree.map(jax.numpy.asarray, params_of(step))
    found.append(draws.next(step, params))
    jax.tree.map(lambda x: x.delete(), params)  # as an update does that is given the state
  return found


@pytest.mark.parametrize("ahead", [0, 1, 2, 7])
def test_a_draw_has_the_parameters_of_so_many_steps_before(ahead):
  draws = experience.Draws(make_stage(ahead), KEY)
  draws.begin(0, params_of(0))
  drawn = run(draws, 0, 6)
  draws.close()
  assert [one[0] for one in drawn] == [1, 2, 3, 4, 5, 6]
  assert [one[1] for one in drawn] == [max(step - ahead, 0) for step in range(6)]
  names = ["policy", "value_head"] if ahead else ["critic", "policy", "value_head"]
  assert all(one[2] == names for one in drawn)
  assert [one[3] for one in drawn] == [
      np.asarray(jax.random.key_data(jax.random.fold_in(KEY, step))).tolist() for step in range(6)]


@pytest.mark.parametrize("ahead", [0, 1, 2, 7])
@pytest.mark.parametrize("stopped", [0, 1, 3, 5])
def test_a_run_that_goes_on_draws_the_same(ahead, stopped):
  whole = experience.Draws(make_stage(ahead), KEY)
  whole.begin(0, params_of(0))
  expected = run(whole, 0, 6)
  whole.close()
  before = experience.Draws(make_stage(ahead), KEY)
  before.begin(0, params_of(0))
  assert run(before, 0, stopped) == expected[:stopped]
  position, kept = before.position(), before.kept_params()
  assert position == {"count": stopped} and len(kept) == ahead
  kept = jax.tree.map(np.array, kept)
  template = before.shaped_as_kept(params_of(0))
  assert jax.tree.map(np.shape, kept) == jax.tree.map(np.shape, template)
  before.close()
  stage = make_stage(ahead)
  stage.data.set_state(position)
  after = experience.Draws(stage, KEY)
  after.begin(stopped, params_of(stopped), kept)
  assert run(after, stopped, 6) == expected[stopped:]
  after.close()


def test_draws_go_on_while_a_step_learns():
  begun, may_end = [], threading.Event()

  def draw(params, data, key):
    del params, key
    begun.append(next(data))
    if begun[-1] == 2:
      may_end.wait(60)
    return begun[-1]

  draws = experience.Draws(make_stage(1, draw=draw), KEY)
  draws.begin(0, params_of(0))
  assert draws.next(0, params_of(0)) == 1
  while begun != [1, 2]:  # the second draw is under way, and nobody has asked for it
    time.sleep(0.001)
  assert draws.position() == {"count": 1}
  may_end.set()
  draws.wait()
  assert draws.next(1, params_of(1)) == 2
  draws.close()


def test_what_a_draw_raises_its_step_raises():
  def draw(params, data, key):
    if next(data) == 2:
      raise ValueError("no verifier")
    return params, key

  draws = experience.Draws(make_stage(2, draw=draw), KEY)
  draws.begin(0, params_of(0))
  draws.next(0, params_of(0))
  draws.wait()
  with pytest.raises(ValueError, match="no verifier"):
    draws.next(1, params_of(1))
  draws.wait()  # for those behind it too: nothing hangs
  draws.close()


def test_a_draw_that_hangs_does_not_hold_the_run(monkeypatch):
  monkeypatch.setattr(experience, "_SECONDS_TO_LEAVE", 0.01)
  may_end = threading.Event()
  draws = experience.Draws(make_stage(1, draw=lambda *unused: may_end.wait(60)), KEY)
  draws.begin(0, params_of(0))
  draws.close()
  may_end.set()


def test_no_draw_of_a_step_that_never_comes():
  taken = SimpleNamespace(count=0)

  def draw(params, data, key):
    del params, key
    taken.count = next(data)

  draws = experience.Draws(make_stage(4, steps=2, draw=draw), KEY)
  draws.begin(0, params_of(0))
  run(draws, 0, 2)
  draws.wait()
  draws.close()
  assert taken.count == 2
