"""The folder of a run: whose it is, and whether what it reads has changed."""

import json

import pytest

from rlreason import files
from rlreason.data.sources import digest
from rlreason.training import checkpoint, inputs as inputs_lib, run as run_lib, workdir
from rlreason.training.settings.recipe import from_config
from tests.training import tiny_run


def make_recipe(**changes):
  config = tiny_run.make_config()
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return from_config(config)


# Whose a folder is.


@pytest.mark.parametrize("name", [
    "config.json", "inputs.json", "metrics.jsonl", "samples.jsonl", "summary.json", "report.html",
    "evaluation/rl.jsonl",
    "models/rl/config.json", "adapters/rl/a", "data/sample.jsonl", "plots/a.png", "tensorboard/a",
    "checkpoints/notes.txt"])
def test_a_file_of_somebody_is_never_replaced(tmp_path, name):
  file = tmp_path / name
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text("theirs")
  (tmp_path / "README.md").write_text("theirs, and in nobody's way")
  message = "is there already, and no checkpoint .*give a new workdir"
  with pytest.raises(ValueError, match=message) as error:
    run_lib.train(make_recipe(), tmp_path)
  assert str(tmp_path / name.split("/")[0]) in str(error.value)
  assert file.read_text() == "theirs"
  assert not (tmp_path / "run.lock").exists()  # nothing was left there either


def test_folders_that_are_free(tmp_path):
  workdir.check_free(tmp_path / "new" / "run")
  (tmp_path / "models").mkdir()  # empty
  (tmp_path / "notes.txt").write_text("")
  workdir.check_free(tmp_path)
  # A run that ended before its first checkpoint begins again.
  checkpoint.check_config(tmp_path, {"seed": 0})
  (tmp_path / "metrics.jsonl").write_text("{}\n")
  workdir.check_free(tmp_path)


def test_a_second_process_is_refused_before_it_computes(tmp_path):
  with files.locked(tmp_path):
    with pytest.raises(ValueError, match="another process .* is working in .*run.lock"):
      run_lib.train(make_recipe(), tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


def test_a_run_whose_checkpoints_were_deleted_is_not_begun_again(tmp_path):
  checkpoint.check_config(tmp_path, {"seed": 0})
  with checkpoint.Checkpointer(str(tmp_path)) as saver:
    saver.save(1, {"w": 1.0}, {})
  workdir.check_free(tmp_path)
  for file in sorted((tmp_path / "checkpoints").rglob("*"), reverse=True):
    file.rmdir() if file.is_dir() else file.unlink()
  for _ in range(2):  # with an empty folder of checkpoints, and without one
    with pytest.raises(ValueError, match="config.json' is there already"):
      workdir.check_free(tmp_path)
    if (tmp_path / "checkpoints").exists():
      (tmp_path / "checkpoints").rmdir()


# What a run reads.


def write_model(folder, text="weights"):
  folder.mkdir(parents=True, exist_ok=True)
  for name in ("model.safetensors", "config.json", "tokenizer.json"):
    (folder / name).write_text(text if name == "model.safetensors" else "{}")
  (folder / "README.md").write_text("no input")
  return str(folder)


@pytest.fixture(name="recipe")
def recipe_fixture(tmp_path):
  rows = tmp_path / "rows.jsonl"
  rows.write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
  config = tiny_run.make_config().to_dict()
  config["model"] = dict(kind="pretrained", path=write_model(tmp_path / "base"))
  config["task"] = dict(kind="file", name="sums", train=str(rows), test=str(rows))
  del config["sft"]["num_examples"]
  config["sft"] |= dict(examples=str(rows), start=write_model(tmp_path / "start"))
  config["rl"] |= dict(
      problems=str(rows), critic_path=write_model(tmp_path / "critic"), start="sft",
      reward_model=write_model(tmp_path / "scorer"),
      reference_path=write_model(tmp_path / "teacher"))
  config["rl"]["rewards"]["learned"] = dict(weight=0.1)
  config["rl"]["algorithm"]["critic"] = "separate"
  config["rl"]["optimizer"] = config["optimizer"]
  return from_config(config)


FIELDS = {
    "config.model.path": "base", "config.task.train": "rows.jsonl",
    "config.task.test": "rows.jsonl", "config.sft.examples": "rows.jsonl",
    "config.sft.start": "start", "config.rl.problems": "rows.jsonl",
    "config.rl.critic_path": "critic", "config.rl.reward_model": "scorer",
    "config.rl.reference_path": "teacher"}


def test_every_file_that_a_run_reads_has_a_checksum(recipe, tmp_path):
  inputs = inputs_lib.read_inputs(recipe)
  assert set(inputs) == set(FIELDS)
  for field, place in FIELDS.items():
    names = ["config.json", "model.safetensors", "tokenizer.json"] if "." not in place else [place]
    folder = tmp_path / place if "." not in place else tmp_path
    assert inputs[field] == {name: digest(folder / name) for name in names}


@pytest.mark.parametrize("place, fields", [
    ("base/model.safetensors", ["config.model.path: model.safetensors"]),
    ("start/config.json", ["config.sft.start: config.json"]),
    ("critic/tokenizer.json", ["config.rl.critic_path: tokenizer.json"]),
    ("scorer/added_tokens.json", ["config.rl.reward_model: added_tokens.json"]),
    ("rows.jsonl", [f"{field}: rows.jsonl" for field, name in FIELDS.items() if "." in name]),
    ("base/README.md", [])])
def test_a_changed_file_is_named(recipe, tmp_path, place, fields):
  run = tmp_path / "run"
  (run / "checkpoints" / "5").mkdir(parents=True)
  inputs = inputs_lib.read_inputs(recipe)
  inputs_lib.check_inputs(run, inputs, False)  # of an older version, which did not write them down
  checkpoint.write_json(run / "inputs.json", inputs)
  inputs_lib.check_inputs(run, inputs_lib.read_inputs(recipe), False)
  (tmp_path / place).write_text("changed")
  changed = inputs_lib.read_inputs(recipe)
  inputs_lib.check_inputs(run, changed, True)
  if not fields:
    inputs_lib.check_inputs(run, changed, False)
    return
  message = "with other files .*or resume .*--allow_changed_inputs"
  with pytest.raises(ValueError, match=message) as error:
    inputs_lib.check_inputs(run, changed, False)
  assert "\n" not in str(error.value)
  for field in fields:
    assert field in str(error.value)
  (run / "inputs.json").write_text('{"config.task.train": 3}')
  with pytest.raises(ValueError, match="inputs.json' is damaged: it holds no checksums"):
    inputs_lib.check_inputs(run, inputs, False)


def test_a_file_of_a_stage_that_was_changed_is_found(tmp_path):
  for name in ("models/sft/model.safetensors", "adapters/sft/a.json", "data/sft.jsonl"):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(name)
  sums = workdir.stage_files(tmp_path, "sft")
  assert sorted(sums) == ["adapters/sft/a.json", "data/sft.jsonl", "models/sft/model.safetensors"]
  workdir.check_files(tmp_path, sums)
  (tmp_path / "adapters/sft/a.json").unlink()  # missed by who reads it
  workdir.check_files(tmp_path, sums)
  data = bytearray((tmp_path / "models/sft/model.safetensors").read_bytes())
  data[3] ^= 4
  (tmp_path / "models/sft/model.safetensors").write_bytes(data)
  with pytest.raises(ValueError, match="models/sft/model.safetensors' is not what its stage wrote"):
    workdir.check_files(tmp_path, sums)


def test_a_sealed_file_is_itself_or_nothing(tmp_path):
  file = tmp_path / "evaluated.json"
  assert checkpoint.read_sealed(file) is None
  checkpoint.write_sealed(file, {"step": 5, "x": [0.1, None]})
  assert checkpoint.read_sealed(file) == {"step": 5, "x": [0.1, None]}
  file.write_text(file.read_text().replace("0.1", "0.3"))
  assert checkpoint.read_sealed(file) is None
  for text in ("", "{", "[]", "3", '{"sha256": 1}', "\0"):
    file.write_text(text)
    assert checkpoint.read_sealed(file) is None
  file.write_text(json.dumps({"step": 5}))  # of an older version
  assert checkpoint.read_sealed(file) == {"step": 5}
