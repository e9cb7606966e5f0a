"""Checkpoints of a run: everything needed to go on as if it had never stopped.

Orbax writes them in the background, under a temporary name, and renames when complete: a process
killed while saving leaves the checkpoint before intact. A checkpoint holds a pytree of arrays
(parameters, optimiser, counters, key data), restored to the bit, and a JSON dict of the host's side
(data position, coefficients, metrics cursor).

    <workdir>/config.json            the configuration the run was started with
    <workdir>/checkpoints/<step>/    one checkpoint

Not here: weights for other programs (weights/), and when to save (training/loop.py).
"""

from collections.abc import Collection
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
from orbax import checkpoint as ocp

from rlreason import config as config_lib

_FOLDER = "checkpoints"


class Checkpointer:
  """Saves and restores the state of one run. Use as a context manager, or call `close`."""

  def __init__(self, workdir: str, *, max_to_keep: int = 2, read_only: bool = False):
    """Opens the checkpoints of `workdir`, and removes what a killed process left half-written.

    Args:
      workdir: the folder of the run, made if missing.
      max_to_keep: the latest checkpoints that stay, >= 1.
      read_only: only restore; nothing is made or removed, so a running job is not disturbed.

    Raises:
      ValueError: `max_to_keep` is out of range.
      FileNotFoundError: `read_only`, and there are no checkpoints.
    """
    if max_to_keep < 1:
      raise ValueError(f"max_to_keep: got {max_to_keep}, allowed: >= 1")
    self.folder = pathlib.Path(workdir).absolute() / _FOLDER
    if read_only and not self.folder.is_dir():
      raise FileNotFoundError(f"no checkpoints in {workdir!r}; expected a folder {_FOLDER!r} there")
    self._manager = ocp.CheckpointManager(
        self.folder,
        item_names=("state", "host", "layout"),
        options=ocp.CheckpointManagerOptions(
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            preservation_policy=(
                None if read_only else ocp.checkpoint_managers.LatestN(max_to_keep)),
        ),
    )

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, *unused_exception) -> None:
    self.close()

  def save(self, step: int, state: Any, host_state: dict) -> bool:
    """Starts saving and returns once `state` may be changed or donated.

    Only one save runs at a time: a second waits for the first. An error of the one before is
    raised here.

    Args:
      step: the global step, that of the run and not of a stage.
      state: pytree of arrays (jax, numpy or numbers; any sharding; PRNG keys allowed).
      host_state: a dict that JSON can hold.

    Returns:
      False if a checkpoint of this step exists already, which is then left as it is.

    Raises:
      ValueError: `host_state` is not JSON.
    """
    try:
      # Orbax writes in the background, after the caller may have changed its dict.
      host_state = json.loads(json.dumps(host_state, allow_nan=False))
    except (TypeError, ValueError) as error:
      raise ValueError(f"host_state must hold what JSON can hold: {error}") from error
    if step in self._manager.all_steps():
      return False
    arrays = jax.tree.map(_to_array, state)
    return self._manager.save(
        step,
        force=True,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),
            host=ocp.args.JsonSave(host_state),
            layout=ocp.args.JsonSave(_layout(arrays)),
        ),
    )

  def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict]:
    """Restores one checkpoint, to the bit.

    Args:
      step: one of `all_steps()`.
      abstract_state: the state, or `jax.eval_shape` of what made it. Each leaf goes where this one
        says: numpy arrays stay on the host, and what has no sharding goes to the default device.

    Returns:
      The state and the host's dict.

    Raises:
      FileNotFoundError: no such checkpoint.
      ValueError: it was written with other shapes, types or names; the message lists them.
    """
    if step not in self.all_steps():
      raise FileNotFoundError(
          f"no checkpoint of step {step} in {str(self.folder)!r}; there are: {self.all_steps()}"
      )
    self._check_layout(step, abstract_state)
    target = jax.tree.map(_to_abstract, abstract_state)
    restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(target), host=ocp.args.JsonRestore()
        ),
    )
    return restored.state, restored.host

  def restore_host(self, step: int) -> dict:
    """The host's dict of a checkpoint alone: what must be known before its state has a shape."""
    return self._manager.restore(step, args=ocp.args.Composite(host=ocp.args.JsonRestore())).host

  def layout(self, step: int) -> dict[str, str]:
    """What a checkpoint's state is made of: path -> type and shape, such as `float32[2, 3]`."""
    args = ocp.args.Composite(layout=ocp.args.JsonRestore())
    return self._manager.restore(step, args=args).layout

  def all_steps(self) -> list[int]:
    """Steps with a complete checkpoint, in order."""
    return sorted(self._manager.all_steps())

  def latest_step(self) -> int | None:
    """The last step with a complete checkpoint."""
    return max(self.all_steps(), default=None)

  def wait(self) -> None:
    """Blocks until a running save is complete, and raises its error if it failed."""
    self._manager.wait_until_finished()
    self._manager.check_for_errors()

  def close(self) -> None:
    """Waits for a running save and releases the background threads."""
    self._manager.close()

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
  """Writes the config to `workdir`, or checks that it is the one the run was started with.

  What is left at its default is written too. A field that an older run did not write had it.

  A run that ended before its first checkpoint has nothing to go on with: its config is replaced.

  Args:
    workdir: the folder of the run, made if missing.
    config: anything `rlreason.config.to_dict` takes.
    free: paths (`config.workdir`) of fields, or groups of them, that may change on a resume.

  Raises:
    ValueError: other fields differ; the message lists them.
  """
  file = pathlib.Path(workdir) / "config.json"
  read = lambda record: config_lib.with_defaults(json.loads(json.dumps(record)), config)
  new = read(config_lib.to_dict(config))
  if file.exists() and _has_checkpoints(file.parent):
    lines = [
        line
        for line in config_lib.differences(read(json.loads(file.read_text())), new)
        if not any(line.startswith((f"{path}:", f"{path}.", f"{path}[")) for path in free)
    ]
    if lines:
      raise ValueError(
          f"the run in {workdir!r} was started with another config ({'; '.join(lines)}); go on "
          "with that config, or give a new workdir"
      )
  else:
    write_json(file, new)


def write_json(file: pathlib.Path, value: Any) -> None:
  """Writes a file whole or not at all, on the first host."""
  if jax.process_index() == 0:
    _write_atomically(file, json.dumps(value, indent=2) + "\n")


def _has_checkpoints(workdir: pathlib.Path) -> bool:
  return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


def _write_atomically(file: pathlib.Path, text: str) -> None:
  file.parent.mkdir(parents=True, exist_ok=True)
  temporary = file.with_name(file.name + ".tmp")
  temporary.write_text(text)
  os.replace(temporary, file)


def _to_array(leaf: Any) -> Any:
  return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _to_abstract(leaf: Any) -> Any:
  """What Orbax is asked for: a ShapeDtypeStruct with a sharding, or a numpy array."""
  if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
    sharding = leaf.sharding or _default_sharding()
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
  return np.empty_like(np.asarray(leaf))


def _default_sharding() -> jax.sharding.Sharding:
  return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _layout(tree: Any) -> dict[str, str]:
  """Maps each path to its type and shape, such as `float32[2, 3]`; keys by their data."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  abstract = ((path, _to_abstract(leaf)) for path, leaf in leaves)
  return {
      jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
      for path, leaf in abstract
  }
