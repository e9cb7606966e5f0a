"""The shapes of a recipe's models, without their weights."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

from rlreason import models, weights
from rlreason.data.tasks.load import vocabulary
from rlreason.models import ModelConfig
from rlreason.models.families import config_from_hf
from rlreason.tokenizers import WordTokenizer
from rlreason.training.planning import published
from rlreason.training.settings.recipe import NewModel, Recipe
from rlreason.training.setup import new_model_config, with_choices


class Shape(NamedTuple):
  """A model to plan with."""

  model: ModelConfig
  stop_ids: tuple[int, ...]
  source: str  # for the user: what says so


def policy_shape(recipe: Recipe, config_file: str | None = None) -> Shape:
  """The policy of a recipe, with its adapters.

  Args:
    recipe: the recipe.
    config_file: a `config.json` to read instead of that of the model's folder.

  Raises:
    FileNotFoundError, ValueError: nothing says what the model is.
  """
  choice = recipe.model
  if isinstance(choice, NewModel):
    words = vocabulary(recipe.task)
    if words is None:
      raise ValueError("config.model.kind: got 'new' with a task that has no vocabulary of its own,"
                       " allowed: 'pretrained', or the tasks 'chain' and 'countdown'")
    tokenizer = WordTokenizer.from_words(words)
    found = Shape(new_model_config(choice, tokenizer.vocab_size), tokenizer.eos_ids, "new")
  else:
    found = model_shape(choice.path, "config.model.path", config_file)
    found = found._replace(model=dataclasses.replace(
        found.model, dtype=choice.dtype, param_dtype=choice.param_dtype))
  model = dataclasses.replace(with_choices(found.model, choice), lora=recipe.lora)
  return found._replace(model=model)


def model_shape(path: str, field: str, config_file: str | None = None) -> Shape:
  """The model of a folder or file: by its files, by `config_file`, or by its published name."""
  if config_file is not None:
    return _from_fields(_read(pathlib.Path(config_file), "--model_config"), config_file)
  try:
    model, tokenizer = weights.open_model(weights.find_model(path))
    return Shape(models.with_tokens(model, tokenizer.vocab_size), tokenizer.eos_ids, path)
  except (FileNotFoundError, ValueError):
    pass  # there may be a part of it
  file = pathlib.Path(path) / "config.json"
  if file.is_file():
    return _from_fields(_read(file, field), str(file))
  known = published.find(path)
  if known is None:
    raise FileNotFoundError(
        f"{field}: {path!r} not found, and not named after one of {', '.join(published.PUBLISHED)}:"
        " give its shape with --model_config=FILE, a config.json")
  return _from_fields(known[1], f"{path} (not here: the published shape of {known[0]})")


def _read(file: pathlib.Path, field: str) -> dict[str, Any]:
  try:
    return json.loads(file.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{field}: {str(file)!r} is no JSON: {error}") from error


def _from_fields(fields: Mapping[str, Any], source: str) -> Shape:
  """Without a tokenizer all ids are tokens, and the config's end-of-text stops a completion."""
  model = config_from_hf(fields)
  ends = fields.get("eos_token_id")
  ends = [ends] if isinstance(ends, int) else ends or [model.vocab_size - 1]
  return Shape(model, tuple(int(end) for end in ends), source)
