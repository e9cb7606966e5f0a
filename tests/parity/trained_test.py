"""The models of a run: transformers loads them and continues a prompt in the same way."""

import jax
import numpy as np
import pytest
import torch
import transformers

import rlreason as rr
from tests.training import tiny_run

PROMPTS = ["3 5 6 target 14 :", "1 2 4 target 9 :", "6 6 2 target 20 :"]
NEW_TOKENS = 24


@pytest.fixture(name="models", scope="module")
def _models(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  rr.train(tiny_run.make_config(), workdir)
  return workdir / "models"


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_greedy_completions_are_equal(models, stage):
  ours = rr.load(models / stage)
  got = rr.sample(
      ours, PROMPTS, jax.random.key(0), temperature=0.0, max_new_tokens=NEW_TOKENS).rollout
  tokenizer = transformers.AutoTokenizer.from_pretrained(models / stage)
  reference = transformers.AutoModelForCausalLM.from_pretrained(
      models / stage, dtype=torch.float32).eval()
  for row, prompt in enumerate(PROMPTS):
    ids = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
      wanted = reference.generate(
          input_ids=ids["input_ids"], attention_mask=ids["attention_mask"],
          max_new_tokens=NEW_TOKENS, do_sample=False)[0, ids["input_ids"].shape[1]:]
    kept = got.completion_tokens[row][got.token_mask[row]]
    np.testing.assert_array_equal(kept, wanted.numpy())
    assert len(kept) == NEW_TOKENS or kept[-1] == tokenizer.eos_token_id
