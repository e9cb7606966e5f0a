"""Sends the metrics, the config and samples to Weights & Biases; best effort.

    <workdir>/wandb.json   project -> id of the run there, so that a resume continues it
    <workdir>/wandb/       the package's files

Only `check` may raise, before a run. The rest runs in a separate thread for which nothing waits: a
service that is unavailable, hangs or refuses gives one warning and is not used again, and
metrics.jsonl has everything. The package is imported only here, and only on request (the extra
`wandb`). `WANDB_MODE=offline` keeps everything in the workdir, for `wandb sync` later.
"""

from collections.abc import Mapping, Sequence
import json
import pathlib
import queue
import threading
from typing import Any
import uuid

from absl import logging

from rlreason import files

ID_FILE = "wandb.json"
_QUEUE = 10_000  # lines of metrics that wait to be sent
_CLOSE_SECONDS = 30.0  # that the end of a run waits for pending lines
_COLUMNS = ("prompt", "completion", "answer", "reward", "length")  # of samples


def check() -> None:
  """Checks before a run that data can be sent.

  Raises:
    ModuleNotFoundError: the package is not installed.
    ValueError: no user is logged in.
  """
  import wandb

  if not hasattr(wandb, "init"):  # it is the folder `wandb` of an earlier run
    raise ModuleNotFoundError("No module named 'wandb'", name="wandb")
  if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=False):
    raise ValueError("wandb: nobody is logged in, allowed: after `wandb login`, with the variable "
                     "WANDB_API_KEY, or with WANDB_MODE=offline")


def run_id(workdir: pathlib.Path, project: str) -> str:
  """The id of this run in a project, the same for all processes that resume it."""
  file = workdir / ID_FILE
  try:
    ids = dict(json.loads(file.read_bytes()))
  except (OSError, ValueError, TypeError):
    ids = {}
  if not isinstance(ids.get(project), str):
    ids[project] = uuid.uuid4().hex[:8]
    files.write_whole(file, json.dumps(ids, indent=2) + "\n")
  return ids[project]


class WandbLog:
  """Sends lines of metrics and tables of samples; starts with the first of them."""

  def __init__(self, workdir: pathlib.Path, project: str):
    """`project` may be preceded by its entity: entity/project."""
    self._workdir, self._project = workdir, project
    self._queue = queue.Queue(_QUEUE)
    self._thread: threading.Thread | None = None
    self._is_on = True

  def write(self, step: int, stage: str, numbers: Mapping[str, float | None]) -> None:
    """As `MetricsWriter.write`, for finite values."""
    kept = {name: number for name, number in numbers.items() if number is not None}
    self._put((step, {"stage": stage, **kept}))

  def write_samples(self, step: int, stage: str, samples: Sequence[Mapping[str, Any]]) -> None:
    """A table of completions."""
    rows = [[_cell(sample, name) for name in _COLUMNS] for sample in samples]
    self._put((step, {f"samples/{stage}": rows}))

  def close(self) -> None:
    """Waits for pending lines, for a limited time."""
    if self._thread is not None and self._is_on:
      self._put(None)
      self._thread.join(_CLOSE_SECONDS)
      if self._thread.is_alive():
        self._give_up(f"not all was sent after {_CLOSE_SECONDS:g} s")

  def _put(self, item: tuple[int, dict[str, Any]] | None) -> None:
    if not self._is_on:
      return
    if self._thread is None:
      self._thread = threading.Thread(target=self._send, name="wandb", daemon=True)
      self._thread.start()
    try:
      self._queue.put_nowait(item)
    except queue.Full:
      self._give_up(f"{_QUEUE} lines wait to be sent")

  def _give_up(self, reason: str) -> None:
    if self._is_on:
      self._is_on = False
      logging.warning(
          "wandb: %s; it gets nothing more of this run, metrics.jsonl has it all", reason)

  def _send(self) -> None:
    """The loop of the thread, from the first item to None."""
    try:
      import wandb

      entity, _, project = self._project.rpartition("/")
      run = wandb.init(
          entity=entity or None, project=project, id=run_id(self._workdir, self._project),
          name=self._workdir.name, dir=str(self._workdir), resume="allow",
          config=json.loads((self._workdir / "config.json").read_bytes()),
          settings=wandb.Settings(
              console="off", silent=True, init_timeout=_CLOSE_SECONDS,
              finish_timeout=_CLOSE_SECONDS))
      while self._is_on and (item := self._queue.get()) is not None:
        step, values = item
        tables = {name: wandb.Table(columns=list(_COLUMNS), data=rows)
                  for name, rows in values.items() if isinstance(rows, list)}
        run.log(values | tables, step=step)
      run.finish()
    except Exception as error:  # no error of the package may end a run
      self._give_up(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _cell(sample: Mapping[str, Any], name: str) -> Any:
  """A text unchanged, the messages of a chat as JSON, and the total reward."""
  if name == "reward":
    rewards = sample.get("rewards") or {}
    return rewards.get("total", rewards.get("verifier"))
  value = sample.get(name)
  return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
