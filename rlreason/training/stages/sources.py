"""The rows that stages read: from files, and from other stages."""

from collections.abc import Mapping, Sequence
import pathlib

from absl import logging

from rlreason import tokenizers
from rlreason.data.columns import Questions
from rlreason.data.sources import FileRows
from rlreason.data.tasks.base import Row, RowSource
from rlreason.tokenizers import Tokenizer
from rlreason.training.settings.base import StageConfig, stage_of
from rlreason.training.stages.base import data_file


def is_of_stage(source: str) -> bool:
  """Whether another stage writes a source, so that it does not exist before the run."""
  return stage_of(source) is not None


def read_source(
    source: str, folder: pathlib.Path, required: Sequence[str], questions: Questions = "text",
    fields: Mapping[str, str] | None = None,
) -> RowSource:
  """The rows of files, or of a stage ("stage:NAME") of the run in `folder`.

  Raises:
    FileNotFoundError, ValueError: as `FileRows`.
  """
  if is_of_stage(source):
    source = data_file(folder, stage_of(source))
  return FileRows(source, fields=fields, required=required, questions=questions)


def read_rows(
    stage: StageConfig, name: str, tokenizer: Tokenizer, folder: pathlib.Path,
    required: Sequence[str],
) -> RowSource:
  """The rows of the source that a field of the stage names, with questions as model inputs.

  Raises:
    FileNotFoundError, ValueError: as `FileRows`.
  """
  questions = "text" if tokenizer.chat_template is None else "chat"
  field = f"config.{stage.name}.{name}"
  try:
    rows = read_source(vars(stage)[name], folder, required, questions, dict(stage.fields))
  except (FileNotFoundError, ValueError) as error:
    raise type(error)(f"{field}: {error}") from error
  warn_of_plain_prompts(field, rows, tokenizer)
  return rows


def warn_of_plain_prompts(field: str, rows: RowSource, tokenizer: Tokenizer):
  """Warns if the first row of a source is text although the tokenizer has a chat template.

  Rows that a stage wrote have the sampled tokens, and are not checked.
  """
  is_sampled = "prompt_ids" in rows[0] or "completion_ids" in rows[0]
  if isinstance(rows[0]["prompt"], str) and not is_sampled and tokenizer.chat_template is not None:
    logging.warning(
        "%s: its prompts are plain text, and train as they are, without the chat template of the "
        "model; messages, and columns of another name (`question`), go through it", field)


def completion_ids(tokenizer: Tokenizer, row: Row, name: str) -> list[int]:
  """Token ids of a row's completion `name`, an end token last.

  Those that a stage sampled are unchanged (`completion_ids`).
  """
  if row.get(f"{name}_ids"):
    return row[f"{name}_ids"]
  if not isinstance(row["prompt"], str):
    return tokenizers.encode_completion(tokenizer, row["prompt"], row[name])
  ids = tokenizer.encode(row[name])
  return ids if ids and ids[-1] in tokenizer.eos_ids else [*ids, tokenizer.eos_ids[0]]
