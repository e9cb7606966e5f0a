"""A run of a mixture of experts, each on its device, against one device."""

import json

import jax
import numpy as np
import pytest

from rlreason import weights
from rlreason.algorithms import presets
from rlreason.models import ModelConfig
from rlreason.training import metrics, run as run_lib
from rlreason.training.settings.recipe import from_config
from tests.algorithms import tiny
from tests.tokenizers import tiny_models
from tests.training import tiny_run
from tests.training.published_files_test import TEMPLATE


def make_config(folder):
  """Two steps of SFT and of GRPO."""
  tokenizer = tiny_models.byte_level(chat_template=TEMPLATE)
  model = ModelConfig(
      vocab_size=tokenizer.vocab_size, width=8, num_layers=2, num_heads=2, num_kv_heads=2,
      head_dim=4, mlp_width=8, max_positions=96, family="qwen3_moe", qk_norm=True, num_experts=4,
      experts_per_token=2, balance_coef=0.01)
  weights.save_model(folder / "model", model, tiny.random_params(model), tokenizer)
  rows = [{"question": f"{i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(8)]
  (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  config = tiny_run.make_config().to_dict() | {"prompt_buckets": (64,)}
  config["model"] = dict(kind="pretrained", path=str(folder / "model"))
  config["task"] = dict(kind="file", name="gsm8k", train=str(folder / "gsm8k.jsonl"),
                        test=str(folder / "gsm8k.jsonl"))
  config["sft"] |= dict(
      length=96, steps=2, token_weights={}, optimizer=dict(learning_rate=1e-2))
  config["rl"] |= dict(
      steps=2, group_size=2, rewards=dict(
          verifier=dict(weight=1.0), random=dict(weight=1.0)),
      algorithm=presets.grpo(minibatch_size=16, kl_coef=0.1))
  config["evaluation"] |= dict(num_problems=8, num_samples=0)
  return config


def test_a_run_has_the_numbers_of_one_device(tmp_path):
  config, found = make_config(tmp_path), {}
  for name, parallel in (("one", dict(data=1)), ("expert", dict(data=1, expert=2))):
    run_lib.train(from_config(config | {"parallel": parallel}), tmp_path / name)
    found[name] = (metrics.read_lines(tmp_path / name / "metrics.jsonl"),
                   metrics.read_lines(tmp_path / name / "samples.jsonl"))
  (lines, samples), (others, other_samples) = found["one"], found["expert"]
  assert [sample["completion"] for sample in samples] == [
      sample["completion"] for sample in other_samples]
  assert len(lines) == len(others) > 4
  names = {name for line in lines for name in line if name.split("/")[0] in (
      "loss", "policy", "rollout", "reward", "optim")}
  assert "loss/balance" in names and "policy/kl_from_old" in names
  for line, other in zip(lines, others, strict=True):
    for name in names & set(line):
      assert other[name] == pytest.approx(line[name], rel=1e-4, abs=1e-5), name
  one, expert = (weights.load_model(tmp_path / name / "models" / "rl")[1] for name in found)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), expert, one)
