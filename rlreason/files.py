"""Reliable files: named in every error, written atomically, and locked by one process."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import socket
import tempfile

LOCK_NAME = "run.lock"
# A full or failing disk: what was written before is kept, and no setting is wrong.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # of some network file systems


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
  """Adds the file's name to system errors that lack one, such as those of a full disk."""
  try:
    yield
  except OSError as error:
    if error.filename is None and error.errno is not None:
      error.filename = str(path)
    raise


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes a file atomically, and syncs it to disk; its folder is made if missing.

  Args:
    path: of the file; an existing one is replaced.
    content: bytes, or text to be written in UTF-8. A lone surrogate, which UTF-8 cannot hold,
      becomes a backslash escape.

  Raises:
    OSError: names the file; an existing file is unchanged.
  """
  path = pathlib.Path(path)
  if isinstance(content, str):
    content = content.encode("utf-8", errors="backslashreplace")
  temporary = _temporary(path)
  with naming(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
    except BaseException:
      with contextlib.suppress(OSError):
        temporary.unlink()
      raise
  sync(path.parent)


def sync(path: str | os.PathLike) -> None:
  """Syncs a file, or the list of files in a folder, to disk."""
  with naming(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    except OSError as error:
      if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without it
        raise
    finally:
      os.close(descriptor)


def check_writable(name: str, folder: pathlib.Path) -> None:
  """Checks, before any work, that a folder can be made and written in.

  Raises:
    OSError: names what is in the way.
  """
  there = folder
  try:
    while not _is_there(there):
      there = there.parent
    is_folder, is_link = there.is_dir(), there.is_symlink()
  except OSError as error:  # a name that is too long, a loop of links
    raise OSError(error.errno, f"{name}: {error.strerror}", str(folder)) from error
  if not is_folder:
    what = "is a link to nothing" if is_link and not there.exists() else "is no folder"
    raise NotADirectoryError(f"{name}: {str(there)!r} {what}, allowed: a folder, or a new name")
  try:
    if not os.access(there, os.W_OK | os.X_OK):
      raise PermissionError
    with tempfile.TemporaryFile(dir=there):  # root may write, but not in /proc
      pass
  except OSError as error:
    if error.errno in DISK_ERRORS:
      raise OSError(error.errno, f"{name}: {error.strerror}", str(there)) from error
    raise PermissionError(
        f"{name}: {str(there)!r} cannot be written in, allowed: a folder that can") from error


def check_new_file(name: str, path: pathlib.Path) -> None:
  """Checks, before any work, that a file does not exist yet and can be made.

  Raises:
    ValueError, OSError: names what is in the way.
  """
  if path.is_dir() or not path.name:
    raise ValueError(f"{name}: {str(path)!r} is a folder and cannot be written as a file")
  if os.path.lexists(path):
    raise ValueError(f"{name}: {str(path)!r} is there already, allowed: a new file")
  check_writable(name, path.parent)
  try:
    os.lstat(_temporary(path))
  except FileNotFoundError:
    pass
  except OSError as error:  # a name that is too long
    raise OSError(error.errno, f"{name}: {error.strerror}", str(path)) from error


def _temporary(path: pathlib.Path) -> pathlib.Path:
  """The temporary path of a file that is renamed once it is complete."""
  return path.with_name(path.name + ".tmp")


def _is_there(path: pathlib.Path) -> bool:
  try:
    os.lstat(path)  # os.path.lexists also answers for impossible names
  except (FileNotFoundError, NotADirectoryError):
    return False
  return True


@contextlib.contextmanager
def filling(folder: str | os.PathLike) -> Iterator[None]:
  """Empties a folder, which was new or empty before, if filling it fails."""
  try:
    yield
  except BaseException:
    for path in pathlib.Path(folder).glob("*"):
      with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    raise


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
  """Locks a folder, made if missing, for this process; the system unlocks it when that ends.

  Raises:
    ValueError: another process holds it; names the file.
  """
  file = folder / LOCK_NAME
  with naming(file):
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
  try:
    _lock(held, file)
    with contextlib.suppress(OSError):  # only for the message; a full disk is reported elsewhere
      os.ftruncate(held, 0)
      os.pwrite(held, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    yield
  finally:
    os.close(held)


def _lock(held: int, file: pathlib.Path):
  try:
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    owner = os.pread(held, 200, 0).decode("utf-8", "replace").strip() or "unknown"
    raise ValueError(
        f"another process ({owner}) is working in {str(file.parent)!r} and holds {str(file)!r}; "
        "wait for it, stop it, or give another workdir") from None
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      error.filename = str(file)
      raise
