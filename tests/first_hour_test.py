"""Runs the commands of docs/first_hour.md, in its order, on a model and for steps that are tiny."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from rlreason import models, weights
from rlreason.models import ModelConfig
from tests import compiler, waiting
from tests.tokenizers import tiny_models

ROOT = pathlib.Path(__file__).parents[1]
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}<end>"
# What is changed is sizes alone.
SMALL = ("--config.rl.steps=3 --config.rl.num_prompts=2 --config.rl.group_size=2 "
              "--config.rl.algorithm.minibatch_size=4 --config.rl.algorithm.micro_batch_size=4 "
              "--config.rl.sampling.max_new_tokens=8 --config.evaluation.num_problems=8 "
              "--config.evaluation.batch_size=8 --config.evaluation.max_new_tokens=8")


def blocks(text):
  return re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_the_commands_do_what_they_say(tmp_path):
  tokenizer = tiny_models.byte_level(chat_template=TEMPLATE)
  model = ModelConfig(
      vocab_size=tokenizer.vocab_size, width=16, num_layers=1, num_heads=2, num_kv_heads=2,
      head_dim=8, mlp_width=16, max_positions=320)
  weights.save_model(tmp_path / "tiny", model, models.init_params(model, jax.random.key(0)),
                     tokenizer)
  script = "".join(blocks((ROOT / "docs" / "first_hour.md").read_text(encoding="utf-8")))
  for workdir, changes in (("--workdir=runs/mine", "--config.model.path=tiny --config.sft.steps=3 "
                            "--config.sft.optimizer.warmup_steps=1"), ("--workdir=runs/rloo", "")):
    assert script.count(workdir) == 1
    script = script.replace(workdir, f"{workdir} {SMALL} {changes}")
  environment = dict(
      os.environ, XLA_FLAGS=compiler.FLAGS, PYTHONPATH=str(ROOT),
      PATH=os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]),
      JAX_COMPILATION_CACHE_DIR=str(tmp_path / "programs"))
  done = subprocess.run(
      ["bash", "-e"], input=script, cwd=tmp_path, env=environment, text=True, capture_output=True,
      timeout=waiting.PATIENCE, check=False)
  assert done.returncode == 0, done.stdout + done.stderr
  summary = json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text())
  assert [stage["name"] for stage in summary["stages"]] == ["start", "sft", "rl"]
  compared = json.loads((tmp_path / "runs" / "compared" / "comparison.json").read_text())
  assert [(run["name"], run["stage"]) for run in compared["runs"]] == [
      ("runs/mine@sft", "sft"), ("runs/mine", "rl"), ("runs/rloo", "rl")]
  assert compared["tasks"]["problems"]["greedy"]["differences"][2]["n"] == 8
  assert "config.sft: only in the first" in compared["configs"][2]
