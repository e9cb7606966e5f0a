"""Pairs of completions, or completions with verdicts, as preference and reward models read them."""

import pathlib
from typing import Any

import numpy as np

from rlreason import rollout as rollout_lib, tracking
from rlreason.algorithms import unpaired_batch
from rlreason.data import fitting
from rlreason.data.sources import BadRows, origin
from rlreason.data.tasks.base import Row
from rlreason.tokenizers import Tokenizer
from rlreason.training.settings.preference import PreferenceStage
from rlreason.training.settings.reward_model import RewardModelStage
from rlreason.training.stages import sources
from rlreason.training.stages.base import Setup
from rlreason.types import PairBatch


def columns(has_pairs: bool) -> str:
  """The columns that rows of a file must have, for messages."""
  return "{prompt, chosen, rejected}" if has_pairs else "{prompt, completion, is_right}"


def fitting_rows(
    setup: Setup, stage: PreferenceStage | RewardModelStage, folder: pathlib.Path, has_pairs: bool
) -> tuple[list[dict[str, Any]], int]:
  """Tokenised rows whose prompt and completions fit, and the number of others.

  Each is {"prompt", "completions", "is_desirable"}, the first two in token ids.
  """
  texts = ["prompt", *_names(has_pairs)]
  rows, fitting = sources.read_rows(stage, "examples", setup.tokenizer, folder, texts), []
  bad_rows, width = BadRows(f"config.{stage.name}"), max(setup.recipe.prompt_buckets)
  for i in tracking.each("tokenising pairs", len(rows)):
    try:
      row = _tokenize(setup.tokenizer, has_pairs, rows[i])
      longest = max(len(ids) for ids in row["completions"])
      if len(row["prompt"]) > width or longest > stage.completion_length:
        raise ValueError(f"prompt of {len(row['prompt'])} and completion of {longest} tokens, "
                         f"allowed: {width} and {stage.completion_length}")
      fitting.append(row)
    except ValueError as error:
      bad_rows.add(origin(rows, i), error)
  bad_rows.finish(len(rows))
  return fitting, len(bad_rows)


def check_rows(setup: Setup, stage: PreferenceStage | RewardModelStage, has_pairs: bool):
  """Raises ValueError if no row fits; rows of a stage do not exist yet."""
  if not sources.is_of_stage(stage.examples):
    fitting_rows(setup, stage, pathlib.Path(), has_pairs)


def _names(has_pairs: bool) -> tuple[str, ...]:
  return ("chosen", "rejected") if has_pairs else ("completion",)


def _tokenize(tokenizer: Tokenizer, has_pairs: bool, row: Row) -> dict[str, Any]:
  if not has_pairs and row.get("is_right") is None:
    raise ValueError("is_right is missing: a completion without a verdict")
  return {"prompt": rollout_lib.encode_prompt(tokenizer, row),
          "completions": [
              sources.completion_ids(tokenizer, row, name) for name in _names(has_pairs)],
          "is_desirable": bool(row.get("is_right"))}


def pad_batch(rows: list[dict[str, Any]], width: int, length: int, pad_id: int) -> PairBatch:
  """One shape for all batches: prompts of `width` columns, completions of `length`."""
  made = fitting.make_prompts([row["prompt"] for row in rows], [width], pad_id=pad_id)
  count = len(rows[0]["completions"])
  tokens = np.zeros((len(rows), count, length), np.int32)
  mask = np.zeros(tokens.shape, bool)
  for i, row in enumerate(rows):
    for j, ids in enumerate(row["completions"]):
      tokens[i, j, :len(ids)], mask[i, j, :len(ids)] = ids, True
  if count == 2:
    return PairBatch(
        prompt_tokens=made.tokens, prompt_mask=made.mask, completion_tokens=tokens,
        completion_mask=mask)
  return unpaired_batch(
      made.tokens, made.mask, tokens[:, 0], mask[:, 0],
      np.array([row["is_desirable"] for row in rows]))
