"""Those who do long work tell how far it is."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import tracking
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.training.metrics import CompilationCounter


class Recorder:
  """A display that keeps what it is told."""

  def __init__(self):
    self.works, self.programs = [], []

  @contextlib.contextmanager
  def work(self, work):
    done = []
    self.works.append((*work, done))
    yield lambda more, metrics=None: done.append(more if metrics is None else (more, metrics))

  def program(self, name, sizes):
    self.programs.append((name, dict(sizes)))


@contextlib.contextmanager
def recorded():
  recorder = Recorder()
  with tracking.shown_by(recorder):
    yield recorder
  assert tracking.display() is None


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_programs_tell_their_memory_and_are_compiled_once(mode):
  layout = make_layout(ParallelConfig(mode=mode, data=2))
  params = layout.put_state({"policy": jnp.ones((8, 16))})
  score = layout.compile_rows(lambda params, rows, key: rows @ params["policy"])
  rows = [layout.put_rows(np.ones((count, 8), np.float32)) for count in (4, 4, 6)]
  counter, compilations = CompilationCounter(), []
  with recorded() as recorder:
    for some in rows:
      before = counter.count
      jax.block_until_ready(score(params, some, None))
      compilations.append(counter.count - before)
  counter.close()
  assert compilations == [1, 0, 1]
  assert [(work, total) for work, total, *_ in recorder.works] == [("compiling scoring", None)] * 2
  # On each of two devices: the kernel; its rows of 8 numbers, and those of 16 that result.
  assert [(name, sizes["parameters"], sizes["rows"]) for name, sizes in recorder.programs] == [
      ("scoring", 4 * 128, 4 * 2 * (8 + 16)), ("scoring", 4 * 128, 4 * 3 * (8 + 16))]


def test_rows_are_told_of_one_by_one():
  with recorded() as recorder:
    assert list(tracking.each("tokenising", 3)) == [0, 1, 2]
    assert next(tracking.each("looking", 5)) == 0
  assert recorder.works == [("tokenising", 3, "", [1, 1, 1]), ("looking", 5, "", [])]


def test_results_in_the_place_of_arguments_count_once():
  layout = make_layout(ParallelConfig(data=1))
  state = layout.put_state({"policy": jnp.ones(1000)})
  update = layout.compile_update(
      lambda state, batch, key, replicas: ({"policy": state["policy"] + batch.sum()}, {}), state)
  with recorded() as recorder:
    update(state, layout.put_rows(np.ones((4, 5), np.float32)), jax.random.key(0))
  ((name, sizes),) = recorder.programs
  assert name == "update" and sizes["parameters"] == 4 * 1000 and 4 * 20 <= sizes["rows"] < 300


def test_programs_run_as_they_are_where_nobody_asks():
  layout = make_layout(ParallelConfig(data=1))
  sampler = layout.compile_sampler(lambda params, rows, key: rows * params)
  np.testing.assert_array_equal(
      sampler(2.0, layout.put_rows(np.ones((2, 3), np.float32)), None), 2 * np.ones((2, 3)))
