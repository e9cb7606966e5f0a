"""Rows through `replay`, against GRPO's loss and gradient in PyTorch on the same weights.

The loss is written here from the paper (https://arxiv.org/abs/2402.03300, eq. 3) and transformers'
model, as trainers on PyTorch have it: nothing of this package takes part in it.
"""

import json

import jax
import numpy as np
import pytest
import torch
import transformers

import rlreason as rr
from rlreason import models, weights
from rlreason.algorithms import presets
from rlreason.data.tasks import countdown
from rlreason.tokenizers import WordTokenizer

CLIP, KL_COEF, TEMPERATURE = 0.2, 0.04, 0.7
PROMPTS, COMPLETIONS = ([5, 6, 7], [8, 9], [10, 11, 12, 13]), ([4, 5, 6, 1], [7, 8, 1], [9] * 6)


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  tokenizer = WordTokenizer.from_words(countdown.vocabulary(countdown.CountdownConfig()))
  config = models.ModelConfig(
      vocab_size=tokenizer.vocab_size, width=32, num_layers=2, num_heads=4, num_kv_heads=2,
      head_dim=8, mlp_width=48, max_positions=32)
  params = jax.jit(models.init_params, static_argnums=0)(config, jax.random.key(0))
  folder = tmp_path_factory.mktemp("replay") / "model"
  weights.save_model(folder, config, params, tokenizer)
  return folder


def make_rows():
  """Two groups of three completions with log-probs that are near those of a random model."""
  rng = np.random.default_rng(0)
  rows = []
  for group in range(2):
    for i, completion in enumerate(COMPLETIONS):
      draw = lambda: (-3.9 + 0.5 * rng.normal(size=len(completion))).tolist()
      rows.append({"prompt_ids": PROMPTS[group], "completion_ids": completion, "group": group,
                   "old_log_probs": draw(), "ref_log_probs": draw(),
                   "reward": float(i == group)})
  return rows


def torch_loss(model, rows, advantages):
  """Policy loss and KL, means over the tokens of a completion and then over completions."""
  parts = []
  for row, advantage in zip(rows, advantages, strict=True):
    start, ids = len(row["prompt_ids"]), torch.tensor(row["completion_ids"])
    logits = model(torch.tensor([row["prompt_ids"] + row["completion_ids"]])).logits[0]
    log_probs = torch.log_softmax(logits[start - 1:-1] / TEMPERATURE, dim=-1)
    log_probs = log_probs.gather(1, ids[:, None])[:, 0]
    ratio = torch.exp(log_probs - torch.tensor(row["old_log_probs"]))
    clipped = torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
    gap = torch.tensor(row["ref_log_probs"]) - log_probs
    parts.append((-torch.minimum(ratio * advantage, clipped * advantage).mean(),
                  (torch.exp(gap) - gap - 1).mean()))
  return [torch.stack(part).mean() for part in zip(*parts)]


@pytest.mark.parametrize("gives_advantages", [False, True], ids=["rewards", "advantages"])
def test_loss_parts_and_gradient_are_those_of_pytorch(gives_advantages, folder, tmp_path):
  rows = make_rows()
  rewards = np.array([row["reward"] for row in rows]).reshape(2, 3)
  advantages = ((rewards - rewards.mean(axis=1, keepdims=True)) / (
      rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)).reshape(-1).tolist()
  model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
  policy, kl = torch_loss(model, rows, advantages)
  total = policy + KL_COEF * kl
  total.backward()
  norm = torch.sqrt(sum((parameter.grad**2).sum() for parameter in model.parameters()))
  if gives_advantages:
    rows = [{name: value for name, value in row.items() if name != "reward"} | {
        "advantages": advantage} for row, advantage in zip(rows, advantages, strict=True)]
  file = tmp_path / "rows.jsonl"
  file.write_text("".join(json.dumps(row) + "\n" for row in rows))
  found = rr.replay({
      "seed": 0, "stages": ["rl"], "prompt_buckets": [8], "task": {"kind": "countdown"},
      "evaluation": {"num_samples": 0}, "parallel": {"data": 1},
      "model": {"kind": "pretrained", "path": str(folder)},
      "rl": {"kind": "rl", "steps": 1, "num_prompts": 2, "group_size": 3,
             "sampling": {"max_new_tokens": 8, "temperature": TEMPERATURE},
             "rewards": {"verifier": {"weight": 1.0}}, "optimizer": {"learning_rate": 1e-3},
             "algorithm": presets.grpo(
                 minibatch_size=6, epsilon=1e-4, kl_coef=KL_COEF, micro_batch_size=3)}}, file)
  assert found["loss/policy"] == pytest.approx(policy.item(), rel=1e-4, abs=1e-6)
  assert found["loss/kl"] == pytest.approx(kl.item(), rel=1e-4)
  assert found["loss/total"] == pytest.approx(total.item(), rel=1e-4, abs=1e-6)
  assert found["optim/grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
  clipped = found["policy/clip_fraction_high"] + found["policy/clip_fraction_low"]
  assert 0 < clipped < 1 and norm.item() > 0.01  # both sides of the clip are there
