"""What a run says of itself before it starts."""

import dataclasses
import pathlib

from rlreason.data.tasks.load import load_tasks
from rlreason.models import LoRAConfig
from rlreason.parallel import memory
from rlreason.training import header
from rlreason.training.settings.recipe import from_config, with_tasks
from rlreason.training.setup import new_model_config
from rlreason.training.stages.base import Setup
from tests.training import tiny_run


def _setup(config, adapters=None):
  recipe = from_config(config)
  model = dataclasses.replace(new_model_config(recipe.model, 23), lora=adapters)
  return Setup(recipe, model, tokenizer=None, tasks={}, layout=None, evaluate=None)


def test_header_of_a_run(monkeypatch):
  monkeypatch.setattr(memory, "device_bytes", lambda: 25_300_000_000)
  monkeypatch.setattr(header.os, "cpu_count", lambda: 2)
  monkeypatch.setattr(header.jax, "__version__", "0.10.2")
  monkeypatch.setattr(header, "_ACCELERATORS", ())
  config = tiny_run.make_config()
  config.parallel = dict(data=2)
  assert header.run_header(_setup(config), pathlib.Path("runs/a")) == [
      "devices     2 x CPU (jit, data 2), 2 cores, 25.3 GB; JAX 0.10.2",
      "model       new",
      # 23 x 16 of words, 4 x 256 of attention, 3 x 256 of the mlp, 3 x 16 of norms
      "            2,208 parameters, 1 layer of width 16, float32",
      "            2,208 parameters trained, 0 frozen",
      "sft         5 steps of 8 rows, at most 384 tokens a step",
      "rl          5 steps of 16 rows, at most 320 tokens a step",
      "            trains 17 parameters of a critic too",
      "files in    runs/a"]


def test_adapters_leave_the_base_frozen():
  setup = _setup(tiny_run.make_config(), LoRAConfig(rank=2, alpha=4.0))
  # Of four projections of 16 and 16 and three of the mlp, 2 x (16 + 16) each.
  lines = header.run_header(setup, pathlib.Path("a"))
  assert lines[2:4] == ["            2,656 parameters, 1 layer of width 16, float32",
                        "            448 parameters trained, 2,208 frozen"]


def test_steps_of_every_kind_of_stage():
  recipe = from_config(tiny_run.make_data_config())
  assert {stage.name: stage.work(8) for stage in recipe.stages} == {
      "sft": "12 steps of 8 rows, at most 128 tokens a step",
      "sample": "5 steps of 32 rows, at most 448 tokens a step",  # prompts of 8, completions of 6
      "right": "a selection, without steps",
      "distil": "3 steps of 8 rows, at most 128 tokens a step",
      "restarts": "a selection, without steps",
      "scorer": "2 steps of 8 rows, at most 112 tokens a step",
      "rl": "2 steps of 16 rows, at most 224 tokens a step"}


def test_rounds_and_separate_critics_count():
  config = tiny_run.make_config()
  config.rl.max_resample_rounds = 3
  config.rl.group_size = 4
  config.rl.algorithm.critic = "separate"
  setup = _setup(config)
  stage = setup.recipe.stages[1]
  assert stage.step_rows(8) == (96, 20)
  assert header._critic(setup.model, stage) == ["trains 2,225 parameters of a critic too"]


def test_an_accelerator_that_is_not_used_is_named(monkeypatch, tmp_path):
  path = tmp_path / "nvidia0"
  monkeypatch.setattr(header, "_ACCELERATORS", (str(path),))
  assert header._unused_accelerator() == []
  path.touch()
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  assert header._unused_accelerator() == [
      f"runs on the CPU, although there is {path}: JAX_PLATFORMS=cpu"]


def test_counts_are_short():
  assert [header.format_count(count) for count in (
      17, 99_999, 134_515_008, 930_000, 8_030_261_248, 32_763_876_352)] == [
          "17", "99,999", "134.5M", "0.93M", "8.03B", "32.8B"]


def test_problems_in_python_are_counted():
  config = tiny_run.make_config().to_dict() | {"stages": ()}
  config.pop("optimizer")
  problems = [{"question": str(i), "answer": "1"} for i in range(30)]
  recipe = with_tasks(config, problems)
  setup = _setup(tiny_run.make_config())._replace(recipe=recipe, tasks=load_tasks(recipe.task))
  assert "task        own: 26 problems to train on, 4 of the test" in header.run_header(
      setup, pathlib.Path("a"))
