"""Converts chat messages to text, to token ids, and to the mask of the assistant's tokens.

Templates come with downloaded models and are untrusted: `template_worker.py` renders them.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import re
from typing import Any, TypeVar

from rlreason.boxes import opened
from rlreason.tokenizers import template_pool
from rlreason.tokenizers.base import Tokenizer

Message = Mapping[str, Any]  # role (system, user, assistant) and content
T = TypeVar("T", bound=Tokenizer)
_PROBE = "probe7text"  # templates have no reason to change it
_MAX_TAIL = 200  # characters
_OWN_VARIABLES = {"messages", "add_generation_prompt", "bos_token", "eos_token", "pad_token",
                  "raise_exception", "strftime_now", "range", "namespace", "dict", "lipsum",
                  "cycler", "joiner"}


@dataclasses.dataclass(frozen=True)
class ChatTokens:
  """A tokenised conversation."""

  ids: list[int]
  completion_mask: list[bool]  # True on the assistant's tokens, including its end tokens
  is_last_alone: bool = False  # whether the mask excludes the assistant's earlier turns


def render(
    tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = False,
    **variables: Any,
) -> str:
  """Renders messages with the tokenizer's chat template.

  Args:
    tokenizer: has the template.
    messages: role and content of each turn.
    add_generation_prompt: whether the text ends at the start of the assistant's turn.
    **variables: further variables of the template, such as `date_string` or `enable_thinking`,
      in addition to the tokenizer's `chat_options`.

  Returns:
    The text, special tokens spelled out.

  Raises:
    ValueError: there is no template, or it is invalid, refuses these messages, or takes more time
      or memory than allowed.
  """
  if tokenizer.chat_template is None:
    raise ValueError(
        "chat_template: got None, allowed: a tokenizer with a template, or prompts as plain text")
  if tokenizer.bos_id is not None:
    variables = {"bos_token": _spelled(tokenizer, tokenizer.bos_id), **variables}
  variables = {"eos_token": _spelled(tokenizer, tokenizer.eos_ids[0]),
               "pad_token": _spelled(tokenizer, tokenizer.pad_id),
               "tools": None, "documents": None,  # templates may test whether they are none
               **tokenizer.chat_options, **variables}
  return template_pool.render(
      tokenizer.chat_template, messages,
      {"add_generation_prompt": add_generation_prompt, **variables})


def encode_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], **variables: Any
) -> list[int]:
  """Ids of a conversation up to the start of the assistant's turn.

  The template adds the begin token: none is added here.
  """
  return tokenizer.encode(
      render(tokenizer, messages, add_generation_prompt=True, **variables), add_special=False)


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], **variables: Any
) -> ChatTokens:
  """Ids of a whole conversation, and the mask of the assistant's ids.

  With a template that writes `<role> content <end>` and a line break after each turn:

      ids              <user> hi <end> \\n <assistant> hello <end> \\n
      completion_mask   0     0   0    0   0           1     1     0

  A turn is located by rendering the conversation up to its start and up to its end: the ids of the
  prompt must be the first ids of prompt and completion, as in sampling.

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
    raise ValueError("messages: got no assistant turn, allowed: at least one")
  return _encode_turns(
      tokenizer, _make_text_of(tokenizer, messages, variables), len(messages), turns)


# (number of messages, whether the assistant writes next) -> the text of these first messages
_TextOf = Callable[[int, bool], str]


def _make_text_of(
    tokenizer: Tokenizer, messages: Sequence[Message], variables: Mapping[str, Any]
) -> _TextOf:
  return functools.cache(lambda count, is_prompt: render(
      tokenizer, messages[:count], add_generation_prompt=is_prompt, **variables))


def _encode_turns(
    tokenizer: Tokenizer, text_of: _TextOf, count: int, turns: Sequence[int]
) -> ChatTokens:
  """As `encode_chat`, for `count` messages, with the mask on some of the assistant's turns."""
  ids = tokenizer.encode(text_of(count, False))
  mask = [False] * len(ids)
  for turn in turns:
    start = len(_prefix(tokenizer, ids, text_of, turn, True))
    stop = len(_prefix(tokenizer, ids, text_of, turn + 1, False))
    ends = [i for i in range(start, stop) if ids[i] in tokenizer.eos_ids]
    if not ends:
      tail = tokenizer.decode(ids[max(start, stop - 3):stop], skip_special=False)
      raise ValueError(
          f"the chat template ends an assistant turn with {tail!r}, without an end token of this "
          f"tokenizer ({[_spelled(tokenizer, i) for i in tokenizer.eos_ids]}); name the template's "
          "own in end_tokens: of rr.load, of the config's model, or --end_tokens")
    mask[start:ends[-1] + 1] = [True] * (ends[-1] + 1 - start)
  return ChatTokens(ids=ids, completion_mask=mask)


def encode_example(
    tokenizer: Tokenizer, messages: Sequence[Message], **variables: Any
) -> ChatTokens:
  """As `encode_chat`, also with templates that rewrite the assistant's turns.

  Templates of reasoning models drop the reasoning from past turns, or from all of them, and open
  `<think>` in the prompt. If training on all turns of the rendered conversation is impossible, only
  the last one is trained on: the prompt, as the model gets it, is followed by the given text and
  the end of the turn.

  Args:
    tokenizer: has the template.
    messages: role and content of each turn; the last is the assistant's. Its earlier turns with a
      `weight` of 0 are context and not trained on.
    **variables: further variables of the template.

  Raises:
    ValueError: the last turn is not the assistant's, it cannot follow the prompt, or the template
      refuses the messages.
  """
  if not messages or messages[-1].get("role") != "assistant":
    role = messages[-1].get("role") if messages else None
    raise ValueError(f"messages: got a last turn of {role!r}, allowed: the assistant's")
  text_of, last = _make_text_of(tokenizer, messages, variables), len(messages) - 1
  prompt, whole, content = text_of(last, True), text_of(last + 1, False), messages[-1]["content"]
  opening = opened(prompt)
  turns = [i for i, message in enumerate(messages)
           if message.get("role") == "assistant" and (message.get("weight") != 0 or i == last)]
  said = _squeezed(opening + whole[len(prompt):])
  is_kept = whole.startswith(prompt) and (
      not isinstance(content, str) or _squeezed(content) in said)
  for chosen in dict.fromkeys([(*turns,), (last,)]) if is_kept else ():
    try:
      chat = _encode_turns(tokenizer, text_of, len(messages), chosen)
      return dataclasses.replace(chat, is_last_alone=len(chosen) < len(turns))
    except ValueError:
      continue  # another way may work; the last one raises the error
  if not isinstance(content, str):
    raise ValueError(f"content: got {content!r}, allowed: a text, with this chat template")
  ids = tokenizer.encode(
      prompt + after_opening(opening, content) + _spelled(tokenizer, turn_end_id(tokenizer)))
  start = len(_prefix(tokenizer, ids, text_of, last, True))
  return ChatTokens(ids=ids, completion_mask=[i >= start for i in range(len(ids))],
                    is_last_alone=len(turns) > 1)


def encode_completion(
    tokenizer: Tokenizer, prompt: Sequence[Message], text: str, **variables: Any
) -> list[int]:
  """Ids of an assistant's turn after a prompt, without tags that this opens, an end token last.

  Raises:
    ValueError: the text cannot follow the prompt.
  """
  opening = opened(render(tokenizer, prompt, add_generation_prompt=True, **variables))
  ids = tokenizer.encode(after_opening(opening, text))
  return ids if ids and ids[-1] in tokenizer.eos_ids else [*ids, turn_end_id(tokenizer)]


def after_opening(opening: str, text: str) -> str:
  """The rest of a completion after a prompt that ends with `opening`.

  Text without reasoning, after an open `<think>`, gets an empty one.

  Raises:
    ValueError: it has reasoning, but the prompt has closed the reasoning.
  """
  reasons = text.lstrip().startswith("<think>")
  if not opening:
    return text
  if "</think>" in opening:
    if reasons:
      raise ValueError(f"messages: got a completion that begins with <think>, after a prompt that "
                       f"ends with {opening!r}, allowed: one without reasoning, or a template "
                       "that asks for it")
    return text
  if reasons:
    rest = text.lstrip().removeprefix("<think>")
    return rest.lstrip("\n") if opening.endswith("\n") else rest
  return text if "</think>" in text else f"\n</think>\n\n{text}"


def turn_end_id(tokenizer: Tokenizer) -> int:
  """The id that closes a turn of the assistant."""
  return tokenizer.eos_ids[0] if tokenizer.turn_end_id is None else tokenizer.turn_end_id


def with_turn_end(tokenizer: T) -> T:
  """A tokenizer whose end tokens include the one with which its template closes a turn.

  It is found by rendering a turn: the special token right after the assistant's text.

  Raises:
    ValueError: the template takes more time or memory than allowed.
  """
  if tokenizer.chat_template is None:
    return tokenizer
  try:
    text = render(tokenizer, [
        {"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}])
  except template_pool.LimitError:
    raise
  except ValueError:  # a broken template, or one for other messages, raises when it is used
    return tokenizer
  # No more of it than any template needs: each iteration scans the rest.
  run, tail = [], text.rpartition(_PROBE)[2][:_MAX_TAIL] if _PROBE in text else ""
  added = tokenizer.backend.get_added_tokens_decoder()
  while starts := [i for i, token in added.items()
                   if token.content and tail.lstrip().startswith(token.content)]:
    run.append(max(starts, key=lambda i: len(added[i].content)))
    tail = tail.lstrip().removeprefix(added[run[-1]].content)
  if not run:
    return tokenizer
  # A tag such as </answer> may precede it.
  is_tag = lambda i: added[i].content.startswith("</") and i not in tokenizer.eos_ids
  found = next((i for i in run if not is_tag(i)), run[0])
  eos_ids = tuple(dict.fromkeys([*tokenizer.eos_ids, found]))
  return dataclasses.replace(tokenizer, eos_ids=eos_ids, turn_end_id=found)


def with_chat_options(tokenizer: T, options: Mapping[str, Any]) -> T:
  """A tokenizer that renders its template with further variables.

  Raises:
    ValueError: there is no template, or it does not read one of them.
  """
  if not options:
    return tokenizer
  if tokenizer.chat_template is None:
    raise ValueError(f"chat_options: got {dict(options)}, allowed: none without a chat template")
  names = set(template_pool.variable_names(tokenizer.chat_template)) - _OWN_VARIABLES
  unknown = sorted(set(options) - names)
  if unknown:
    raise ValueError(f"chat_options: got {unknown}, allowed: variables of the model's chat "
                     f"template ({', '.join(sorted(names)) or 'there are none'})")
  return dataclasses.replace(tokenizer, chat_options=dict(options))


def _squeezed(text: str) -> str:
  return "".join(text.split())


def _prefix(
    tokenizer: Tokenizer, ids: list[int], text_of: _TextOf, count: int, is_prompt: bool
) -> list[int]:
  """Ids of the start of a conversation; raises unless `ids` starts with them."""
  prefix = tokenizer.encode(text_of(count, is_prompt))
  if ids[:len(prefix)] != prefix:
    same = next((i for i, (a, b) in enumerate(zip(prefix, ids)) if a != b), len(ids))
    got = tokenizer.decode(ids[same:same + 4], skip_special=False)
    want = tokenizer.decode(prefix[same:same + 4], skip_special=False)
    raise ValueError(
        f"the ids of the first {count} messages are not the first ids of the conversation: "
        f"from token {same} on {want!r} became {got!r}. Either the completion begins with "
        "characters that join the prompt's last token (strip it), or the template rewrites earlier "
        "turns (make one example per assistant turn)")
  return prefix


def _spelled(tokenizer: Tokenizer, token_id: int) -> str:
  return tokenizer.decode([token_id], skip_special=False)
