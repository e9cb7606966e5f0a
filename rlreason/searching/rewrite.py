"""System 2 Attention: the policy writes the prompt again, and answers only that.

Weston and Sukhbaatar 2023, https://arxiv.org/abs/2311.11829. Two calls: the first keeps what
matters of a prompt, as "Context:" and "Question:"; the second sees nothing else, because text that
is still there attracts attention. Words before "Context:" are dropped, and a rewriting without a
question keeps the original prompt, as does one that is too long.
"""

import re
from typing import Any

from rlreason.data.tasks.base import Row
from rlreason.searching.config import SearchConfig

_PARTS = re.compile(r"(?:.*?context\s*:)?\s*(.*?)\s*question\s*:\s*(\S.*)", re.I | re.S)


def prompt_text(prompt: Any) -> str:
  """The text of a prompt, or of the last message of a chat."""
  return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def request(config: SearchConfig, row: Row) -> Row:
  """The prompt of the first call."""
  return {"prompt": _with_text(
      row["prompt"], config.rewrite.replace("{prompt}", prompt_text(row["prompt"])))}


def rewritten(config: SearchConfig, row: Row, text: str) -> Row | None:
  """The prompt of the second call, from the text of the first; None without a question in it."""
  found = _PARTS.fullmatch(text.strip())
  if not found:
    return None
  context, question = found[1].strip(), found[2].strip()
  new = f"{context}\n{question}" if context else question
  if config.keep_original:
    new = f"{prompt_text(row['prompt'])}\n\n{new}"
  return {"prompt": _with_text(row["prompt"], new)}


def _with_text(prompt: Any, text: str) -> Any:
  if isinstance(prompt, str):
    return text
  return [*prompt[:-1], {**prompt[-1], "content": text}]
