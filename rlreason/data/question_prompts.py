r"""Common prompts: the wording of a question, and where the verifier looks for the answer.

Scores of one model differ by ten points and more between them, so a result should name its prompt.
Each is a (template, system, is_chat, verifier options) that a recipe passes on:

    config.task = dict(kind="file", ..., **question_prompts.BOXED.task())
"""

from typing import Any, NamedTuple

_STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."


class QuestionPrompt(NamedTuple):
  """How a question becomes a prompt.

  Attributes:
    template: the user's turn, or the whole prompt; `{question}` is the question.
    system: the system message before it; empty: that of the model's chat template, if it has one.
    is_chat: whether the prompt goes through the chat template.
    verifier: options of the verifier: the position of the answer.
    answer: a bare answer in the requested form; `{answer}` is the answer.
  """

  template: str
  system: str = ""
  is_chat: bool = True
  verifier: dict[str, Any] = {}
  answer: str = "\\boxed{{answer}}"

  def task(self) -> dict[str, Any]:
    """The fields of a task in a config."""
    return {"template": self.template, "system": self.system, "is_chat": self.is_chat}


# After the question, as in evaluations of DeepSeek-R1 and its distilled models (their README).
BOXED = QuestionPrompt("{question}\n" + _STEP_BY_STEP)
# As the system message: Qwen2.5-Math and Qwen2.5-Instruct (their README).
QWEN_MATH = QuestionPrompt("{question}", system=_STEP_BY_STEP)
# DeepSeek-R1-Zero, https://arxiv.org/abs/2501.12948, table 1: for base models, without a template.
R1 = QuestionPrompt(
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves "
    "it. The assistant first thinks about the reasoning process in the mind and then provides the "
    "user with the answer. The reasoning process and answer are enclosed within <think> </think> "
    "and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
    "<answer> answer here </answer>. User: {question}. Assistant:",
    is_chat=False, verifier={"answer_tags": True},
    answer=" <think> </think> <answer> {answer} </answer>")
# GSM8K's own mark, as requested in verl's example.
HASHES = QuestionPrompt(
    '{question} Let\'s think step by step and output the final answer after "####".',
    verifier={"answer_after": "####"}, answer="#### {answer}")

BY_NAME = {"boxed": BOXED, "qwen_math": QWEN_MATH, "r1": R1, "hashes": HASHES}
