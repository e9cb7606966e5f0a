"""What Weights & Biases is given, by a module of the same calls; it never holds up a run."""

import json
import sys
import threading
import types

import pytest

from rlreason import main
from rlreason.commands import train
from rlreason.training import metrics, wandb_log

SAMPLE = {"prompt": [{"role": "user", "content": "q"}], "completion": "c", "answer": "1",
          "rewards": {"verifier": 0.5}, "length": 3}


class Package:
  """Remembers its calls."""

  def __init__(self, monkeypatch, mode="offline", is_logged_in=False, on_init=lambda: None):
    self.started, self.logged, self.ended = [], [], 0
    self._on_init, self._is_logged_in = on_init, is_logged_in
    self.setup = lambda: types.SimpleNamespace(settings=types.SimpleNamespace(mode=mode))
    self.Settings = dict
    self.Table = lambda columns, data: ("table", columns, data)
    monkeypatch.setitem(sys.modules, "wandb", self)

  def login(self, prompt, verify):
    assert not prompt and not verify  # neither a question on the terminal nor the network
    return self._is_logged_in

  def init(self, **settings):
    self._on_init()
    self.started.append(settings)
    return self

  def log(self, values, step):
    self.logged.append((step, values))

  def finish(self):
    self.ended += 1


@pytest.fixture(name="run")
def run_fixture(tmp_path):
  (tmp_path / "config.json").write_text('{"seed": 3}')
  return tmp_path


def write_all(run, project="team/toy"):
  writer = metrics.MetricsWriter(run, wandb_log.WandbLog(run, project))
  writer.write(4, "rl", {"loss/policy": 0.5, "bad": float("nan")})
  writer.write(5, "eval-rl", {"eval/toy/greedy": 0.25})
  writer.write_samples(5, "eval-rl", [SAMPLE])
  writer.close()


def wandb_warnings(caplog):
  return [text for record in caplog.records if (text := record.getMessage()).startswith("wandb")]


def test_metrics_config_and_samples_are_sent(run, monkeypatch):
  package = Package(monkeypatch)
  wandb_log.check()
  write_all(run)
  ids = json.loads((run / "wandb.json").read_text())
  (started,) = package.started
  assert (started["entity"], started["project"], started["id"], started["resume"]) == (
      "team", "toy", ids["team/toy"], "allow")
  assert started["config"] == {"seed": 3} and started["dir"] == str(run)
  assert started["settings"] == {
      "console": "off", "silent": True, "init_timeout": 30.0, "finish_timeout": 30.0}
  columns = ["prompt", "completion", "answer", "reward", "length"]
  chat = '[{"role": "user", "content": "q"}]'
  assert package.logged == [
      (4, {"stage": "rl", "loss/policy": 0.5}), (5, {"stage": "eval-rl", "eval/toy/greedy": 0.25}),
      (5, {"samples/eval-rl": ("table", columns, [[chat, "c", "1", 0.5, 3]])})]
  assert package.ended == 1
  write_all(run)  # a resume
  write_all(run, "other")
  assert [settings["id"] == ids["team/toy"] for settings in package.started] == [True, True, False]


@pytest.mark.parametrize("error", [OSError("no network"), RuntimeError("refused")])
def test_an_error_of_it_is_a_warning(run, monkeypatch, caplog, error):
  def fail():
    raise error

  Package(monkeypatch, on_init=fail)
  write_all(run)
  assert len(metrics.read_lines(run / "metrics.jsonl")) == 2
  (warning,) = wandb_warnings(caplog)
  assert warning == (f"wandb: {type(error).__name__}: {error}; it gets nothing more of this run, "
                     "metrics.jsonl has it all")


def test_a_service_that_hangs_holds_up_nothing(run, monkeypatch, caplog):
  ends = threading.Event()
  package = Package(monkeypatch, on_init=ends.wait)
  monkeypatch.setattr(wandb_log, "_CLOSE_SECONDS", 0.05)
  monkeypatch.setattr(wandb_log, "_QUEUE", 20)
  write_all(run)
  log = wandb_log.WandbLog(run, "toy")
  for step in range(100):
    log.write(step, "rl", {"a": 1.0})
  log.close()
  assert [text[:40] for text in wandb_warnings(caplog)] == [
      "wandb: not all was sent after 0.05 s; it", "wandb: 20 lines wait to be sent; it gets"]
  assert not package.logged
  ends.set()


def test_what_is_missing_is_said_before_the_run(monkeypatch, capsys):
  Package(monkeypatch, mode="online", is_logged_in=True)
  wandb_log.check()
  Package(monkeypatch, mode="online")
  with pytest.raises(ValueError, match="wandb: nobody is logged in, allowed: after `wandb login`"):
    wandb_log.check()
  monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
  command = ["train", "--config=tests/tiny_experiment.py", "--workdir=/nowhere", "--wandb"]
  assert main.main(command) == 2
  assert "wandb is not installed: pip install" in capsys.readouterr().err
  monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))  # a folder of that name
  with pytest.raises(ModuleNotFoundError) as error:
    wandb_log.check()
  assert error.value.name == "wandb"


@pytest.mark.parametrize("typed, project", [
    ([], None), (["--wandb"], "rlreason"), (["--wandb=mine"], "mine"), (["--nowandb"], None)])
def test_the_flag_stands_alone_or_names_a_project(monkeypatch, typed, project):
  from absl import flags

  values = flags.FlagValues()
  train.COMMAND.define(values)
  assert values(["rlreason train", *typed, "--workdir=w"]) == ["rlreason train"]
  assert (values.wandb, values.workdir) == (project, "w")
