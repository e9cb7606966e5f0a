"""Custom stages, made by a function that the config names."""

import pathlib

from rlreason import users
from rlreason.training.settings.custom import CustomStage
from rlreason.training.stages import base, policies
from rlreason.training.stages.base import Setup
from rlreason.types import Params
from rlreason.workers import WorkerPool


def check(setup: Setup, stage: CustomStage):
  """Checks nothing more than the existence of the function."""
  del setup, stage


def make(
    setup: Setup, stage: CustomStage, policy: Params, seed: int, pool: WorkerPool,
    folder: pathlib.Path,
) -> base.Stage:
  """The stage, which trains a policy, under the name and for the steps of its settings.

  Raises:
    ValueError: the function returned something else.
  """
  del pool  # there are no rewards
  policy, _ = policies.own_policy(setup, policy, seed, has_reference=False)
  with users.contained(f"config.{stage.name}.make: {stage.make.name!r}"):
    made = stage.make(setup=setup, stage=stage, policy=policy, seed=seed, folder=folder)
  if not isinstance(made, base.Stage) or "policy" not in getattr(made.state, "params", ()):
    raise ValueError(
        f"config.{stage.name}.make: {stage.make.name} returned a {type(made).__name__}, allowed: a "
        "rlreason.training.stages.Stage whose state has params['policy']")
  return made._replace(name=stage.name, steps=stage.steps)
