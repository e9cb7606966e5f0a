"""Worker of grpo_smollm2.py: one step of TRL's GRPOTrainer on the CPU per request.

Runs in .peers/trl and does not import rlreason. The trainer's own `train` runs the steps; a
callback waits for the next request before each step and answers after it.
"""

import argparse
import json
import os
import sys
import tempfile
import time

# The protocol keeps the real stdout; output of libraries goes to stderr.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import datasets  # pylint: disable=wrong-import-position
import torch
import transformers
import trl


def answer(**fields):
  ANSWERS.write(json.dumps(fields) + "\n")
  ANSWERS.flush()


def even_share(completion_ids, **_):
  """The share of even token ids."""
  return [sum(i % 2 == 0 for i in ids) / max(len(ids), 1) for ids in completion_ids]


class Turns(transformers.TrainerCallback):
  """One step per line on stdin; ends the training when there are no more."""

  trainer = None
  start = 0.0

  def on_step_begin(self, args, state, control, **_):
    if not sys.stdin.readline():
      os._exit(0)
    self.start = time.perf_counter()

  def on_step_end(self, args, state, control, **_):
    seconds = time.perf_counter() - self.start
    lengths = self.trainer._metrics["train"]["completions/mean_length"]
    answer(total=seconds, tokens=float(lengths[-1]))


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("settings", help="JSON: folder, prompts, group, new_tokens, micro_sequences")
  settings = argparse.Namespace(**json.loads(parser.parse_args().settings))
  rows = settings.num_prompts * settings.group
  turns = Turns()
  with tempfile.TemporaryDirectory() as output:
    trainer = trl.GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(
            settings.folder, dtype=torch.float32),
        processing_class=transformers.AutoTokenizer.from_pretrained(settings.folder),
        reward_funcs=even_share, callbacks=[turns],
        train_dataset=datasets.Dataset.from_dict({"prompt": settings.prompts}),
        args=trl.GRPOConfig(
            output_dir=output, use_cpu=True, bf16=False, max_steps=10_000, learning_rate=1e-6,
            per_device_train_batch_size=settings.micro_sequences,
            gradient_accumulation_steps=rows // settings.micro_sequences,
            gradient_checkpointing=False, num_generations=settings.group, temperature=1.0,
            max_completion_length=settings.new_tokens, beta=0.04, save_strategy="no",
            report_to="none", disable_tqdm=True))
    turns.trainer = trainer
    answer(torch=torch.__version__, trl=trl.__version__, threads=torch.get_num_threads())
    trainer.train()


if __name__ == "__main__":
  main()
