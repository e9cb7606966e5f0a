"""A kind of stage in one module: settings, check and maker. The policy shrinks, for tests."""

import dataclasses
from typing import Literal

import jax
import optax

from rlreason.algorithms.base import init_state
from rlreason.training.settings.base import StageConfig
from rlreason.training.stages import base, policies


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShrinkStage(StageConfig):
  """Multiplies the parameters by a factor in every step."""

  kind: Literal["shrink"]
  name: str
  steps: int
  factor: float
  start: str = "previous"


def check(setup, stage):
  del setup
  if not 0 < stage.factor < 1:
    raise ValueError(f"factor: got {stage.factor}, allowed: above 0 and below 1")


def make(setup, stage, policy, seed, pool, folder):
  del pool, folder
  policy, _ = policies.own_policy(setup, policy, seed, has_reference=False)
  state = setup.layout.put_state(init_state({"policy": policy}, optax.identity()))

  def learn(state, number, drawn, key):
    del number, drawn, key
    params = jax.tree.map(lambda x: x * stage.factor, state.params)
    return base.StepOutput(state.replace(params=params), {}, {}, tokens=1)

  return base.Stage(stage.name, stage.steps, state, None, learn)
