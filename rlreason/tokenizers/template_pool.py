"""Renders chat templates in a killable process: see `template_worker.py`."""

from collections.abc import Mapping, Sequence
import atexit
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
from typing import Any

from rlreason.tokenizers import template_worker

_FILE = pathlib.Path(template_worker.__file__)
_MAX_TEMPLATE = 1_000_000  # characters; published ones have a few thousand


class LimitError(ValueError):
  """A template takes more time or memory than allowed."""


def render(
    template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
) -> str:
  """The text of a template.

  Args:
    template: Jinja source.
    messages: of the conversation, JSON values.
    variables: further variables of the template, JSON values.

  Raises:
    LimitError: it exceeded a limit; it is not tried again.
    ValueError: it is invalid, or refuses these messages.
  """
  return _ask(template, {"messages": list(messages), "variables": dict(variables)})


def variable_names(template: str) -> list[str]:
  """Names that a template reads and does not set itself.

  Raises:
    ValueError: as `render`.
  """
  return _ask(template, {})


def _ask(template: str, request: dict[str, Any]) -> Any:
  if len(template) > _MAX_TEMPLATE:
    raise LimitError(
        f"chat_template: got {len(template)} characters, allowed: {_MAX_TEMPLATE}")
  try:
    line = json.dumps({"template": template} | request, default=lambda value: value.tolist())
  except (AttributeError, TypeError, ValueError, RecursionError) as error:
    raise ValueError(
        f"messages: got what JSON does not have ({error}), allowed: JSON values") from error
  reply = _worker.exchange(template, line)
  if "value" in reply:
    return reply["value"]
  if reply.get("is_limit"):
    raise LimitError(f"chat_template: {reply['error']}")
  if reply.get("is_invalid"):
    raise ValueError(f"chat_template: not a valid template: {reply['error']}")
  raise ValueError(f"the chat template refuses these messages: {reply['error']}")


class _Worker:
  """One process, started when first needed, used by one thread at a time."""

  def __init__(self):
    self._lock = threading.Lock()
    self._process: subprocess.Popen | None = None
    self._owner = 0
    self._beyond_limits: dict[str, dict[str, Any]] = {}  # template -> reply

  def exchange(self, template: str, line: str) -> dict[str, Any]:
    """The reply to a line. A template that exceeded a limit stays refused."""
    with self._lock:
      if template in self._beyond_limits:
        return self._beyond_limits[template]
      is_ours = self._process is not None and self._owner == os.getpid()  # not of a forked parent
      if not is_ours or self._process.poll() is not None:
        self._start()
      try:
        answer = self._send(line)
      except BaseException:
        self.close()  # interrupted: a reply may be pending
        raise
      reply = json.loads(answer) if answer.endswith(b"\n") else {
          "is_limit": True, "error": f"rendering takes more than {template_worker.SECONDS} seconds "
          f"of computation or {template_worker.MEMORY_BYTES >> 20} MiB of memory"}
      if reply.get("is_limit"):
        self._beyond_limits[template] = reply
        self.close()
      return reply

  def _send(self, line: str) -> bytes:
    with contextlib.suppress(OSError):  # a broken pipe: it has ended
      self._process.stdin.write(line.encode() + b"\n")
      self._process.stdin.flush()
      return self._process.stdout.readline()
    return b""

  def _start(self):
    path = [folder or os.getcwd() for folder in sys.path]
    self._owner = os.getpid()
    self._process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_FILE), json.dumps(path)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True)  # only the parent handles Ctrl-C

  def close(self):
    """Ends the process, if there is one."""
    process, self._process = self._process, None
    if process is None or self._owner != os.getpid():
      return
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
      with contextlib.suppress(OSError):
        stream.close()


_worker = _Worker()
atexit.register(_worker.close)
