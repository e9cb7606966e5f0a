"""Makes the rows of tests/parity/trl_rows: a short run of TRL's GRPOTrainer, step by step.

    bash benchmarks/formula_peers.sh  # once
    .peers/formulas/bin/python benchmarks/trl_rows.py tests/parity/trl_rows

A Qwen2 with random weights makes four updates on the CPU, two per rollout, with TRL's defaults
except for `SETTINGS`. For each update the weights before it, its rows in the format of `rlreason
replay`, and TRL's own logs are saved. On the last update's rows and weights TRL's loss and gradient
are also computed with the settings of `VARIANTS`.
"""

import importlib.metadata
import json
import pathlib
import sys
import tempfile

import datasets
import safetensors.torch
import tokenizers
import torch
import transformers
from trl import GRPOConfig, GRPOTrainer

WORDS = 32
PROMPTS = ("w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w10 w11")
MODEL = dict(
    vocab_size=WORDS + 2, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
    num_key_value_heads=1, head_dim=8, intermediate_size=48, max_position_embeddings=32,
    tie_word_embeddings=True, eos_token_id=1, pad_token_id=None, bos_token_id=None)
SETTINGS = dict(
    num_generations=4, per_device_train_batch_size=8, num_iterations=2, max_steps=4,
    max_completion_length=12, temperature=0.8, beta=0.04, learning_rate=0.02, logging_steps=1,
    seed=0, bf16=False, use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True)
# Name -> fields of the trainer, fields of its `args`.
VARIANTS = {
    "grpo": (dict(loss_type="grpo"), {}),
    "bnpo": (dict(loss_type="bnpo"), {}),
    "dr_grpo": (dict(loss_type="dr_grpo"), {}),
    "no bias correction": ({}, dict(use_bias_correction_kl=False)),
    "delta": ({}, dict(delta=1.3)),
    "sequence": (dict(loss_type="grpo", importance_sampling_level="sequence"),
                 dict(use_bias_correction_kl=False)),
    "luspo": (dict(loss_type="luspo", importance_sampling_level="sequence"),
              dict(use_bias_correction_kl=False)),
    "cispo": (dict(loss_type="cispo", epsilon_high=1.1), {}),
    "sapo": (dict(loss_type="sapo"), {}),
    "vespo": (dict(loss_type="vespo"), {}),
    "off-policy mask": (dict(off_policy_mask_threshold=0.05), {}),
}
LOGGED = ("loss", "kl", "grad_norm", "entropy", "clip_ratio/low_mean", "clip_ratio/high_mean")


class Recorder(GRPOTrainer):
  """Keeps the batch, and the weights before the update, of each of its steps."""

  def _compute_loss(self, model, inputs):
    if self.is_recording:
      state = {name: x.detach().clone() for name, x in self.model.state_dict().items()}
      self.taken.append((inputs, state))
    return super()._compute_loss(model, inputs)


def make_model(folder: pathlib.Path) -> transformers.PreTrainedTokenizerFast:
  """Writes a folder with random weights and a word tokenizer, which is returned."""
  torch.manual_seed(0)
  vocabulary = {name: i for i, name in enumerate(
      ["<pad>", "<eos>", *(f"w{i}" for i in range(WORDS))])}
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer = transformers.PreTrainedTokenizerFast(
      tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
  tokenizer.save_pretrained(folder)
  model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**MODEL)).float()
  for parameter in model.parameters():
    parameter.data *= 5.0 if parameter.ndim == 2 else 1.0  # far from uniform
  model.save_pretrained(folder)
  return tokenizer


def reward(completion_ids, **_):
  """Share of the tokens whose id is below 16: differs for nearly every completion."""
  return [sum(i < 16 for i in ids) / len(ids) for ids in completion_ids]


def rows_of(batch) -> list[dict]:
  """The rows of a batch in the format of `rlreason replay`, with advantages and with rewards."""
  rows = []
  for i in range(len(batch["completion_ids"])):
    mask = batch["completion_mask"][i].bool()
    kept = lambda name: batch[name][i][mask].tolist()
    prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()].tolist()
    ids = kept("completion_ids")
    rows.append({
        "prompt_ids": prompt, "completion_ids": ids, "group": " ".join(map(str, prompt)),
        "old_log_probs": kept("old_per_token_logps"),
        "ref_log_probs": kept("ref_per_token_logps"), "reward": reward([ids])[0],
        "advantages": batch["advantages"][i].item()})
  return rows


def again(trainer: Recorder, batch, changes, of_args) -> dict[str, float]:
  """TRL's loss and the norm of its gradient with other settings."""
  fields = [(trainer, changes), (trainer.args, of_args)]
  before = [{name: getattr(of, name) for name in values} for of, values in fields]
  for of, values in fields:
    for name, value in values.items():
      setattr(of, name, value)
  trainer.model.zero_grad()
  loss = trainer._compute_loss(trainer.model, batch)  # pylint: disable=protected-access
  loss.backward()
  norm = torch.nn.utils.get_total_norm(
      [x.grad for x in trainer.model.parameters() if x.grad is not None])
  for (of, _), values in zip(fields, before, strict=True):
    for name, value in values.items():
      setattr(of, name, value)
  return {"loss": loss.item(), "grad_norm": norm.item()}


def main():
  folder = pathlib.Path(sys.argv[1])
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer = make_model(folder)
  with tempfile.TemporaryDirectory() as output:
    trainer = Recorder(
        model=str(folder), processing_class=tokenizer, reward_funcs=reward,
        args=GRPOConfig(output_dir=output, **SETTINGS),
        train_dataset=datasets.Dataset.from_dict({"prompt": list(PROMPTS)}))
    trainer.taken, trainer.is_recording = [], True
    trainer.train()
  trainer.is_recording = False
  logs = [line for line in trainer.state.log_history if "loss" in line]
  found = {"trl": importlib.metadata.version("trl"), "settings": SETTINGS, "steps": []}
  for i, ((batch, state), line) in enumerate(zip(trainer.taken, logs, strict=True), 1):
    lines = "".join(json.dumps(row) + "\n" for row in rows_of(batch))
    (folder / f"step{i}.jsonl").write_text(lines)
    state = {name: x for name, x in state.items() if name != "lm_head.weight"}  # tied
    safetensors.torch.save_file(state, folder / f"step{i}.safetensors", {"format": "pt"})
    found["steps"].append({name: line[name] for name in LOGGED})
  for name in ("model.safetensors", "generation_config.json"):  # the first step has the weights
    (folder / name).unlink()
  batch, state = trainer.taken[-1]
  trainer.model.load_state_dict(state)
  found["again"] = again(trainer, batch, {}, {})
  found["variants"] = {name: again(trainer, batch, *both) for name, both in VARIANTS.items()}
  (folder / "trl.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
  main()
