"""From a raw row, as data sets are published, to the columns of a task row.

What a run needs (`prompt` and `answer`; `prompt` and `completion`; `prompt`, `chosen` and
`rejected`) is looked for under the names that data sets give it, and comes out as text or as chat
messages; other columns keep their names, as values that JSON has. The prompt of a problem never
holds its solution: an assistant's turns at its end are cut off. Not here: files (`data/files.py`),
the forms of chats (`data/messages.py`) and of values (`data/values.py`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import os.path
import re
from typing import Any, Literal

import numpy as np

from rlreason.data import messages, values
from rlreason.data.messages import Message
from rlreason.data.tasks.base import Row

Prompt = str | list[Message]

QUESTIONS = ("problem", "question", "query", "instruction")
ANSWERS = ("answer", "reward_model.ground_truth", "ground_truth", "expected_answer", "final_answer",
           "solution")
COMPLETIONS = ("response", "output", "generated_solution", "solution", "answer")
_REASONING = ("reasoning_content", "thinking")  # keys of the assistant's messages
_IDS = ("prompt_ids", "completion_ids", "chosen_ids", "rejected_ids")  # what stages write
# What prompts that were cut are counted as.
CUT = "cut off the assistant's turns at the end of the prompt, which would hold the solution"
_KNOWN = {"prompt", "completion", *messages.COLUMNS, *QUESTIONS, *ANSWERS, *COMPLETIONS}


def make_row(
    raw: Any, fields: Mapping[str, str] | None, required: Sequence[str],
    questions: Literal["text", "chat"] = "text", notes: Counter[str] | None = None,
) -> Row:
  """Checks one raw row and gives its columns the names of a task row.

  Args:
    raw: of a file, or of tensorflow-datasets.
    fields: our column -> a column, or a path inside one (`reward_model.ground_truth`,
      `messages.0.content`); what it does not name is looked for.
    required: columns the row must have: prompt and answer, prompt and completion, or prompt, chosen
      and rejected.
    questions: "chat": a question, whose completion is not called so either, is a user's turn.
    notes: counts what was found where, and prompts that were cut.

  Raises:
    ValueError: says what is wrong with the row.
  """
  if not isinstance(raw, Mapping):
    raise ValueError(f"a row must be an object. Got: {type(raw).__name__}")
  notes, fields = Counter() if notes is None else notes, fields or {}
  row = _renamed(raw, fields)
  if "chosen" in required:
    ours = _pair(row)
  elif "completion" in required:
    ours = _example(row, questions, notes)
  else:
    ours = {"prompt": _problem(row, notes)}
    if "answer" in required:
      ours["answer"] = _answer(row, fields, notes)
  for name in required:
    if name not in ours:
      ours[name] = values.text(_get(row, name), name)
  others = {}
  for name, value in row.items():
    if name not in ours:
      try:
        others[name] = values.plain(value)
      except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
  for name in _IDS:
    ids = others.get(name)
    if ids and not (isinstance(ids, list) and all(type(token) is int for token in ids)):
      raise ValueError(f"{name} must be a list of token ids")
  return others | ours


def find(row: Mapping[str, Any], path: str) -> tuple[Any] | None:
  """What stands in a column, or at a path inside one: (value,); None where there is no such place.

  A part of a path is a key or, in a list, an index; columns of text may hold JSON.
  """
  if path in row:
    return (row[path],)
  value = row
  for part in path.split("."):
    if isinstance(value, str):
      value = messages.parse(value)
    elif isinstance(value, np.ndarray) and value.ndim:
      value = list(value)
    if isinstance(value, Mapping) and part in value:
      value = value[part]
    elif (isinstance(value, list) and re.fullmatch(r"-?\d{1,9}", part)
          and -len(value) <= int(part) < len(value)):
      value = value[int(part)]
    else:
      return None
  return (value,)


def _renamed(raw: Mapping[str, Any], fields: Mapping[str, str]) -> Row:
  """The row under our names, as far as `fields` says them; capitals of known names are dropped."""
  row = {str(name): value for name, value in raw.items()}
  given = {}
  for name, path in fields.items():
    found = find(row, path)
    if found is None:
      raise ValueError(f"there is no column {path!r} for {name!r}")
    given[name], = found
  for path in fields.values():
    row.pop(path, None)
  for name in list(row):
    if name not in _KNOWN and name.lower() in _KNOWN and name.lower() not in row:
      row[name.lower()] = row.pop(name)
  return row | given


def _get(row: Row, name: str) -> Any:
  if name not in row:
    raise ValueError(f"there is no column {name!r}")
  return row[name]


def _first(row: Row, names: Sequence[str]) -> tuple[str, Any] | None:
  """The first of the columns or paths that is there and not empty, and what it holds."""
  for name in names:
    found = find(row, name)
    if found and values.is_filled(found[0]):
      return name, found[0]
  return None


# Prompts.


def _chats(row: Row, names: Sequence[str]) -> dict[str, list[Message]]:
  """The columns that hold a chat."""
  chats = {}
  for name in names:
    if values.is_filled(row.get(name)):
      chat = messages.read_chat(values.plain(row[name]))
      if chat is not None:
        chats[name] = chat
  return chats


def _prompt_column(row: Row, chats: Mapping[str, list[Message]]) -> str | None:
  """Where the prompt is: chats that end with the assistant's turn hold the solution and go last."""
  is_open = [name for name, chat in chats.items() if not messages.ends_with_assistant(chat)]
  names = [name for name in ("prompt", *is_open, *QUESTIONS, *chats) if name in row]
  return next((name for name in names if values.is_filled(row[name])), next(iter(names), None))


def _take_prompt(row: Row, name: str | None) -> Prompt:
  """Takes a prompt out of the row."""
  value = _get(row, name or "prompt")
  del row[name or "prompt"]
  chat = messages.read_chat(values.plain(value)) if values.may_be_chat(value) else None
  if chat is None:
    prompt = values.text(value, "prompt")
    for half in ("input", "context") if name == "instruction" else ():  # of Alpaca, and of Dolly
      if values.is_filled(row.get(half)):
        prompt += "\n" + values.text(row[half], half)
    return prompt
  is_sharegpt = name in messages.COLUMNS and name != "messages"
  if is_sharegpt and chat[0]["role"] != "system" and values.is_filled(row.get("system")):
    chat = [{"role": "system", "content": values.text(row.pop("system"), "system")}, *chat]
  return chat


def _problem(row: Row, notes: Counter[str]) -> Prompt:
  chats = {}
  if not values.is_filled(row.get("prompt")):
    chats = _chats(row, messages.COLUMNS)
  name = _prompt_column(row, chats)
  prompt = _take_prompt(row, name)
  if messages.ends_with_assistant(prompt):
    prompt = messages.before_assistant(prompt)
    if not prompt:
      raise ValueError("the prompt is the assistant's turns alone")
    notes[CUT] += 1
  _note(notes, "prompt", name)
  return prompt


def _note(notes: Counter[str], ours: str, name: str, part: str = ""):
  if name != ours or part:
    notes[f"{ours} from {part}{name!r}"] += 1


# Answers.


def _answer(row: Row, fields: Mapping[str, str], notes: Counter[str]) -> str:
  r"""The final answer: what a whole working says after `####`, and a solution in its last box."""
  found = _first(row, ("answer",) if "answer" in fields else ANSWERS)
  if found is None:
    return values.text(_get(row, "answer"), "answer")  # which says what is wrong with it
  name, value = found
  text, source = values.answer_text(value), fields.get("answer", name)
  final = values.final_line(text)
  if final is not None:
    row.setdefault("solution", text)
    _note(notes, "answer", source, "what follows '####' in ")
    return final
  if source.rpartition(".")[2].lower() == "solution":
    _note(notes, "answer", source, "the last box of ")
    return values.boxed_answer(text)
  _note(notes, "answer", source)
  return text


# Completions.


def _example(row: Row, questions: Literal["text", "chat"], notes: Counter[str]) -> Row:
  verdict = _verdict(row)
  if values.is_filled(row.get("completion")):
    name = _prompt_column(row, _chats(row, messages.COLUMNS))
    prompt, completion = _joined(
        _take_prompt(row, name), row["completion"], "completion")
  else:
    prompt, completion = _found_example(row, questions, notes)
  return {"prompt": prompt, "completion": completion, **verdict}


def _found_example(
    row: Row, questions: Literal["text", "chat"], notes: Counter[str]
) -> tuple[Prompt, str]:
  """A chat that ends with the assistant's turn, or a question and what is called its solution."""
  chats = _chats(row, ("prompt", *messages.COLUMNS))
  closed = [name for name, chat in chats.items() if messages.ends_with_assistant(chat)]
  if closed:
    _note(notes, "prompt and completion", closed[0])
    return _joined(None, _take_prompt(row, closed[0]), closed[0])
  found = _first(row, COMPLETIONS)
  if found is None:
    raise ValueError("the last message must be the assistant's" if chats else
                     "there is no column 'completion' and no chat messages to take it from")
  source, completion = found[0], values.text(found[1], "completion")
  if source == "answer" and not values.is_working(completion):
    raise ValueError(f"there is no column 'completion', and the answer {completion!r} is no "
                     "working; answer_template makes examples of answers")
  name = _prompt_column(row, chats)
  prompt = _take_prompt(row, name)
  if questions == "chat" and isinstance(prompt, str) and name != "prompt":
    prompt = [{"role": "user", "content": prompt}]
  _note(notes, "prompt", name)
  _note(notes, "completion", source)
  return prompt, completion


def _joined(prompt: Prompt | None, value: Any, name: str) -> tuple[Prompt, str]:
  """A prompt and the text that follows it, of a completion that is text or chat messages.

  Messages may begin with the whole of the prompt again, or go on after it for some turns.
  """
  chat = messages.read_chat(values.plain(value)) if values.may_be_chat(value) else None
  if chat is None:
    if prompt is None:
      raise ValueError("there is no column 'prompt'")
    return prompt, values.text(value, name)
  if not messages.ends_with_assistant(chat):
    raise ValueError(f"the last message of {name} must be the assistant's")
  *before, last = chat
  if not before and prompt is None:
    raise ValueError(f"{name} is the assistant's turn alone, and there is no column 'prompt'")
  if isinstance(prompt, list):
    before = before if before[:len(prompt)] == prompt else prompt + before
  elif not before:
    before = [{"role": "user", "content": prompt}]
  reasoning = next((last[key] for key in _REASONING if values.is_filled(last.get(key))), None)
  if reasoning is None:
    return before, last["content"]
  # As the outputs of DeepSeek-R1 have it, where it is no field of its own.
  return before, f"<think>\n{values.text(reasoning, 'reasoning')}\n</think>\n\n{last['content']}"


def _verdict(row: Row) -> Row:
  """{"is_right": whether a completion is right}, which TRL calls `label`; {}: it is not said."""
  value = row.get("is_right")
  if value is None and (isinstance(row.get("label"), (bool, np.bool_))
                        or str(row.get("label")).lower() in ("true", "false")):
    value = row["label"]
  if not values.is_filled(value):
    return {"is_right": None} if "is_right" in row else {}
  if str(value).lower() not in ("true", "false", "0", "1", "0.0", "1.0"):
    raise ValueError(f"is_right must be true or false. Got: {value!r}")
  return {"is_right": str(value).lower() in ("true", "1", "1.0")}


def _pair(row: Row) -> Row:
  """Two completions of a prompt, which may be nothing but what both begin with."""
  chosen, rejected = _get(row, "chosen"), _get(row, "rejected")
  chats = _chats(row, messages.COLUMNS)
  name = _prompt_column(row, chats)
  prompt = None
  if name is not None and not messages.ends_with_assistant(chats.get(name, ())):
    prompt = _take_prompt(row, name)
  elif isinstance(chosen, str) and isinstance(rejected, str) and not values.may_be_chat(chosen):
    prompt = re.match(r"(?:.*\s)?", os.path.commonprefix([chosen, rejected]), re.DOTALL).group()
    chosen, rejected = chosen[len(prompt):], rejected[len(prompt):]
    prompt = values.text(prompt, "the prompt, which chosen and rejected begin with,")
  first, chosen = _joined(prompt, chosen, "chosen")
  second, rejected = _joined(prompt, rejected, "rejected")
  if first != second:
    raise ValueError("chosen and rejected are of different prompts")
  return {"prompt": first, "chosen": chosen, "rejected": rejected}
