r"""GRPO on Countdown with a language model: reach a target from three or four numbers.

The question of TinyZero (https://github.com/Jiayi-Pan/TinyZero): at which size does a base model
start to learn search and self-verification?

    rlreason data countdown --from=FOLDER_OR_FILE
    rlreason train --config=experiments/countdown_llm.py --workdir=runs/countdown_llm \
      --config.model.path=DIR

FOLDER_OR_FILE is Jiayi-Pan/Countdown-Tasks-3to4 as downloaded, whose last 1,024 problems are the
test set; `--from=generated` uses problems of this package's Countdown task instead. DIR is a
Hugging Face folder, by default of Qwen2.5-3B. The answer is an expression in a box, which must use
each number exactly once. The argument after the colon may be the prompt: `boxed` (the default) or
`qwen_math` (rlreason/data/question_prompts.py).

Expected: TinyZero reports that Qwen2.5-3B learns the task and models of 0.5B parameters do not. Not
run here; no published figure for these settings was found.
"""

from question_files import check_words, grpo, read_argument


def get_config(argument: str = ""):
  """The recipe.

  Args:
    argument: the name of a prompt.
  """
  prompt, words = read_argument(argument, "boxed")
  check_words(words, ())
  if prompt.verifier:
    raise ValueError("recipe: the verifier of Countdown reads boxes, allowed: boxed, qwen_math")
  config = grpo(
      "data/countdown/train.jsonl", "data/countdown/test.jsonl", prompt, num_prompts=256,
      group_size=5, minibatch_size=1280, max_new_tokens=1024)
  config.task.update(name="countdown", verifier="countdown")
  config.model.path = "models/Qwen2.5-3B"
  config.evaluation.num_problems = 1024
  return config
