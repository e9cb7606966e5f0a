"""A language model behind an OpenAI-compatible service: texts out, texts in.

A request ends within its time whatever the service does: a watchdog closes the connection. Replies
are kept in a folder, a file each, so that a run that resumes gets the same ones, and pays once. Not
here: what is asked, and what a reply means (`judge.py`).
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import dataclasses
import hashlib
import http.client
import json
import os
import pathlib
import socket
import threading
import time
from typing import Any
import urllib.parse

from rlreason import files
from rlreason.workers.pool import Reply

Messages = tuple[tuple[str, str], ...]  # (role, content)
_MAX_BYTES = 4 << 20  # of a reply; more is a service that does not stop
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)  # others mean that the request is wrong
_PAUSE = 0.5  # seconds before the first retry, doubled for each further one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Service:
  """Where a model is, and what its use may cost.

  Attributes:
    url: of the service, such as "http://localhost:8000/v1"; its "/chat/completions" is asked.
    model: the name by which the service knows the model.
    max_tokens: most tokens of a reply.
    timeout: seconds that one attempt may take as a whole.
    retries: further attempts after one that failed in a way that may pass.
    concurrency: requests at the same time.
    cache: a folder for replies; empty: none are kept. Processes and runs may share it.
    max_requests: most requests of all that share the cache, retries not counted; 0: any number.
    api_key_env: the environment variable that holds the key; none is sent if it is not set.

  Raises:
    ValueError: a field is out of range.
  """

  url: str
  model: str = ""
  max_tokens: int = 1024
  timeout: float = 60.0
  retries: int = 2
  concurrency: int = 16
  cache: str = ""
  max_requests: int = 0
  api_key_env: str = "OPENAI_API_KEY"

  def __post_init__(self):
    parts = urllib.parse.urlsplit(self.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
      raise ValueError(f"url: got {self.url!r}, allowed: such as http://localhost:8000/v1")
    for name, least in (("max_tokens", 1), ("retries", 0), ("concurrency", 1), ("max_requests", 0)):
      value = getattr(self, name)
      if value != int(value) or value < least:
        raise ValueError(f"{name}: got {value!r}, allowed: a whole number of at least {least}")
    if not 0 < self.timeout < 1e6:
      raise ValueError(f"timeout: got {self.timeout!r}, allowed: seconds, above 0")
    if self.max_requests and not self.cache:
      raise ValueError(f"max_requests: got {self.max_requests} without a cache, allowed: with one, "
                       "whose replies are counted, or 0")


class _Failed(Exception):
  """An attempt that brought no reply."""

  def __init__(self, message: str, may_pass: bool = True):
    super().__init__(message)
    self.may_pass = may_pass


def ask(service: Service, requests: Sequence[Messages]) -> list[str | Reply]:
  """The model's replies to some conversations, in their order, at temperature 0.

  Args:
    service: where the model is.
    requests: the conversations; equal ones are asked once.

  Returns:
    For each the text, or a `Reply` that says why there is none.
  """
  distinct = list(dict.fromkeys(requests))
  if not distinct:
    return []
  budget = _Budget(service)
  with ThreadPoolExecutor(min(service.concurrency, len(distinct))) as executor:
    found = dict(zip(distinct, executor.map(lambda one: _ask_one(service, budget, one), distinct)))
  return [found[request] for request in requests]


class _Budget:
  """How many more requests may be made."""

  def __init__(self, service: Service):
    self._lock = threading.Lock()
    self._left = None
    if service.max_requests:
      folder = pathlib.Path(service.cache)
      kept = sum(1 for _ in folder.glob("*/*.json")) if folder.is_dir() else 0
      self._left = service.max_requests - kept

  def take(self) -> bool:
    with self._lock:
      if self._left is not None:
        self._left -= 1
      return self._left is None or self._left >= 0


def _ask_one(service: Service, budget: _Budget, messages: Messages) -> str | Reply:
  body = {"model": service.model, "temperature": 0, "max_tokens": service.max_tokens,
          "messages": [{"role": role, "content": content} for role, content in messages]}
  file = _file_of(service, body)
  kept = _read(file)
  if kept is not None:
    return kept
  if not budget.take():
    return Reply(failure="error", message=f"max_requests={service.max_requests} are used up")
  try:
    text = _with_retries(service, json.dumps(body).encode())
  except _Failed as error:
    return Reply(failure="error", message=str(error))
  if file is not None:
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_whole(file, json.dumps({"request": body, "reply": text}, ensure_ascii=False))
  return text


def _file_of(service: Service, body: dict[str, Any]) -> pathlib.Path | None:
  if not service.cache:
    return None
  digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
  return pathlib.Path(service.cache) / digest[:2] / f"{digest}.json"


def _read(file: pathlib.Path | None) -> str | None:
  """A kept reply; a damaged file counts as none."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    reply = json.loads(file.read_text(encoding="utf-8"))["reply"] if file is not None else None
    return reply if isinstance(reply, str) else None
  return None


def _with_retries(service: Service, body: bytes) -> str:
  pause = _PAUSE
  for attempt in range(service.retries + 1):
    try:
      return _attempt(service, body)
    except _Failed as error:
      if attempt == service.retries or not error.may_pass:
        raise
    time.sleep(min(pause, service.timeout))
    pause *= 2
  raise AssertionError("unreachable")


def _attempt(service: Service, body: bytes) -> str:
  parts = urllib.parse.urlsplit(service.url)
  kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
  connection = kind(parts.hostname, parts.port, timeout=service.timeout)
  headers = {"Content-Type": "application/json", "Connection": "close"}
  key = os.environ.get(service.api_key_env, "")
  if key:
    headers["Authorization"] = f"Bearer {key}"
  with _watched(connection, service.timeout) as is_late:
    try:
      connection.request("POST", parts.path.rstrip("/") + "/chat/completions", body, headers)
      response = connection.getresponse()
      content = response.read(_MAX_BYTES + 1)
      status = response.status
    except (OSError, http.client.HTTPException) as error:
      if is_late.is_set() or isinstance(error, TimeoutError):
        raise _Failed(f"no reply within {service.timeout:g} s") from error
      raise _Failed(f"{type(error).__name__}: {error}") from error
    if is_late.is_set():  # the end of what had come may look like the end of the reply
      raise _Failed(f"no reply within {service.timeout:g} s")
  return _text_of(status, content, response.length)


@contextlib.contextmanager
def _watched(connection: http.client.HTTPConnection, seconds: float) -> Iterator[threading.Event]:
  """Closes the connection after some seconds: a time limit of a socket is for each piece only."""
  is_late = threading.Event()

  def end():
    is_late.set()
    with contextlib.suppress(OSError, AttributeError):  # it may not be connected yet
      connection.sock.shutdown(socket.SHUT_RDWR)

  timer = threading.Timer(seconds, end)
  timer.daemon = True
  timer.start()
  try:
    yield is_late
  finally:
    timer.cancel()
    connection.close()


def _text_of(status: int, content: bytes, missing: int | None) -> str:
  """The text of a reply; `missing` bytes were promised and did not come."""
  if len(content) > _MAX_BYTES:
    raise _Failed(f"a reply of more than {_MAX_BYTES} bytes", may_pass=False)
  if status != 200:
    said = content[:200].decode("utf-8", "replace").strip()
    raise _Failed(f"HTTP status {status}: {said}", may_pass=status in _RETRIED)
  if missing:
    raise _Failed(f"a reply that ends {missing} bytes early")
  try:
    text = json.loads(content)["choices"][0]["message"]["content"]
  except (ValueError, LookupError, TypeError) as error:
    raise _Failed(f"no choices[0].message.content in {content[:200]!r}") from error
  if not isinstance(text, str):
    raise _Failed(f"choices[0].message.content: got {text!r}, allowed: text")
  return text
