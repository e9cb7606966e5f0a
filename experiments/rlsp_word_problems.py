r"""RLSP on a real model: SmolLM2-135M-Instruct on word problems in GSM8K's format.

Like rlsp_smollm2.py, on the files written by `rlreason data gsm8k --from=generated`: a supervised
stage on the solutions of the training file, then PPO with rewards of the verifier, which reads the
text after `####`, and an exploration reward for the length of the reasoning before it.

    make train CONFIG=experiments/rlsp_word_problems.py

The argument after the colon may be a finished first stage. The controls start from it
(docs/results.md states what has been run):

    .venv/bin/python experiments/controls/word_problems.py --root=runs/word_problems --seeds=0,1,2
"""

import rlsp_smollm2

from rlreason.data import question_prompts

PROMPT = question_prompts.HASHES
MARK = PROMPT.verifier["answer_after"]
NEW_TOKENS = 96
ONE_OPERATION = 12  # tokens of a line of a working


def get_config(start: str = ""):
  """The recipe.

  Args:
    start: a model folder to start the second stage from; empty for both stages.
  """
  config = rlsp_smollm2.get_config(start)
  config.task = dict(
      kind="file", name="gsm8k", train="data/gsm8k/train.jsonl", test="data/gsm8k/test.jsonl",
      **PROMPT.task())
  config.prompt_buckets = (128, 192)
  if not start:
    config.sft = dict(
        kind="sft", steps=40, batch_size=4, length=320, num_examples=2000,
        optimizer=dict(learning_rate=5e-5, warmup_steps=5, schedule="linear"))
  config.rl.update(steps=24, min_reasoning_tokens=ONE_OPERATION)
  config.rl.sampling.max_new_tokens = NEW_TOKENS
  config.rl.rewards.verifier.options = dict(no_box_score=-0.5, answer_after=MARK)
  config.rl.rewards.format = dict(weight=0.0, options=dict(answer_after=MARK))
  config.rl.rewards.random = dict(weight=0.0)
  config.evaluation = dict(
      split="test", num_problems=200, batch_size=50, max_new_tokens=NEW_TOKENS, num_samples=4,
      verifier_options=dict(PROMPT.verifier))  # also of a run without the second stage
  return config
