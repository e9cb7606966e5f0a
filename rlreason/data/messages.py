"""Converts chats from the formats of published data sets to lists of {role, content}.

Formats: OpenAI's `role` and `content`, whose content may be a list of parts; ShareGPT's `from` and
`value`; a single message; alternating texts, the user's first; one list per column, as in older
Arrow files; any of these as text in a column, as JSON or as printed by Python and numpy; and
transcripts, `Human: ... Assistant: ...`. Not here: templates (`tokenizers/chat.py`).
"""

import ast
from collections.abc import Mapping, Sequence
import io
import json
import re
import tokenize
from typing import Any

Message = dict[str, Any]

# Columns in which a chat is searched.
COLUMNS = ("messages", "conversations", "conversation")
ASSISTANT = "assistant"
TRANSCRIPT_TURN = "\n\nAssistant:"  # before an assistant's turn in a transcript
_ROLES = {"human": "user", "gpt": ASSISTANT, "chatgpt": ASSISTANT, "bot": ASSISTANT,
          "model": ASSISTANT, "observation": "tool", "function_response": "tool"}
_OWN_ROLES = ("system", "developer", "user", ASSISTANT, "tool")
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value")
_WEIGHTS = ("weight", "loss_mask", "train")  # whether a turn of the assistant is trained on
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
# A text that is the printed form of a chat.
_PRINTED = re.compile(r"\s*(?:array\()?\[\s*\{\s*['\"](?:role|content|from|value)['\"]\s*:")


def is_printed(text: str) -> bool:
  """Whether a text begins like the printed form of a chat."""
  return _PRINTED.match(text) is not None


def read_chat(value: Any) -> list[Message] | None:
  """The messages of a chat; None if the value is not a chat.

  Raises:
    ValueError: a message of the chat is bad.
  """
  if isinstance(value, str) and is_printed(value):
    value = parse(value)
    if value is None:
      raise ValueError("got a text that begins like chat messages, allowed: one that can be read")
  if isinstance(value, Mapping):
    value = [value] if _is_message(value) else _transposed(value)
  if not isinstance(value, list):
    return None
  if value and all(isinstance(text, str) for text in value):
    value = [{"role": ("user", ASSISTANT)[i % 2], "content": text} for i, text in enumerate(value)]
  messages = list(map(_read_message, value))
  for message in messages:
    if not message["content"].strip() and message["role"] != "system":
      raise ValueError("content: got an empty text, allowed: any other")
  messages = [message for message in messages if message["content"].strip()]
  if not messages:
    raise ValueError("messages: got an empty list, allowed: one or more")
  return messages


def ends_with_assistant(prompt: str | Sequence[Message]) -> bool:
  """Whether a prompt is a chat whose last turn is the assistant's."""
  return not isinstance(prompt, str) and bool(prompt) and prompt[-1].get("role") == ASSISTANT


def before_assistant(messages: Sequence[Message]) -> list[Message]:
  """The messages without the assistant's turns at their end."""
  messages = list(messages)
  while ends_with_assistant(messages):
    messages.pop()
  return messages


def up_to_trained(messages: Sequence[Message]) -> list[Message]:
  """The messages up to the last assistant's turn to train on.

  Raises:
    ValueError: there is none: each has the weight 0.
  """
  messages = list(messages)
  while ends_with_assistant(messages) and not is_trained(messages[-1]):
    while messages and not (ends_with_assistant(messages) and is_trained(messages[-1])):
      messages.pop()
    if not messages:
      raise ValueError(
          "weight: got 0 for every turn of the assistant, allowed: 1 for one of them or more")
  return messages


def is_trained(message: Mapping[str, Any]) -> bool:
  """Whether a message is the assistant's, and has no weight of 0."""
  return message.get("role") == ASSISTANT and message.get("weight") != 0


def read_transcript(text: str) -> list[Message] | None:
  """The turns of a `Human:` and `Assistant:` text, each after an empty line; None: no such text.

  An empty assistant's turn at the end marks the start of the completion, and is dropped.
  """
  start, *parts = _TURN.split(text.strip())
  turns = [(name, said.strip()) for name, said in zip(parts[::2], parts[1::2])]
  if turns and turns[-1] == ("Assistant", ""):
    turns.pop()
  if start or not turns or turns[0][0] != "Human" or not all(said for _, said in turns):
    return None
  return [{"role": "user" if name == "Human" else ASSISTANT, "content": said}
          for name, said in turns]


def parse(text: str) -> Any:
  """The list or object in a text, as JSON or as printed by Python or numpy; None: neither."""
  try:
    return json.loads(text)
  except (ValueError, RecursionError):
    pass
  try:
    node = ast.parse(_with_commas(text), mode="eval").body
    if isinstance(node, ast.Call) and node.args:  # array([...], dtype=object)
      node = node.args[0]
    value = ast.literal_eval(node)
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError):
    return None
  return value if isinstance(value, (list, dict)) else None


def _with_commas(text: str) -> str:
  """The text with the commas that numpy does not print between the entries of an array."""
  tokens = []
  for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline):
    if tokens and (token.string == "{" and tokens[-1][1] == "}"
                   or token.type == tokens[-1][0] == tokenize.STRING):
      tokens.append((tokenize.OP, ","))
    if token.type != tokenize.NL:
      tokens.append((token.type, token.string))
  return tokenize.untokenize(tokens).strip()


def _transposed(columns: Mapping[str, Any]) -> list[Message] | None:
  """{"role": [a, b], "content": [c, d]} as a list of messages; None for anything else."""
  names = [name for name in columns if name in (*_ROLE_KEYS, *_CONTENT_KEYS)
           and isinstance(columns[name], list)]
  if len(names) != 2 or len({len(columns[name]) for name in names}) != 1:
    return None
  return [dict(zip(names, turn)) for turn in zip(*(columns[name] for name in names))]


def _is_message(value: Mapping[str, Any]) -> bool:
  """Whether an object is one message, like chosen and rejected in ShareGPT's preference format."""
  return any(isinstance(value.get(name), str) for name in _ROLE_KEYS) and any(
      name in value for name in _CONTENT_KEYS)


def _read_message(message: Any) -> Message:
  if not isinstance(message, Mapping):
    raise ValueError(f"message: got a {type(message).__name__}, allowed: a role and a content")
  role, content = (next((message[name] for name in names if message.get(name) is not None), None)
                   for names in (_ROLE_KEYS, _CONTENT_KEYS))
  if role is None or content is None:
    filled = sorted(str(name) for name, value in message.items() if value is not None)
    raise ValueError(f"message: got {filled}, allowed: a role and a content")
  if not isinstance(role, str):
    raise ValueError(f"role: got a {type(role).__name__}, allowed: text")
  # Keys of other messages (`tool_calls`, `name`) are empty in this one: templates test whether a
  # message has them.
  others = {name: value for name, value in message.items()
            if value is not None and name not in (*_ROLE_KEYS, *_CONTENT_KEYS)}
  plain = role.strip().lower()  # templates use lower-case roles
  role = _ROLES.get(plain, plain if plain in _OWN_ROLES else role)
  others.update(_weight(others, role))
  return {"role": role, "content": _text_of(content), **others}


def _weight(others: Message, role: str) -> Message:
  """Removes the weights of a message; {"weight": 0} if it is the assistant's and not trained on."""
  weights = [others.pop(name) for name in _WEIGHTS if name in others]
  if role != ASSISTANT:
    return {}
  if not all(isinstance(weight, (bool, int, float)) and weight in (0, 1) for weight in weights):
    raise ValueError(f"weight: got {weights}, allowed: 0 or 1")
  return {} if all(weights) else {"weight": 0}


def _text_of(content: Any) -> str:
  """The text of a message: unchanged, or its concatenated parts."""
  if not isinstance(content, list):
    if not isinstance(content, str):
      raise ValueError(f"content: got a {type(content).__name__}, allowed: text")
    return content
  texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
  for part, text in zip(content, texts, strict=True):
    if not isinstance(text, str):
      kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
      raise ValueError(f"content: got a part of the type {kind!r}, allowed: text")
  return "".join(texts)


def add_to_prompt(
    prompt: str | list[dict[str, str]], suffix: str
) -> str | list[dict[str, str]]:
  """A prompt with a text appended; for chat messages, to the text of the last."""
  if isinstance(prompt, str):
    return prompt + suffix
  return [*prompt[:-1], prompt[-1] | {"content": prompt[-1]["content"] + suffix}]
