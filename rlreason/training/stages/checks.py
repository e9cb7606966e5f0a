"""Checks that several stages make before a run; each raises an error that names the field."""

import dataclasses

from rlreason import hub
from rlreason.data import files
from rlreason.training.settings.base import StageConfig
from rlreason.training.stages.sources import is_of_stage

_ROWS = ("num_prompts", "carried_prompts", "prompts_at_once", "batch_size")  # of a stage
_PASS_ROWS = ("minibatch_size", "micro_batch_size")  # of its algorithm


def check_source(name: str, source: str, columns: str):
  """Raises FileNotFoundError or ValueError if a source is not a readable file."""
  if not source or is_of_stage(source):
    return
  try:
    files.find_files(source)
  except FileNotFoundError as error:
    raise FileNotFoundError(
        f"{name}: {source!r} not found, allowed: a file ({files.KINDS}) of {columns}, a folder of "
        f"such files, or 'stage:' and the name of a stage"
        f"{hub.hint(source, 'dataset')}") from error
  except ValueError as error:
    raise ValueError(f"{name}: {error}") from error


def check_top_k(top_k: int, vocab_size: int):
  """Raises ValueError if a filter of the sampler would keep every token."""
  if top_k >= vocab_size:
    raise ValueError(
        f"sampling.top_k: got {top_k}, allowed: less than the {vocab_size} tokens of the model, or "
        "0, which is all")


def check_bigrams(bigrams: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...], vocab_size: int):
  """Raises ValueError if a pair of the sampler's blocked bigrams could never occur."""
  for pair in bigrams:
    if not all(any(0 <= token < vocab_size for token in tokens) for tokens in pair):
      raise ValueError(
          f"sampling.blocked_bigrams: got {pair}, allowed: pairs with ids below {vocab_size}, the "
          "tokens of the model")


def check_split(stage: StageConfig, count: int):
  """Raises ValueError if `count` devices cannot split the rows of a stage's programs."""
  rows = {name: vars(stage)[name] for name in _ROWS if name in vars(stage)}
  for section, fields in vars(stage).items():
    if dataclasses.is_dataclass(fields):
      rows |= {f"{section}.{name}": vars(fields)[name] for name in _PASS_ROWS
               if name in vars(fields)}
  for name, size in rows.items():
    if size % count:
      raise ValueError(
          f"{name}: got {size}, allowed: a multiple of {count}, the number of devices that split "
          "the rows")
