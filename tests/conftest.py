"""Settings of the whole suite, made before any test module imports jax."""

import gc
import os
import pathlib
import tempfile

import hypothesis

from tests import compiler

os.environ["XLA_FLAGS"] = " ".join([
    os.environ.get("XLA_FLAGS", ""),
    compiler.FLAGS,
    # Eight CPU devices, so that sharded programs are tested without an accelerator. A test that
    # starts a process of its own inherits this and may override it.
    "--xla_force_host_platform_device_count=8",
    # Eight devices share few cores: a replica that waits 40 s for the others is busy, not stuck.
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
]).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Where each operation was written takes a quarter of the time of tracing and lowering.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# A program is compiled once for the whole suite, and not by every test, worker and process anew.
_CACHE = "JAX_COMPILATION_CACHE_DIR"
_OWN_CACHE = None
if _CACHE not in os.environ:  # the workers of xdist inherit that of the process that starts them
  _OWN_CACHE = tempfile.TemporaryDirectory(prefix="rlreason-jax-")
  os.environ[_CACHE] = _OWN_CACHE.name
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax  # pylint: disable=wrong-import-position

# Silent broadcasting of ranks hides mistakes of masks and shapes.
jax.config.update("jax_numpy_rank_promotion", "raise")

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")

_MAPS = pathlib.Path("/proc/self/maps")  # of Linux
_MOST_MAPS = 30_000  # of the 65,530 that a process may have; each compiled program takes several
_STATM = pathlib.Path("/proc/self/statm")
_MOST_MEMORY = 1.5 * 2**30  # bytes; a single test adds up to 0.6 GB, and a worker may have 2.5
_EVERY = 100  # programs: counting maps takes 20 ms where they are many
_programs = []  # compiled, or found in the cache, since the maps were counted


def _note_program(event, duration, **unused_details):
  del duration
  if event == "/jax/core/compile/backend_compile_duration":
    _programs.append(event)


jax.monitoring.register_event_duration_secs_listener(_note_program)

# Where tests of 10 s and more are. They come first, so that no worker is left with one at the end;
# whole modules, whose fixtures are made once.
_LONG = (
    "training/loop_test.py::", "training/data_stages_test.py::", "colab_test.py::",
    "rewards/pairs_test.py::", "training/several_processes_test.py::",
    "test_a_run_is_stopped_and_gone_on_with", "test_the_readme_runs")


def pytest_collection_modifyitems(items):
  """Puts the longest tests first; the order of the others stays."""
  items.sort(key=lambda item: not any(name in item.nodeid for name in _LONG))


def pytest_collection_finish():
  """Tracing makes many objects that live: what is there is not looked through again and again."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000, 20, 20)


def pytest_runtest_teardown():
  """Forgets compiled programs before they fill the memory, or are too many for the compiler."""
  if not _MAPS.exists():
    return
  memory = int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  is_due = len(_programs) >= _EVERY
  if is_due:
    _programs.clear()
  if memory > _MOST_MEMORY or (is_due and _MAPS.read_bytes().count(b"\n") > _MOST_MAPS):
    compiler.forget()
