r"""AIME 2024 and 2025: avg@32 of any model, with intervals over the problems.

    rlreason data aime24 --from=FOLDER_OR_FILE --to=data/aime24
    rlreason evaluate --config=experiments/aime.py --model=DIR --output=aime24.json

The result's `avg@32` is the share of right answers over 32 samples of each of 30 problems at a
temperature of 0.6 and a top_p of 0.95, as in the evaluation of DeepSeek-R1. Its interval is over
the problems, and wide: 30 problems cannot distinguish models that differ by ten points. The
argument after the colon may contain `aime25` and the prompt: `boxed` (the default), `qwen_math`,
`r1` or `hashes` (rlreason/data/question_prompts.py), as in `aime.py:aime25,qwen_math`.

    rlreason train --config=experiments/aime.py --workdir=runs/aime --config.model.path=DIR

trains on DeepScaleR (`rlreason data deepscaler`) and evaluates before and after.

Expected: DeepSeek-R1-Distill-Qwen-1.5B has 28.9% on AIME 2024 (arXiv 2501.12948). Not run here; no
published figure after training with these settings was found.
"""

from question_files import check_words, grpo, read_argument


def get_config(argument: str = ""):
  """The recipe.

  Args:
    argument: comma-separated words: the name of a prompt, and `aime25`.
  """
  prompt, words = read_argument(argument, "boxed")
  check_words(words, ("aime25",))
  name = "aime25" if words else "aime24"
  config = grpo(
      "data/deepscaler/train.jsonl", f"data/{name}/test.jsonl", prompt, num_prompts=128,
      group_size=8, minibatch_size=1024, max_new_tokens=8192)
  config.task.name = name
  config.model.path = "models/DeepSeek-R1-Distill-Qwen-1.5B"
  config.rl.length_buckets = (2048, 4096)
  config.prompt_buckets = (128, 256, 512, 1024)
  config.evaluation.update(
      num_problems=30, batch_size=30, max_new_tokens=32_768, num_samples=32, temperature=0.6,
      top_p=0.95)
  if name == "aime24":
    config.evaluation.expected = dict(
        metric="avg@32", recipe="aime", is_published=True, num_problems=30,
        points=dict(start=(0.158, 0.468)),  # 28.9%
        source="DeepSeek-R1-Distill-Qwen-1.5B, arXiv 2501.12948")
  return config
