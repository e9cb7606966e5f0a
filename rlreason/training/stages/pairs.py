"""Pairs of completions, or completions with verdicts, as preference and reward models read them."""

import pathlib
from typing import Any, Literal

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


Form = Literal["pairs", "verdicts", "rankings"]
_NAMES = {"pairs": ("chosen", "rejected"), "verdicts": ("completion",), "rankings": ("ranking",)}


def form_of(has_pairs: bool) -> Form:
  """The form of examples that are pairs, or else have verdicts."""
  return "pairs" if has_pairs else "verdicts"


def columns(form: Form) -> str:
  """The columns that rows of a file must have, for messages."""
  verdict = ("is_right",) if form == "verdicts" else ()
  return f"{{{', '.join(('prompt', *_NAMES[form], *verdict))}}}"


def fitting_rows(
    setup: Setup, stage: PreferenceStage | RewardModelStage, folder: pathlib.Path, form: Form
) -> tuple[list[dict[str, Any]], int]:
  """Tokenised rows whose prompt and completions fit, and the number of others.

  Each is {"prompt", "completions", "is_desirable", "weight"}, the first two in token ids.
  """
  texts = ["prompt", *_NAMES[form]]
  rows, fitting = sources.read_rows(stage, "examples", setup.tokenizer, folder, texts), []
  bad_rows, width = BadRows(f"config.{stage.name}"), max(setup.recipe.prompt_buckets)
  for i in tracking.each("tokenising pairs", len(rows)):
    try:
      row = _tokenize(setup.tokenizer, form, rows[i])
      longest = max(len(ids) for ids in row["completions"])
      if len(row["prompt"]) > width or longest > stage.completion_length:
        raise ValueError(f"prompt of {len(row['prompt'])} and completion of {longest} tokens, "
                         f"allowed: {width} and {stage.completion_length}")
      fitting.append(row)
    except ValueError as error:
      bad_rows.add(origin(rows, i), error)
  bad_rows.finish(len(rows))
  return fitting, len(bad_rows)


def check_rows(setup: Setup, stage: PreferenceStage | RewardModelStage, form: Form):
  """Raises ValueError if no row fits; rows of a stage do not exist yet."""
  if not sources.is_of_stage(stage.examples):
    fitting_rows(setup, stage, pathlib.Path(), form)


def _tokenize(tokenizer: Tokenizer, form: Form, row: Row) -> dict[str, Any]:
  if form == "verdicts" and row.get("is_right") is None:
    raise ValueError("is_right is missing: a completion without a verdict")
  weight = 1.0 if row.get("weight") is None else row["weight"]
  if not (isinstance(weight, (int, float)) and weight >= 0):
    raise ValueError(f"weight: got {weight!r}, allowed: a number of 0 or more")
  if form == "rankings":
    completions = [
        sources.completion_ids(tokenizer, {"prompt": row["prompt"], "text": text}, "text")
        for text in row["ranking"]]
  else:
    completions = [sources.completion_ids(tokenizer, row, name) for name in _NAMES[form]]
  return {"prompt": rollout_lib.encode_prompt(tokenizer, row), "completions": completions,
          "is_desirable": bool(row.get("is_right")), "weight": weight}


def pad_batch(
    rows: list[dict[str, Any]], width: int, length: int, pad_id: int, form: Form = "pairs",
    count: int = 2,
) -> PairBatch:
  """One shape for all batches: prompts of `width` columns, completions of `length`.

  `count` is the number of completions of a ranking.
  """
  made = fitting.make_prompts([row["prompt"] for row in rows], [width], pad_id=pad_id)
  count = count if form == "rankings" else len(rows[0]["completions"])
  tokens = np.zeros((len(rows), count, length), np.int32)
  mask = np.zeros(tokens.shape, bool)
  for i, row in enumerate(rows):
    for j, ids in enumerate(row["completions"]):
      tokens[i, j, :len(ids)], mask[i, j, :len(ids)] = ids, True
  if count >= 2:
    return PairBatch(
        prompt_tokens=made.tokens, prompt_mask=made.mask, completion_tokens=tokens,
        completion_mask=mask)
  return unpaired_batch(
      made.tokens, made.mask, tokens[:, 0], mask[:, 0],
      np.array([row["is_desirable"] for row in rows]))
