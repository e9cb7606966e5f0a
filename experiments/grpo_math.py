r"""GRPO on MATH or DeepScaleR, evaluated on MATH-500.

    rlreason data math --from=FOLDER --to=data/math
    rlreason data math500 --from=FOLDER_OR_FILE --to=data/math500
    rlreason train --config=experiments/grpo_math.py --workdir=runs/math --config.model.path=DIR

DIR is a Hugging Face folder, by default of Qwen2.5-Math-1.5B. The argument after the colon may
contain `deepscaler` (40,315 problems; `rlreason data deepscaler`) and the prompt: `qwen_math` (the
default), `boxed`, `r1` or `hashes` (rlreason/data/question_prompts.py), as in
`grpo_math.py:deepscaler,boxed`.

Expected: Qwen2.5-Math-1.5B goes from 39.8% to 71.8% on MATH-500 by a policy gradient on a single
problem of DeepScaleR (arXiv 2504.20571, the ablation of its losses). Not run here.
"""

from question_files import check_words, grpo, read_argument


def get_config(argument: str = ""):
  """The recipe.

  Args:
    argument: comma-separated words: the name of a prompt, and `deepscaler`.
  """
  prompt, words = read_argument(argument, "qwen_math")
  check_words(words, ("deepscaler",))
  data = "deepscaler" if words else "math"
  config = grpo(
      f"data/{data}/train.jsonl", "data/math500/test.jsonl", prompt, num_prompts=128, group_size=8,
      minibatch_size=1024, max_new_tokens=3072)
  config.task.name = "math"
  config.model.path = "models/Qwen2.5-Math-1.5B"
  config.rl.length_buckets = (1024, 2048)
  config.prompt_buckets = (128, 256, 512, 1024)
  config.evaluation.expected = dict(
      metric="greedy", recipe="grpo_math", is_published=True, num_problems=500,
      points=dict(start=(0.356, 0.442), rl=(0.677, 0.756)),  # 39.8% and 71.8%
      source="Qwen2.5-Math-1.5B on one problem, arXiv 2504.20571")
  return config
