"""Samples the experience of steps, also while earlier steps still train.

With n steps ahead, the sampling of step k starts when step k - n does, with the current parameters,
in a separate thread: it samples and computes rewards while the steps in between train. n = 0
samples when a step asks, with its own parameters. Where several processes run together there is no
thread, as all have to start their programs in the same order: a sampling is made at once when it
could start. A sampling depends only on its parameters, the
position of the data and its key, so that a resumed run repeats samplings that were not yet used,
with the same results: a checkpoint keeps the position of the first of them and the parameters of
each.
"""

from collections import deque
from concurrent import futures
import queue
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlreason import processes
from rlreason.models import lora
from rlreason.training.stages.base import Stage
from rlreason.types import Key, Params

_DRAWN_WITH = ("policy", "value_head")  # of the parameters; a separate critic is not needed
_SECONDS_TO_LEAVE = 10.0  # to wait for an unneeded draw before it is abandoned


class _Draw(NamedTuple):
  step: int
  params: Params
  result: futures.Future  # (sampled experience, position of the data after it)


class Draws:
  """The samplings of a stage, in order of its steps; `close` ends the thread, if there is one."""

  def __init__(self, stage: Stage, key: Key):
    """Does not start sampling yet.

    Args:
      stage: the stage whose `draw` and data are used; nothing else may read its data.
      key: of the stage; step k draws with that folded with k.
    """
    self._stage, self._key, self._ahead = stage, key, stage.draws_ahead
    self._position: dict[str, Any] | None = None  # of the data; None: the current one
    # The parameters of the last n steps, without frozen ones, for samplings to come.
    self._params: deque[Params] = deque(maxlen=self._ahead)
    self._frozen: Params = {}
    self._waiting: deque[_Draw] = deque()
    self._orders: queue.SimpleQueue = queue.SimpleQueue()
    self._thread: threading.Thread | None = None
    self._is_closed = threading.Event()
    self.seconds_waited = 0.0  # for the last requested sampling

  def begin(self, step: int, params: Params, kept: list[Params] | None = None):
    """Starts the samplings that steps before the next one would have started.

    Args:
      step: the next one.
      params: those before it, on the devices.
      kept: `kept_params` after the previous step; None: the stage is at its first step.
    """
    if not self._ahead:
      return
    self._position = self._now()
    trained, frozen = lora.split(_drawn_with(params))
    # An update donates its parameters, including the frozen ones.
    self._frozen = _copy(frozen)
    if kept is None:
      kept = [_copy(trained)] * self._ahead
    if processes.count() == 1:
      self._thread = threading.Thread(target=self._work, name="draws", daemon=True)
      self._thread.start()
    for i, one in enumerate(kept):
      self._params.append(one)
      self._order(step + i, one)

  def next(self, step: int, params: Params) -> Any:
    """The experience of step `step`; `params` are the parameters before it."""
    started = time.perf_counter()
    if not self._ahead:
      drawn = self._stage.draw(params, self._stage.data, jax.random.fold_in(self._key, step))
    else:
      now = _copy(lora.split(_drawn_with(params))[0])
      self._params.append(now)
      self._order(step + self._ahead, now)
      drawn, self._position = self._waiting.popleft().result.result()
    self.seconds_waited = time.perf_counter() - started
    return drawn

  def position(self) -> dict[str, Any]:
    """The position of the data before the first unused sampling."""
    return self._now() if self._position is None else self._position

  def kept_params(self) -> list[Params]:
    """The trained parameters of the next n samplings, in order."""
    return list(self._params)

  def shaped_as_kept(self, params: Params) -> list[Params]:
    """Trees with the shapes of `kept_params`, for these parameters of the state."""
    return [lora.split(_drawn_with(params))[0]] * self._ahead

  def wait(self):
    """Waits for running samplings; errors are raised when their step requests the result."""
    futures.wait([draw.result for draw in self._waiting])

  def close(self):
    """Ends the thread; one that is still sampling is abandoned after a while."""
    self._is_closed.set()
    if self._thread is not None:
      self._orders.put(None)
      self._thread.join(_SECONDS_TO_LEAVE)

  def _now(self) -> dict[str, Any]:
    return {} if self._stage.data is None else self._stage.data.get_state()

  def _order(self, step: int, params: Params):
    if step < self._stage.steps:
      draw = _Draw(step, lora.join(params, self._frozen), futures.Future())
      self._waiting.append(draw)
      if self._thread is None:
        draw.result.set_result(self._sample(draw))
      else:
        self._orders.put(draw)

  def _sample(self, draw: _Draw) -> tuple[Any, dict[str, Any]]:
    """The experience, and the position of the data after it."""
    key = jax.random.fold_in(self._key, draw.step)
    return self._stage.draw(draw.params, self._stage.data, key), self._now()

  def _work(self):
    failure = None
    while (draw := self._orders.get()) is not None and not self._is_closed.is_set():
      if failure is not None:
        draw.result.set_exception(failure)
        continue
      try:
        draw.result.set_result(self._sample(draw))
      except BaseException as error:  # for the step that requests it
        draw.result.set_exception(failure := error)


def _drawn_with(params: Params) -> Params:
  return {name: params[name] for name in _DRAWN_WITH if name in params}


def _copy(params: Params) -> Params:
  return jax.tree.map(jnp.copy, params)
