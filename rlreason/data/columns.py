"""Converts a raw row of a published data set to the columns of a task row.

What a run needs (`prompt` and `answer`; `prompt` and `completion`; `prompt`, `chosen` and
`rejected`) is searched under the names used in data sets, and converted to text or chat messages;
other columns keep their names, as JSON values. The prompt of a problem never holds its solution: an
assistant's turns at its end are removed. Other parts of the prompt (a system message, a passage,
choices) are added to the question, and columns that may have been omitted are reported. Not here:
files (`data/files.py`), the forms of chats (`data/messages.py`), of values (`data/values.py`) and
of choices (`data/choices.py`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
import os.path
import re
from typing import Any, Literal

import numpy as np

from rlreason.data import choices as choices_lib
from rlreason.data import messages, step_labels, values
from rlreason.data.messages import Message
from rlreason.data.tasks.base import Row

Prompt = str | list[Message]
# The form of a question whose column is not `prompt`: text; a user's turn; or text for a template,
# with its system message left in the row.
Questions = Literal["text", "chat", "templated"]

QUESTIONS = ("problem", "question", "query", "instruction", "question_stem", "stem", "input")
ANSWERS = ("answer", "reward_model.ground_truth", "ground_truth.value", "ground_truth",
           "expected_answer", "final_answer", "correct_answer", "reference_answer", "answerkey",
           "correct", "solution", "target")
COMPLETIONS = ("response", "output", "generated_solution", "solution", "rationale", "answer")
SYSTEMS = ("system", "system_prompt", "system_message")
# A passage, put before the question; an input, put after an instruction.
CONTEXTS = ("context", "passage", "article", "body")
_INPUTS = ("input", "context")
# Whether the authors of a data set consider a row valid.
_VALID = {"answer": ("problem_is_valid",), "completion": ("problem_is_valid", "solution_is_valid")}
_MIN_WORDS = 4  # of a column that may be a part of the prompt
_REASONING = ("reasoning_content", "thinking")  # keys of the assistant's messages
_IDS = ("prompt_ids", "completion_ids", "chosen_ids", "rejected_ids")  # written by stages
# The note that counts prompts that were cut.
CUT = "removed the assistant's turns at the end of the prompt, which would hold the solution"
LEFT_OUT = "not used (`fields` can name them): "  # prefix of the notes of columns
_KNOWN = {"prompt", "completion", *messages.COLUMNS, *QUESTIONS, *ANSWERS, *COMPLETIONS, *SYSTEMS,
          *CONTEXTS, *choices_lib.COLUMNS}
# Columns that hold no part of a prompt, but replies to it or metadata.
_NO_PROMPT = re.compile(
    "answer|solution|response|completion|chosen|rejected|output|generat|reason|think|thought|"
    "attempt|trajector|cot|rationale|explan|proof|message|conversation|reward|meta|extra|judge")


def make_row(
    raw: Any, fields: Mapping[str, str] | None, required: Sequence[str],
    questions: Questions = "text", notes: Counter[str] | None = None,
) -> Row:
  """Checks one raw row and gives its columns the names of a task row.

  Args:
    raw: of a file, or of tensorflow-datasets.
    fields: our column -> a column, or a path inside one (`reward_model.ground_truth`,
      `messages.0.content`); columns that it does not name are searched.
    required: columns the row must have: prompt and answer, prompt and completion, prompt, chosen
      and rejected, prompt, steps and labels (`step_labels`), or prompt and ranking.
    questions: the form of questions.
    notes: counts where columns were found, prompts that were cut, and columns not used in them.

  Raises:
    ValueError: the row is bad; gives the reason.
  """
  notes, fields = Counter() if notes is None else notes, fields or {}
  raw = step_labels.with_steps(raw) if "steps" in required else raw
  row = _renamed(_columns(raw), fields)
  _check_valid(row, required)
  if "chosen" in required:
    ours, name = _pair(row, questions)
  elif "completion" in required:
    ours, name = _example(row, fields, notes)
  else:
    ours, name = _problem(row, fields, notes, "answer" in required)
  if name == "prompt" and fields.get("prompt", name) != name:
    name = QUESTIONS[0]  # whatever it is called there
  ours["prompt"] = _asked(row, ours["prompt"], name, questions)
  if "steps" in required:
    ours["steps"], ours["labels"] = step_labels.check_steps(
        *(values.plain(_get(row, name)) for name in ("steps", "labels")))
  elif "ranking" in required:
    ours["ranking"] = _ranking(values.plain(_get(row, "ranking")))
  for name in required:
    if name not in ours:
      ours[name] = values.text(_get(row, name), name)
  others = _others(row, ours)
  notes.update(_left_out(others, ours["prompt"]))
  return others | ours


def _ranking(texts: Any) -> list[str]:
  if not isinstance(texts, list) or len(texts) < 2 or not all(
      isinstance(text, str) and text.strip() for text in texts):
    raise ValueError("ranking: got another value, allowed: a list of two completions or more, from "
                     "the best to the worst")
  return texts


def _others(row: Row, ours: Row) -> Row:
  """The other columns, as JSON values."""
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
      raise ValueError(f"{name}: got a {type(ids).__name__}, allowed: a list of token ids, all of "
                       "them whole numbers")
  return others


def _columns(raw: Any) -> Row:
  """The columns of a raw row; a row that is only a chat has those of its last message."""
  if isinstance(raw, list) and raw and all(isinstance(turn, Mapping) for turn in raw):
    *before, last = raw
    if any(last.get(key) is not None for key in ("content", "value")):
      return {"messages": raw}
    return {"messages": before} | {
        name: value for name, value in last.items() if name not in ("role", "from")}
  if not isinstance(raw, Mapping):
    raise ValueError(f"got a {type(raw).__name__}, allowed: an object")
  row = {str(name): value for name, value in raw.items()}
  if isinstance(row.get("question"), Mapping):  # of a stem and its choices
    row = {**row.pop("question"), **row}
  return row


def _check_valid(row: Row, required: Sequence[str]):
  """Raises ValueError if the data set marks a row as bad, or the row has an image."""
  for name in _VALID.get(required[-1], ()):
    if values.is_filled(row.get(name)) and str(row[name]).lower() not in ("yes", "true", "1"):
      raise ValueError(f"{name}: got {row[name]!r}, allowed: yes, true or 1")
  for name, value in row.items():
    if isinstance(value, Mapping) and set(value) == {"bytes", "path"} and any(
        part is not None for part in value.values()):
      raise ValueError(f"{name}: got an image, allowed: text")


def find(row: Mapping[str, Any], path: str) -> tuple[Any] | None:
  """The value of a column, or at a path inside one: (value,); None if there is no such path.

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


def _renamed(row: Row, fields: Mapping[str, str]) -> Row:
  """The row under our names, as given by `fields`, and known names in their normal form.

  Known names are in lower case, with underscores for spaces (`Correct Answer`).
  """
  given = {}
  for name, path in fields.items():
    found = find(row, path)
    if found is None:
      raise ValueError(f"there is no column {path!r} for {name!r}")
    given[name], = found
  for path in fields.values():
    row.pop(path, None)
  for name in list(row):
    known = name.strip().lower().replace(" ", "_")
    if name not in _KNOWN and known in _KNOWN and known not in row:
      row[known] = row.pop(name)
  return row | given


def _get(row: Row, name: str) -> Any:
  if name not in row:
    raise ValueError(f"there is no column {name!r}")  # `BadRows` states the remedy
  return row[name]


def _all(row: Row, names: Sequence[str]) -> list[tuple[str, Any]]:
  """The columns or paths that exist and are not empty, and their values."""
  found = ((name, find(row, name)) for name in names)
  return [(name, value[0]) for name, value in found if value and values.is_filled(value[0])]


def _first(row: Row, names: Sequence[str]) -> tuple[str, Any] | None:
  """The first of them."""
  return next(iter(_all(row, names)), None)


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
  """The column of the prompt; chats that end with an assistant's turn, the solution, come last."""
  is_open = [name for name, chat in chats.items() if not messages.ends_with_assistant(chat)]
  names = [name for name in ("prompt", *is_open, *QUESTIONS, *chats) if name in row]
  return next((name for name in names if values.is_filled(row[name])), next(iter(names), None))


def _take_prompt(row: Row, name: str | None) -> Prompt:
  """Takes a prompt out of the row, with its passage and its choices."""
  value = _get(row, name or "prompt")
  del row[name or "prompt"]
  chat = messages.read_chat(values.plain(value)) if values.may_be_chat(value) else None
  if chat is None:
    prompt = values.text(value, "prompt")
    for half in _INPUTS if name == "instruction" else ():
      prompt += "\n" * bool(_passage(row, half)) + _passage(row, half)
    for half in CONTEXTS if name in QUESTIONS else ():
      if (passage := _passage(row, half)) and passage.strip() not in prompt:
        prompt = f"{passage.rstrip()}\n{prompt}"
    chat = prompt
  return chat


def _passage(row: Row, name: str) -> str:
  """The text of a column, or the texts of a list in it; "": there is none."""
  value = values.plain(row.get(name))
  if isinstance(value, list) and all(isinstance(text, str) for text in value):
    value = "\n".join(value)
  return value if isinstance(value, str) and value.strip() else ""


def _asked(row: Row, prompt: Prompt, name: str | None, questions: Questions) -> Prompt:
  """The prompt with the system message of its row, in the form of `questions`."""
  is_text = isinstance(prompt, str)
  found = next((column for column in SYSTEMS if isinstance(row.get(column), str)
                and row[column].strip()), None)
  has_own = not is_text and prompt and prompt[0]["role"] == "system"
  system = "" if found is None or has_own else row.pop(found)
  if is_text and questions == "templated":
    if system:
      row["system"] = system
    return prompt
  if is_text and questions == "text":
    return with_system(prompt, system, is_chat=False)
  if is_text and not system and name not in QUESTIONS:
    return prompt
  return with_system(prompt, system, is_chat=True)


def with_system(prompt: Prompt, system: str | None, is_chat: bool) -> Prompt:
  """A prompt after a system message, if there is one: as turns, or as one text."""
  if isinstance(prompt, str):
    if not is_chat:
      return f"{system}\n\n{prompt}" if system else prompt
    prompt = [{"role": "user", "content": prompt}]
  return [{"role": "system", "content": system}, *prompt] if system else prompt


def _with_choices(prompt: Prompt, choices: choices_lib.Choices | None) -> Prompt:
  """The prompt with the choices under its question."""
  if choices is None:
    return prompt
  if isinstance(prompt, str):
    return choices_lib.under(prompt, choices)
  *before, last = prompt
  return [*before, last | {"content": choices_lib.under(last["content"], choices)}]


def _problem(
    row: Row, fields: Mapping[str, str], notes: Counter[str], has_answer: bool
) -> tuple[Row, str | None]:
  """{prompt, answer}, and where the prompt was found."""
  chats = {}
  if not values.is_filled(row.get("prompt")):
    chats = _chats(row, messages.COLUMNS)
  name = _prompt_column(row, chats)
  prompt = _take_prompt(row, name)
  if messages.ends_with_assistant(prompt):
    prompt = messages.before_assistant(prompt)
    if not prompt:
      raise ValueError("prompt: got the assistant's turns alone, allowed: with one before them")
    notes[CUT] += 1
  _note(notes, "prompt", name)
  ours = {}
  right = _first(row, ("answer",) if "answer" in fields else ANSWERS) if has_answer else None
  choices = choices_lib.find(row, right and right[1])
  if has_answer and choices is not None and right is not None:
    ours["answer"] = choices_lib.label_of(right[1], choices)
    _note(notes, "answer", fields.get("answer", right[0]), "the label of the choice in ")
  elif has_answer:
    ours["answer"] = _answer(row, fields, notes)
  return {"prompt": _with_choices(prompt, choices), **ours}, name


def _left_out(others: Row, prompt: Prompt) -> list[str]:
  """Notes of text columns that might belong to the prompt but are not in it."""
  text = prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)
  return [LEFT_OUT + repr(name) for name, value in others.items()
          if not _NO_PROMPT.search(name.lower()) and not (
              name in choices_lib.COLUMNS and choices_lib.find({name: value}))
          and any(part.strip() not in text for part in _texts(value))]


def _texts(value: Any) -> Iterator[str]:
  """The texts in a value that have more than a few words."""
  if isinstance(value, str) and len(value.split()) >= _MIN_WORDS:
    yield value
  elif isinstance(value, (list, Mapping)):
    for part in value.values() if isinstance(value, Mapping) else value:
      yield from _texts(part)


def _note(notes: Counter[str], ours: str, name: str, part: str = ""):
  if name != ours or part:
    notes[f"{ours} from {part}{name!r}"] += 1


# Answers.


def _answer(row: Row, fields: Mapping[str, str], notes: Counter[str]) -> str:
  r"""The final answer: that of a worked solution after `####`, or in its last box."""
  found = _all(row, ("answer",) if "answer" in fields else ANSWERS)
  if not found:
    return values.text(_get(row, "answer"), "answer")  # which raises the error
  # A worked solution that marks no answer comes after columns that are an answer.
  name, value = next((entry for entry in found if values.has_answer(entry[1])), found[0])
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


def _example(
    row: Row, fields: Mapping[str, str], notes: Counter[str]
) -> tuple[Row, str | None]:
  """{prompt, completion} and perhaps {is_right}, and where the prompt was found."""
  verdict = _verdict(row)
  if values.is_filled(row.get("completion")):
    name = _prompt_column(row, _chats(row, messages.COLUMNS))
    prompt, completion = _joined(
        _take_prompt(row, name), row["completion"], "completion")
    if "completion" not in fields:
      name = "prompt"  # columns `prompt`, or before `completion`, are used unchanged
  else:
    prompt, completion, name = _found_example(row, notes)
  return {"prompt": prompt, "completion": completion, **verdict}, name


def _found_example(row: Row, notes: Counter[str]) -> tuple[Prompt, str, str | None]:
  """A chat that ends with the assistant's turn, or a question and its solution column."""
  chats = _chats(row, ("prompt", *messages.COLUMNS))
  closed = [name for name, chat in chats.items() if messages.ends_with_assistant(chat)]
  if closed:
    _note(notes, "prompt and completion", closed[0])
    return *_joined(None, _take_prompt(row, closed[0]), closed[0]), closed[0]
  found = _first(row, COMPLETIONS)
  if found is None:
    if chats:
      raise _not_closed(*next(iter(chats.items())))
    raise ValueError("there is no column 'completion' and no chat messages to take it from")
  source, value = found
  if isinstance(value, (list, np.ndarray)) and np.ndim(value) and len(value) == 1:
    value = value[0]
  completion = values.text(value, "completion")
  if source in ANSWERS and not values.is_worked(completion, source):
    raise ValueError(f"there is no column 'completion', and the {source} {completion!r} is no "
                     "working; answer_template makes examples of answers")
  name = _prompt_column(row, chats)
  prompt = _with_choices(_take_prompt(row, name), choices_lib.find(row))
  _note(notes, "prompt", name)
  _note(notes, "completion", source)
  return prompt, completion, name


def _not_closed(name: str, chat: Sequence[Message]) -> ValueError:
  return ValueError(
      f"{name}: got a last message of {chat[-1]['role']!r}, allowed: of {messages.ASSISTANT!r}")


def _joined(prompt: Prompt | None, value: Any, name: str) -> tuple[Prompt, str]:
  """A prompt and the text of its completion, which is text or chat messages.

  Messages may repeat the whole prompt first, or continue after it for some turns.
  """
  chat = messages.read_chat(values.plain(value)) if values.may_be_chat(value) else None
  if chat is None:
    if prompt is None:
      raise ValueError("there is no column 'prompt'")
    return prompt, values.text(value, name)
  if not messages.ends_with_assistant(chat):
    raise _not_closed(name, chat)
  *before, last = messages.up_to_trained(chat)
  if not before and prompt is None:
    raise ValueError(f"{name} is the assistant's turn alone, and there is no column 'prompt'")
  if isinstance(prompt, list):
    before = before if before[:len(prompt)] == prompt else prompt + before
  elif not before:
    before = [{"role": "user", "content": prompt}]
  reasoning = next((last[key] for key in _REASONING if values.is_filled(last.get(key))), None)
  if reasoning is None:
    return before, last["content"]
  # As in outputs of DeepSeek-R1, where it is not a separate field.
  return before, f"<think>\n{values.text(reasoning, 'reasoning')}\n</think>\n\n{last['content']}"


def _verdict(row: Row) -> Row:
  """{"is_right": whether a completion is right}, which TRL calls `label`; {}: unknown."""
  value = row.get("is_right")
  if value is None and (isinstance(row.get("label"), (bool, np.bool_))
                        or str(row.get("label")).lower() in ("true", "false")):
    value = row["label"]
  if not values.is_filled(value):
    return {"is_right": None} if "is_right" in row else {}
  if str(value).lower() not in ("true", "false", "0", "1", "0.0", "1.0"):
    raise ValueError(f"is_right: got {value!r}, allowed: true or false")
  return {"is_right": str(value).lower() in ("true", "1", "1.0")}


def _pair(row: Row, questions: Questions) -> tuple[Row, str | None]:
  """{prompt, chosen, rejected}, and where the prompt was found.

  The prompt may be only the common start of both.
  """
  chosen, rejected = _get(row, "chosen"), _get(row, "rejected")
  chats = _chats(row, messages.COLUMNS)
  name = _prompt_column(row, chats)
  prompt = None
  if name is not None and not messages.ends_with_assistant(chats.get(name, ())):
    prompt = _with_choices(_take_prompt(row, name), choices_lib.find(row))
  elif isinstance(chosen, str) and isinstance(rejected, str) and not values.may_be_chat(chosen):
    prompt, chosen, rejected = _common_prompt(chosen, rejected)
  if isinstance(prompt, str) and questions == "chat":
    turns = messages.read_transcript(prompt)
    if turns:
      prompt = turns
      chosen, rejected = (said.strip() if isinstance(said, str) else said
                          for said in (chosen, rejected))
  first, chosen = _joined(prompt, chosen, "chosen")
  second, rejected = _joined(prompt, rejected, "rejected")
  if first != second:
    raise ValueError("rejected: got another prompt than chosen's, allowed: the same")
  return {"prompt": first, "chosen": chosen, "rejected": rejected}, name


def _common_prompt(chosen: str, rejected: str) -> tuple[str, str, str]:
  """The common start of two texts, up to the last `Assistant:` of a transcript, and the rest."""
  common = os.path.commonprefix([chosen, rejected])
  turn = common.rfind(messages.TRANSCRIPT_TURN)
  if turn >= 0 and messages.read_transcript(chosen):
    start = turn + len(messages.TRANSCRIPT_TURN)
    if any(len(messages.read_transcript("\n\nHuman: ?\n\nAssistant:" + text[start:]) or ()) != 2
           for text in (chosen, rejected)):
      raise ValueError("rejected: got another prompt than chosen's, allowed: the same")
  else:
    start = len(re.match(r"(?:.*\s)?", common, re.DOTALL).group())
  values.text(common[:start], "prompt, which chosen and rejected begin with")
  return common[:start], chosen[start:], rejected[start:]
