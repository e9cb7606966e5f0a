"""Chat messages to text, to token ids, and to the mask of what the assistant wrote.

Templates come with downloaded models and are untrusted: `template_worker.py` renders them.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from rlreason.tokenizers import template_pool
from rlreason.tokenizers.base import Tokenizer

Message = Mapping[str, Any]  # role (system, user, assistant) and content


@dataclasses.dataclass(frozen=True)
class ChatTokens:
  """A tokenised conversation."""

  ids: list[int]
  completion_mask: list[bool]  # True on the assistant's tokens, its end tokens included


def render(
    tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = False,
    **variables: Any,
) -> str:
  """Renders messages with the tokenizer's chat template.

  Args:
    tokenizer: has the template.
    messages: role and content of each turn.
    add_generation_prompt: whether the text ends where the assistant is to write.
    **variables: further variables of the template, such as `date_string` or `enable_thinking`.

  Returns:
    The text, special tokens spelled out.

  Raises:
    ValueError: there is no template, it is not valid, refuses these messages, or takes more time
      or memory than rendering can.
  """
  if tokenizer.chat_template is None:
    raise ValueError(
        "chat_template: got None, expected a tokenizer with a template, or prompts as plain text")
  if tokenizer.bos_id is not None:
    variables = {"bos_token": _spelled(tokenizer, tokenizer.bos_id), **variables}
  variables = {"eos_token": _spelled(tokenizer, tokenizer.eos_ids[0]),
               "pad_token": _spelled(tokenizer, tokenizer.pad_id),
               "tools": None, "documents": None,  # templates may ask whether they are none
               **variables}
  return template_pool.render(
      tokenizer.chat_template, messages,
      {"add_generation_prompt": add_generation_prompt, **variables})


def encode_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], **variables: Any
) -> list[int]:
  """Ids of a conversation up to where the assistant is to write.

  The begin token is the template's business: none is added here.
  """
  return tokenizer.encode(
      render(tokenizer, messages, add_generation_prompt=True, **variables), add_special=False)


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], **variables: Any
) -> ChatTokens:
  """Ids of a whole conversation, and which of them the assistant wrote.

  With a template that writes `<role> content <end>` and a line break after each turn:

      ids              <user> hi <end> \\n <assistant> hello <end> \\n
      completion_mask   0     0   0    0   0           1     1     0

  What a turn is, is found by rendering the conversation up to it and up to its end: the ids of the
  prompt must be the first ids of prompt and completion, as they are when the model samples.

  Args:
    tokenizer: has the template.
    messages: role and content of each turn; at least one of the assistant.
    **variables: further variables of the template.

  Returns:
    The ids and the mask, of one length.

  Raises:
    ValueError: no assistant turn, or a template or text for which the mask would be wrong.
  """
  turns = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
  if not turns:
    raise ValueError("messages: got no assistant turn, expected at least one")
  ids = tokenizer.encode(render(tokenizer, messages, **variables))
  mask = [False] * len(ids)
  for turn in turns:
    start = len(_prefix(tokenizer, ids, messages[:turn], True, variables))
    stop = len(_prefix(tokenizer, ids, messages[:turn + 1], False, variables))
    ends = [i for i in range(start, stop) if ids[i] in tokenizer.eos_ids]
    if not ends:
      tail = tokenizer.decode(ids[max(start, stop - 3):stop], skip_special=False)
      raise ValueError(
          f"the chat template ends an assistant turn with {tail!r}, without an end token of this "
          f"tokenizer ({[_spelled(tokenizer, i) for i in tokenizer.eos_ids]}); name the template's "
          "own in end_tokens when loading")
    mask[start:ends[-1] + 1] = [True] * (ends[-1] + 1 - start)
  return ChatTokens(ids=ids, completion_mask=mask)


def _prefix(
    tokenizer: Tokenizer, ids: list[int], messages: Sequence[Message], add_generation_prompt: bool,
    variables: Mapping[str, Any],
) -> list[int]:
  """Ids of the beginning of a conversation; raises unless `ids` starts with them."""
  text = render(tokenizer, messages, add_generation_prompt=add_generation_prompt, **variables)
  prefix = tokenizer.encode(text)
  if ids[:len(prefix)] != prefix:
    same = next((i for i, (a, b) in enumerate(zip(prefix, ids)) if a != b), len(ids))
    got = tokenizer.decode(ids[same:same + 4], skip_special=False)
    want = tokenizer.decode(prefix[same:same + 4], skip_special=False)
    raise ValueError(
        f"the ids of the first {len(messages)} messages are not the first ids of the conversation: "
        f"from token {same} on {want!r} became {got!r}. Either the completion begins with "
        "characters that join the prompt's last token (strip it), or the template rewrites earlier "
        "turns (make one example per assistant turn)")
  return prefix


def _spelled(tokenizer: Tokenizer, token_id: int) -> str:
  return tokenizer.decode([token_id], skip_special=False)
