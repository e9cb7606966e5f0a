"""Shared parts of the recipes on published questions: GRPO from an instruct model, and prompts."""

from ml_collections import config_dict

from rlreason.algorithms import presets
from rlreason.data import question_prompts

FULL = "full"  # a word of a recipe's argument: the sizes for an accelerator


def read_argument(argument: str, prompt: str) -> tuple[question_prompts.QuestionPrompt, list[str]]:
  """Returns the prompt named in a recipe's argument, or `prompt`, and its other words.

  Args:
    argument: what follows the colon of a recipe's name: comma-separated words.
    prompt: the name of the prompt if the argument names none.

  Raises:
    ValueError: two prompts.
  """
  words = [word for word in argument.split(",") if word]
  named = [word for word in words if word in question_prompts.BY_NAME]
  if len(named) > 1:
    raise ValueError(f"recipe: got the prompts {', '.join(named)}, allowed: one")
  return (question_prompts.BY_NAME[named[0] if named else prompt],
          [word for word in words if word not in named])


def check_words(words: list[str], allowed: tuple[str, ...]):
  """Raises ValueError for a word that a recipe does not know."""
  for word in words:
    if word not in allowed:
      names = ", ".join([*allowed, *question_prompts.BY_NAME])
      raise ValueError(f"recipe: got {word!r} after the colon, allowed: {names}")


def grpo(
    train: str, test: str, prompt: question_prompts.QuestionPrompt, *, num_prompts: int,
    group_size: int, minibatch_size: int, max_new_tokens: int, micro_batch_size: int = 64,
) -> config_dict.ConfigDict:
  """GRPO with the settings of verl's examples; the recipe sets the sizes and may change the rest.

  A learning rate of 1e-6, k3 to the initial policy with a coefficient of 0.001 in the loss, means
  over tokens.

  Args:
    train: file of the training questions.
    test: file of the held-out questions.
    prompt: template of a question.
    num_prompts: questions of a step.
    group_size: completions of each.
    minibatch_size: completions of an update.
    max_new_tokens: of a completion.
    micro_batch_size: completions of a pass.
  """
  config = config_dict.ConfigDict()
  config.seed = 0
  # Parameters in f32: an update of 1e-6 would be lost in the 8 bits of a bf16 number.
  config.model = dict(
      kind="pretrained", path="models/Qwen2.5-0.5B-Instruct", dtype="bfloat16",
      param_dtype="float32", remat="full")
  config.task = dict(kind="file", name="questions", train=train, test=test, **prompt.task())
  config.prompt_buckets = (128, 256, 512)
  config.stages = ("rl",)
  config.optimizer = dict(learning_rate=1e-6, max_grad_norm=1.0)
  config.rl = dict(
      kind="rl", steps=105, num_prompts=num_prompts, group_size=group_size,
      sampling=dict(max_new_tokens=max_new_tokens, temperature=1.0),
      rewards=dict(verifier=dict(weight=1.0, options=dict(prompt.verifier))),
      algorithm=presets.grpo_of(
          "verl", minibatch_size=minibatch_size, micro_batch_size=micro_batch_size),
      optimizer=config.optimizer)
  config.rl.optimizer = config.optimizer  # the same object: an override reaches both
  config.evaluation = dict(
      split="test", num_problems=100_000, batch_size=256, max_new_tokens=max_new_tokens,
      num_samples=0, verifier_options=dict(prompt.verifier))  # also of a run without this stage
  config.checkpoint = dict(every_steps=20)
  return config
