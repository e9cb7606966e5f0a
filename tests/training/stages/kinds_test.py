"""A kind of stage made elsewhere: one module (shrink_stage.py), and one line in `STAGES`."""

from typing import Union

import jax
import numpy as np
import pytest

from rlreason import config as config_lib, weights
from rlreason.training import run as run_lib
from rlreason.training.settings import kinds
from rlreason.training.settings.recipe import Recipe, from_config
from tests.training import tiny_run
from tests.training.stages.shrink_stage import ShrinkStage


@pytest.fixture(name="config")
def config_fixture(monkeypatch):
  monkeypatch.setitem(kinds.STAGES, "shrink", ShrinkStage)  # the line
  kind = tuple[Union[tuple(kinds.STAGES.values())], ...]  # as `AnyStage` would then be
  monkeypatch.setitem(Recipe.__annotations__, "stages", kind)
  config_lib._hints.cache_clear()
  config = tiny_run.make_config()
  config.stages = ("sft", "shrink")
  config.sft.steps = 2
  config.shrink = dict(kind="shrink", steps=3, factor=0.5)
  del config["rl"], config["optimizer"]
  yield config
  config_lib._hints.cache_clear()


def test_the_module_and_the_line_are_enough(config, tmp_path):
  run_lib.train(from_config(config), tmp_path)
  before, after = (weights.load_model(tmp_path / "models" / name)[1] for name in ("sft", "shrink"))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x / 8, y, rtol=1e-6), before, after)


def test_it_goes_on_without_data(config, tmp_path):
  run_lib.train(from_config(config), tmp_path)
  config.shrink.steps = 4
  run_lib.train(from_config(config), tmp_path)
  before, after = (weights.load_model(tmp_path / "models" / name)[1] for name in ("sft", "shrink"))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x / 16, y, rtol=1e-6), before, after)


def test_a_module_without_make_is_named(config, tmp_path, monkeypatch):
  monkeypatch.delattr("tests.training.stages.shrink_stage.make")
  with pytest.raises(ValueError, match=r"config.shrink.kind: got 'shrink', .* no \['make'\], all"):
    run_lib.train(from_config(config), tmp_path)


def test_its_own_check_is_made_before_the_run(config, tmp_path):
  config.shrink.factor = 2.0
  with pytest.raises(ValueError, match="config.shrink.factor: got 2.0, allowed: above 0 and"):
    run_lib.train(from_config(config), tmp_path)
  assert not (tmp_path / "checkpoints").exists()
