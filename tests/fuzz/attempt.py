"""What is done with one damaged model, in a process that may die of it."""

import dataclasses
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from rlreason import main, models, weights
from rlreason.tokenizers import chat
from tests.fuzz import mutations
from tests.fuzz import seeds

_ALONE_SECONDS = 300
MESSAGES = [{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "2"},
            {"role": "user", "content": "Why?"}]


def run(path: pathlib.Path, name: str, progress) -> None:
  """Loads a model and uses its tokenizer and template, then converts it; raises as they do."""
  progress("load")
  if name == "adapters":
    weights.load_adapters(path, dataclasses.replace(seeds.ADAPTED, lora=None))
    return
  path = path / "model.gguf" if name.startswith("gguf") else path
  load = weights.load_scalar_model if name == "reward model" else weights.load_model
  config, params, tokenizer = load(path)
  progress("forward")
  tokens = np.zeros((1, 3), np.int32)
  jax.eval_shape(lambda: models.forward(config, params.get("trunk", params), tokens, tokens + 1))
  progress("encode")
  tokenizer.decode(tokenizer.encode("a b 12 <end> \ud83d".encode(errors="replace").decode()))
  if tokenizer.chat_template is not None:
    progress("chat")
    chat.encode_prompt(tokenizer, MESSAGES)
  if name == "reward model":
    return
  progress("convert")
  weights.convert(path, path.parent / "converted")


def judge(path: pathlib.Path, name: str, progress) -> dict[str, Any]:
  """What came of it: outcome (loaded, refused or uncaught), message."""
  try:
    run(path, name, progress)
  except (ValueError, OSError) as error:
    if not main._is_for_user(error):
      return {"outcome": "uncaught", "message": f"{type(error).__name__}: {error}"[:400]}
    is_line = "\n" not in str(error)
    return {"outcome": "refused" if is_line else "several lines", "message": str(error)[:400]}
  except BaseException as error:  # panics of Rust are no Exception
    return {"outcome": "uncaught", "message": f"{type(error).__name__}: {error}"[:400]}
  return {"outcome": "loaded", "message": ""}


def damage(folder: pathlib.Path, seed_folder: pathlib.Path, number: int) -> tuple[str, str]:
  """Makes case `number` in `folder`: the name of its seed, and what was damaged."""
  chance = random.Random(number)
  name = chance.choice(list(seeds.SEEDS))
  shutil.copytree(seed_folder / name, folder)
  return name, mutations.mutate_folder(folder, chance)


def main_loop(seed_folder: pathlib.Path) -> None:
  """Reads numbers of cases, a line each; writes lines of JSON: stages, then the outcome."""
  replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
  os.dup2(2, 1)
  send = lambda **fields: (replies.write(json.dumps(fields) + "\n"), replies.flush())
  for line in sys.stdin:
    signal.alarm(_ALONE_SECONDS)  # should nobody be left to end it
    with tempfile.TemporaryDirectory(prefix="fuzz-") as parent:
      folder = pathlib.Path(parent) / "model"
      name, how = damage(folder, seed_folder, int(line))
      send(seed=name, damage=how)
      start = time.perf_counter()
      result = judge(folder, name, lambda stage: send(stage=stage))
      seconds = time.perf_counter() - start
    peak = max(resource.getrusage(who).ru_maxrss
               for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    send(**result, seconds=seconds, kilobytes=peak)


if __name__ == "__main__":
  main_loop(pathlib.Path(sys.argv[1]))
