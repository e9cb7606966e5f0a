"""Documents whose code is run: every fenced block, one after the other, in one empty folder."""

import json
import pathlib
import re
import shlex
import sys

import jax
import pytest

from rlreason import main, models, weights
from rlreason.models import ModelConfig
from rlreason.parallel import mesh
from rlreason.training import report as report_lib
from tests.main_test import no_compilation_cache  # pylint: disable=unused-import
from tests.tokenizers import tiny_models

DOCS = pathlib.Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")


def run_blocks(text, names):
  """Runs what a document shows, in the folder this is in.

  A block of Python whose first line is a comment with the name of a file becomes that file; others
  share `names`. A block of the shell holds calls of rlreason, which run in this process.
  """
  for language, code in BLOCK.findall(text):
    file = FILE.match(code)
    if file:
      pathlib.Path(file[1]).write_text(code, encoding="utf-8")
    elif language == "python":
      exec(code, names)  # pylint: disable=exec-used
    elif language == "sh":
      for line in code.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "rlreason" and main.main(arguments) == 0, line


@pytest.fixture(name="folder")
def fixture_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
  monkeypatch.setattr(report_lib, "make_report", lambda folder: folder / "report.html")
  # As on a machine with one device: eight that share its cores take their time.
  monkeypatch.setattr(mesh, "find_devices", lambda: jax.devices()[:1])
  before = set(sys.modules)
  yield tmp_path
  for name in set(sys.modules) - before:
    if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
      del sys.modules[name]


def test_what_is_added_by_hand_runs_as_it_is_shown(folder):
  names = {}
  run_blocks((DOCS / "adding.md").read_text(encoding="utf-8"), names)
  summary = json.loads((folder / "runs/larger/summary.json").read_text(encoding="utf-8"))
  before, after = (stage["evaluation"]["larger"]["greedy"]["value"] for stage in summary["stages"])
  assert before <= 0.1 and after >= 0.5  # as the text says: none, and about two thirds
  evaluated = json.loads((folder / "larger.json").read_text(encoding="utf-8"))
  assert evaluated["stages"][0]["evaluation"]["larger"]["greedy"]["value"] == after
  assert evaluated["provenance"]["data"]["config.task"] == summary["provenance"]["data"][
      "config.task"]
  assert names["summary"]["stages"][-1]["evaluation"]["small"]["greedy"]["n"] == 9
  assert names["found"]["stages"][0]["evaluation"]["own"]["greedy"]["value"] == 0  # no boxes
  metrics = [json.loads(line) for line in (folder / "runs/either/metrics.jsonl").open()]
  losses = [row["loss/either"] for row in metrics if "loss/either" in row]
  assert len(losses) == 30 and losses[-1] < losses[0] - 1
  kept = [json.loads(line) for line in (folder / "runs/shortest/data/kept.jsonl").open()]
  assert kept and len({row["prompt"] for row in kept}) == len(kept)


# Of docs/first_hour.md, which is for a pretrained model: sizes alone.
SMALL = ("--config.model.path=tiny --config.rl.steps=3 --config.rl.num_prompts=2 "
         "--config.rl.group_size=2 --config.rl.algorithm.minibatch_size=4 "
         "--config.rl.algorithm.micro_batch_size=4 --config.rl.sampling.max_new_tokens=8 "
         "--config.evaluation.num_problems=8 --config.evaluation.batch_size=8 "
         "--config.evaluation.max_new_tokens=8")
SMALL_SFT = "--config.sft.steps=3 --config.sft.optimizer.warmup_steps=1"


def test_the_first_hour(folder, capsys):
  tokenizer = tiny_models.byte_level(
      chat_template="{% for message in messages %}{{ message.content }}{% endfor %}<end>")
  model = ModelConfig(
      vocab_size=tokenizer.vocab_size, width=16, num_layers=1, num_heads=2, num_kv_heads=2,
      head_dim=8, mlp_width=16, max_positions=320)
  weights.save_model(folder / "tiny", model, models.init_params(model, jax.random.key(0)),
                     tokenizer)
  text = (DOCS / "first_hour.md").read_text(encoding="utf-8")
  for workdir, changes in (("runs/mine", f"{SMALL} {SMALL_SFT}"), ("runs/rloo", SMALL)):
    flag = f" --workdir={workdir}"
    assert text.count(flag) == 1  # flags of the document come after, and are what counts
    text = text.replace(flag, f" {changes}{flag}")
  run_blocks(text, {})
  assert "Summary, with 95% confidence intervals" in capsys.readouterr().out
  read = lambda name: json.loads((folder / name).read_text(encoding="utf-8"))
  assert [stage["name"] for stage in read("runs/mine/summary.json")["stages"]] == [
      "start", "sft", "rl"]
  compared = read("runs/compared/comparison.json")
  assert [(run["name"], run["stage"]) for run in compared["runs"]] == [
      ("runs/mine", "rl"), ("runs/rloo", "rl"), ("runs/mine@sft", "sft")]
  assert compared["tasks"]["problems"]["greedy"]["differences"][1]["n"] == 8
  assert "config.sft: only in the first" in compared["configs"][1]
