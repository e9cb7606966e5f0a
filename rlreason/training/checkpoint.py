"""Checkpoints of a run: everything needed to resume as if it had never stopped.

Orbax writes them in the background, under a temporary name. When all is written, each file gets a
checksum and is synced, and only then the folder is renamed: a process killed while saving, or a
power failure, leaves the previous checkpoint intact. A checkpoint holds a pytree of arrays
(parameters, optimiser, counters, key data), restored bitwise, and a JSON dict of the host's state
(data position, coefficients, metrics cursor).

    <workdir>/config.json                           the configuration the run was started with
    <workdir>/checkpoints/<step>/                   one checkpoint
    <workdir>/checkpoints/<step>/checksums.json     SHA-256 of each of its files
    <workdir>/checkpoints/<step>.damaged/           one that was found to be damaged

Checksums are of files, not of arrays, so that they cover everything that a resume reads, and are
verified before anything is parsed.

Not here: weights for other programs (weights/), when to save (training/loop.py), and the other
files of a run (training/workdir.py).
"""

import asyncio
from collections.abc import Collection, Iterator
from concurrent import futures
import contextlib
import errno
import hashlib
import json
import logging as python_logging
import os
import pathlib
import shutil
import sys
from typing import Any

from absl import logging
import jax
import numpy as np
from orbax import checkpoint as ocp

from rlreason import config as config_lib, files, processes, records
from rlreason.data.sources import digest

FOLDER = "checkpoints"
UNSAVED = "unsaved"  # a file in it, until the first save of the run
_CHECKSUMS = "checksums.json"
_IS_SEALED = "checksums"  # in the layout of a checkpoint that has them
_ITEMS = ("state", "host", "layout")
# Orbax changes these while it renames; a resume does not need them.
_UNCHECKED = ("_CHECKPOINT_METADATA", "commit_success.txt")
_SPARE_BYTES = 2**18  # for the small files of a checkpoint


class Checkpointer:
  """Saves and restores the state of one run. Use as a context manager, or call `close`.

  Attributes:
    damaged: step and reason of each checkpoint that was set aside when this was made.
  """

  def __init__(self, workdir: str, *, max_to_keep: int = 2, read_only: bool = False):
    """Opens the checkpoints of `workdir`, and removes incomplete files of a killed process.

    The latest is then intact: damaged ones after it are renamed to <step>.damaged.

    Args:
      workdir: the folder of the run, made if missing.
      max_to_keep: number of latest checkpoints to keep, >= 1.
      read_only: only restore; nothing is made or removed, so a running job is not disturbed.

    Raises:
      ValueError: `max_to_keep` is out of range, or all checkpoints are damaged.
      FileNotFoundError: `read_only`, and there are no checkpoints.
    """
    if max_to_keep < 1:
      raise ValueError(f"max_to_keep: got {max_to_keep}, allowed: >= 1")
    self.folder = pathlib.Path(workdir).absolute() / FOLDER
    if read_only and not self.folder.is_dir():
      raise FileNotFoundError(f"no checkpoints in {workdir!r}; expected a folder {FOLDER!r} there")
    self.damaged, self._checked, self._kept = [], [], _LatestAnd(max_to_keep)
    if not read_only:
      self.damaged, self._checked = processes.from_writer(lambda: _set_damaged_aside(self.folder))
    self._manager = ocp.CheckpointManager(
        self.folder,
        item_names=_ITEMS,
        options=ocp.CheckpointManagerOptions(
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            temporary_path_class=_SealedPath,
            preservation_policy=None if read_only else self._kept,
        ),
    )

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, kind, *unused_exception) -> None:
    try:
      self.close()
    except Exception:
      if kind is None:  # else there is an error already, and this one follows from it
        raise

  def save(self, step: int, state: Any, host_state: dict) -> bool:
    """Starts saving and returns once `state` may be changed or donated.

    Only one save runs at a time: a second waits for the first. An error of the previous one is
    raised here.

    Args:
      step: the global step of the run, not of a stage.
      state: pytree of arrays (jax, numpy or numbers; any sharding; PRNG keys allowed).
      host_state: a dict that JSON can hold.

    Returns:
      False if a checkpoint of this step already exists, which is then unchanged.

    Raises:
      ValueError: `host_state` is not JSON.
      OSError: the disk is full, or the like; names the folder. The previous checkpoint is intact.
    """
    try:
      # Orbax writes in the background, after the caller may have changed its dict.
      host_state = json.loads(json.dumps(host_state, allow_nan=False))
    except (TypeError, ValueError) as error:
      raise ValueError(
          f"host_state: got what JSON cannot hold ({error}), allowed: JSON values") from error
    if step in self._manager.all_steps():
      return False
    logging.info("saving the checkpoint of step %d", step)
    arrays = jax.tree.map(_to_array, state)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)) * 9 // 8 + _SPARE_BYTES
    with self._naming():
      # Before it starts: if one of tensorstore's threads fails, the others keep running.
      if processes.is_writer() and shutil.disk_usage(self.folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      return self._manager.save(
          step,
          force=True,
          args=ocp.args.Composite(
              state=ocp.args.StandardSave(arrays),
              host=ocp.args.JsonSave(host_state),
              layout=ocp.args.JsonSave(_layout(arrays) | {_IS_SEALED: "sha256"}),
          ),
      )

  def keep(self, steps: Collection[int]) -> None:
    """Sets which checkpoints are kept besides the latest; the next save removes the others."""
    self._kept.steps = frozenset(steps)

  def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict]:
    """Restores one checkpoint bitwise.

    Args:
      step: one of `all_steps()`.
      abstract_state: the state, or `jax.eval_shape` of what made it. It determines where each leaf
        goes: numpy arrays stay on the host, and leaves without a sharding go to the default device.

    Returns:
      The state and the host's dict.

    Raises:
      FileNotFoundError: no such checkpoint.
      ValueError: it was written with other shapes, types or names, which the message lists; or it
        is damaged.
    """
    if step not in self.all_steps():
      raise FileNotFoundError(
          f"no checkpoint of step {step} in {str(self.folder)!r}; there are: {self.all_steps()}"
      )
    self._check_layout(step, abstract_state)
    target = jax.tree.map(_to_abstract, abstract_state)
    restored = self._read(
        step, state=ocp.args.StandardRestore(target), host=ocp.args.JsonRestore())
    return restored.state, restored.host

  def restore_host(self, step: int) -> dict:
    """Only the host's dict of a checkpoint, needed before the shapes of its state are known.

    Raises:
      ValueError: it is damaged.
    """
    return self._read(step, host=ocp.args.JsonRestore()).host

  def layout(self, step: int) -> dict[str, str]:
    """The layout of a checkpoint's state: path -> type and shape, such as `float32[2, 3]`.

    Raises:
      ValueError: it is damaged.
    """
    saved = self._read(step, layout=ocp.args.JsonRestore()).layout
    return {path: kind for path, kind in saved.items() if path != _IS_SEALED}

  def _read(self, step: int, **items: Any) -> Any:
    """Items of a checkpoint, after verifying its files."""
    folder = self.folder / str(step)
    reason = None if step in self._checked else find_damage(folder)
    if reason is None:
      self._checked.append(step)
      try:
        return self._manager.restore(step, args=ocp.args.Composite(**items))
      except Exception as error:  # without checksums: any error of a damaged file
        if (folder / _CHECKSUMS).exists():
          raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    raise ValueError(f"the checkpoint of step {step} in {str(self.folder)!r} is damaged ({reason})")

  def all_steps(self) -> list[int]:
    """Steps with a complete checkpoint, in order."""
    return sorted(self._manager.all_steps())

  def latest_step(self) -> int | None:
    """The last step with a complete checkpoint."""
    return max(self.all_steps(), default=None)

  def wait(self) -> None:
    """Blocks until a running save is complete, and raises its error if it failed."""
    with self._naming():
      self._manager.wait_until_finished()
      self._manager.check_for_errors()

  def close(self) -> None:
    """Waits for a running save and releases the background threads."""
    with self._naming():
      self._manager.close()

  @contextlib.contextmanager
  def _naming(self) -> Iterator[None]:
    """Raises the system's disk error as OSError, instead of tensorstore's wrapper of it."""
    try:
      yield
    except Exception as error:
      number = _disk_error(error)
      if number is None:
        raise
      raise OSError(number, os.strerror(number), str(self.folder)) from error

  def _check_layout(self, step: int, abstract_state: Any) -> None:
    saved = self.layout(step)
    wanted = _layout(abstract_state)
    lines = [
        f"{path}: checkpoint {saved.get(path, 'nothing')}, this run {wanted.get(path, 'nothing')}"
        for path in sorted(saved.keys() | wanted.keys())
        if saved.get(path) != wanted.get(path)
    ]
    if lines:
      more = f"; and {len(lines) - 8} more" if len(lines) > 8 else ""
      raise ValueError(
          f"the checkpoint of step {step} in {str(self.folder)!r} was written with another config; "
          f"use that config or another workdir. {'; '.join(lines[:8])}{more}"
      )


def check_config(workdir: str, config: Any, free: Collection[str] = ()) -> None:
  """Writes the config to `workdir`, or checks that the run was started with it.

  Defaults are written too. A field that an older run did not write had its default.

  A run that ended before its first checkpoint cannot be resumed: its config is replaced.

  Args:
    workdir: the folder of the run, made if missing.
    config: anything `rlreason.config.to_dict` takes.
    free: paths (`config.workdir`) of fields, or groups of them, that may change on a resume.

  Raises:
    ValueError: other fields differ; lists them. Or there are checkpoints without a config.
  """
  file = pathlib.Path(workdir) / "config.json"
  read = lambda record: records.with_defaults(json.loads(json.dumps(record)), config)
  new = read(config_lib.to_dict(config))
  if has_checkpoints(file.parent):
    if not file.exists():
      raise ValueError(
          f"{str(file)!r} is missing, and nothing else says what its checkpoints were made with; "
          "put it back from a copy, or give a new workdir")
    lines = [
        line
        for line in records.differences(read(read_json(file)), new)
        if not any(line.startswith((f"{path}:", f"{path}.", f"{path}[")) for path in free)
    ]
    if lines:
      raise ValueError(
          f"the run in {workdir!r} was started with another config ({'; '.join(lines)}); "
          "resume it with that config, or give a new workdir"
      )
  else:
    if processes.is_writer():
      files.write_whole(file.parent / FOLDER / UNSAVED, "")
    write_json(file, new)


def write_json(file: pathlib.Path, value: Any) -> None:
  """Writes a file atomically; of several processes one does."""
  if processes.is_writer():
    files.write_whole(file, json.dumps(value, indent=2) + "\n")


def read_json(file: pathlib.Path) -> dict[str, Any]:
  """An object that `write_json` wrote.

  Raises:
    ValueError: the file is damaged.
  """
  try:
    value = json.loads(file.read_bytes())
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{str(file)!r} is damaged, and no JSON: {error}; put it back from a copy, or "
                     "give a new workdir") from error
  if not isinstance(value, dict):
    raise ValueError(f"{str(file)!r} is damaged: it holds no object; put it back from a copy, or "
                     "give a new workdir")
  return value


def write_sealed(file: pathlib.Path, value: dict[str, Any]) -> None:
  """`write_json` of an object and its checksum."""
  write_json(file, {"sha256": _sum_of(value), "value": value})


def read_sealed(file: pathlib.Path) -> dict[str, Any] | None:
  """Reads a file of `write_sealed`, or an older one without checksum; None: damaged or missing."""
  try:
    held = json.loads(file.read_bytes())
    if "sha256" not in held:
      return held if isinstance(held, dict) else None
    return held["value"] if held["sha256"] == _sum_of(held["value"]) else None
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return None


def _sum_of(value: dict[str, Any]) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def has_checkpoints(workdir: pathlib.Path) -> bool:
  """Whether there is a checkpoint of a run, intact or not."""
  return any(_is_step(path.name) for path in (workdir / FOLDER).glob("*"))


def _is_step(name: str) -> bool:
  """Whether a folder's name is that of a checkpoint, in ASCII digits."""
  return name.isdecimal() and name == str(int(name))


def _disk_error(error: BaseException | None) -> int | None:
  """The errno of a system error that is named in the text of another error."""
  return next((n for n in files.DISK_ERRORS if os.strerror(n) in str(error)), None)


def _be_quiet() -> None:
  """Suppresses the long output of Orbax and tensorstore about a failed save.

  It is also raised as one error: see `Checkpointer._naming`.
  """
  python_logging.getLogger("absl").addFilter(
      lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
  python_logging.getLogger("asyncio").addFilter(
      lambda record: not (record.exc_info and _disk_error(record.exc_info[1])))
  hook = sys.unraisablehook

  def on_unraisable(event):
    # Of writes that were still running when the first one failed.
    if not (isinstance(event.exc_value, RuntimeError) and event.object is None
            and str(event.exc_value) == "Event loop is closed"):
      hook(event)

  sys.unraisablehook = on_unraisable


_be_quiet()


class _LatestAnd(ocp.checkpoint_managers.PreservationPolicy):
  """Preserves the latest checkpoints, and those of `steps`."""

  def __init__(self, count: int):
    self._latest, self.steps = ocp.checkpoint_managers.LatestN(count), frozenset()

  def should_preserve(self, checkpoints, *, context):
    latest = self._latest.should_preserve(checkpoints, context=context)
    return [is_latest or checkpoint.step in self.steps
            for is_latest, checkpoint in zip(latest, checkpoints, strict=True)]


class _SealedPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
  """The temporary folder of a checkpoint, or of an item in one, which is renamed when complete."""

  async def finalize(self):
    folder, final = pathlib.Path(self.get()), pathlib.Path(self.get_final())
    is_checkpoint = _is_step(final.name)  # not one of the items in it
    if is_checkpoint:
      await asyncio.to_thread(_seal, folder)
    await super().finalize()
    if is_checkpoint:
      await asyncio.to_thread(files.sync, final.parent)
      with contextlib.suppress(FileNotFoundError):
        (final.parent / UNSAVED).unlink()


def _seal(folder: pathlib.Path) -> None:
  """Writes the checksums of all files in a folder, and syncs them and the folder."""
  names = _names_in(folder)
  with futures.ThreadPoolExecutor() as threads:
    sums = dict(zip(names, threads.map(lambda name: digest(folder / name), names)))
    inner = [path for path in folder.rglob("*") if path.is_dir()]
    list(threads.map(files.sync, [*(folder / name for name in names), *inner]))
  files.write_whole(folder / _CHECKSUMS, json.dumps(sums, indent=1))


def _names_in(folder: pathlib.Path) -> list[str]:
  """The relative paths of a folder's files, except those without a checksum."""
  return sorted(
      str(path.relative_to(folder)) for path in folder.rglob("*")
      if path.is_file() and path.name not in (*_UNCHECKED, _CHECKSUMS))


def find_damage(folder: pathlib.Path) -> str | None:
  """The damage of a checkpoint; None if its files are as they were written.

  One that was saved by a version without checksums is accepted if nothing is missing.
  """
  missing = [name for name in _ITEMS if not (folder / name).is_dir()]
  if missing:
    return f"{', '.join(missing)} missing"
  try:  # Orbax reads it, if it exists
    if not isinstance(json.loads((folder / _UNCHECKED[0]).read_bytes()), dict):
      raise ValueError("no object")
  except FileNotFoundError:
    pass
  except (ValueError, OSError, RecursionError) as error:
    return f"{_UNCHECKED[0]}: {' '.join(str(error).split())[:200]}"
  try:
    if not (folder / _CHECKSUMS).exists():
      layout = json.loads((folder / "layout" / "metadata").read_bytes())
      return f"{_CHECKSUMS} is missing" if _IS_SEALED in layout else None
    sums = json.loads((folder / _CHECKSUMS).read_bytes())
    if not sums:
      raise ValueError("of no file")
    with futures.ThreadPoolExecutor() as threads:
      wrong = list(threads.map(lambda name: _differs(folder / name, sums[name]), sums))
  except (ValueError, TypeError, OSError, AttributeError, RecursionError) as error:
    return f"{_CHECKSUMS}: {' '.join(str(error).split())[:200]}"
  return next((reason for reason in wrong if reason), None)


def _differs(file: pathlib.Path, wanted: str) -> str:
  if not file.is_file():
    return f"{file.name} is missing"
  return "" if digest(file) == wanted else f"{file.name} is not what was written"


def _set_damaged_aside(folder: pathlib.Path) -> tuple[list[tuple[int, str]], list[int]]:
  """Renames the damaged checkpoints that come after the latest intact one.

  Returns:
    Step and reason of each, and the step of the intact one, if there is any checkpoint.

  Raises:
    ValueError: there are only damaged ones, which are unchanged.
  """
  steps = sorted((int(path.name) for path in folder.glob("*") if _is_step(path.name)), reverse=True)
  damaged = []
  for step in steps:
    reason = find_damage(folder / str(step))
    if reason is None:
      break
    damaged.append((step, reason))
  if steps and len(damaged) == len(steps):
    reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged)
    raise ValueError(
        f"no checkpoint in {str(folder)!r} is intact ({reasons}); put one back from a copy, or "
        "give a new workdir")
  for step, _ in damaged:
    aside = folder / f"{step}.damaged"
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder / str(step), aside)
  return damaged, steps[len(damaged):][:1]


def _to_array(leaf: Any) -> Any:
  return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _to_abstract(leaf: Any) -> Any:
  """The argument for Orbax: a ShapeDtypeStruct with a sharding, or a numpy array."""
  if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
  return np.empty_like(np.asarray(leaf))


def _layout(tree: Any) -> dict[str, str]:
  """Maps each path to its type and shape, such as `float32[2, 3]`; keys by their data."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  abstract = ((path, _to_abstract(leaf)) for path, leaf in leaves)
  return {
      jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
      for path, leaf in abstract
  }
