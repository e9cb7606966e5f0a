"""How a result was made, as summary.json and `evaluate --output` hold it under "provenance".

    seed, data, task, template, sampling, grader   what reproduces the result
    problems                                       how many, their digest, the first prompt as read
    processes                                      of process.py

All but `processes` are the same on every machine that runs a config and its files. A process that
resumes a run on something else has a separate entry, from its first step on.

Not here: every field of a run, which is in config.json, and the files' checksums (inputs.py).
"""

import hashlib
from typing import Any

from rlreason import config as config_lib, records, rollout
from rlreason.data.tasks.load import verifier_of
from rlreason.evaluation import completions as completions_lib
from rlreason.evaluation.completions import Completions
from rlreason.tokenizers import Tokenizer
from rlreason.training.settings.recipe import Recipe

_GRADING = ("which_box", "verifier_options")  # fields of an evaluation that define its grading
# Fields about when it is measured and reported, not how.
_TIMES = ("every_stage", "every_steps", "stop_after", "expected")

Provenance = dict[str, Any]


def describe(recipe: Recipe, tokenizer: Tokenizer, inputs: dict[str, dict[str, str]]) -> Provenance:
  """The data that reproduce a result; the same on every machine.

  Args:
    recipe: of the run or the evaluation.
    tokenizer: of the policy.
    inputs: checksums of the files that are read, as from `inputs.read_inputs`.
  """
  record = records.with_defaults(config_lib.to_dict(recipe), recipe)
  evaluation = record["evaluation"]
  template = tokenizer.chat_template
  return {
      "seed": recipe.seed,
      "data": inputs,
      "task": record["task"],
      "template": {
          "sha256": None if template is None else hashlib.sha256(template.encode()).hexdigest(),
          "options": dict(tokenizer.chat_options),
          "end_tokens": [tokenizer.decode([i], skip_special=False) for i in tokenizer.eos_ids]},
      "sampling": {name: value for name, value in evaluation.items()
                   if name not in (*_GRADING, *_TIMES)},
      "grader": {
          "verifier": config_lib.to_dict(verifier_of(recipe.task)),
          "function": config_lib.to_dict(recipe.grading.function),
          "options": evaluation["verifier_options"] | {"which_box": evaluation["which_box"]},
          "timeout_seconds": recipe.reward_timeout},
  }


def of_problems(tokenizer: Tokenizer, completions: Completions) -> dict[str, Any]:
  """The problems: their number, their digest, and the first as the model reads it."""
  if not completions:
    return {"count": 0, "sha256": completions_lib.digest([]), "first_prompt": None}
  ids = rollout.encode_prompt(tokenizer, {"prompt": completions[0]["prompt"]})
  return {
      "count": len({row["problem"] for row in completions}),
      "sha256": completions_lib.digest(completions),
      "first_prompt": tokenizer.decode(ids, skip_special=False)}


def rows(provenance: Provenance) -> list[tuple[str, Any]]:
  """(name, value) of the main entries, for a table."""
  found = [(name, value) for name, value in provenance.items() if name != "processes"]
  for process in provenance.get("processes", ()):
    begin = f"from step {process['from_step']}: " if process["from_step"] else ""
    found += [(begin + name, value) for name, value in process.items() if name != "from_step"]
  return found
