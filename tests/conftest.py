"""Settings of the whole suite, made before any test module imports jax."""

import gc
import os
import pathlib
import tempfile

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

_MAPS = pathlib.Path("/proc/self/maps")  # of Linux
_MOST_MAPS = 30_000  # of the 65,530 that a process may have; each compiled program takes several
_EVERY = 10  # tests


def pytest_runtest_teardown(item):
  """Forgets compiled programs before the process has too many, which aborts the compiler."""
  item.session.num_ended = getattr(item.session, "num_ended", 0) + 1
  if item.session.num_ended % _EVERY or not _MAPS.exists():
    return
  if _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
    jax.clear_caches()
    gc.collect()
