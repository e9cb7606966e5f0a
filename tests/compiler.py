"""How the suite compiles: quickly, for its programs are small and run a few times."""

import contextlib
import ctypes
import gc

import jaxlib.version

# LLVM without its expensive passes, and kernels of fused operations without MLIR: the gradients of
# nine families, of which most of a test's time is compiling, take a quarter of the time. What
# users run, main_test.py's run that is stopped and gone on with, is compiled as theirs is, but in
# one part: in many, made side by side, a program takes a third more of a core, and more memory.
IN_ONE_PART = "--xla_cpu_parallel_codegen_split_count=1"
_FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true",
          IN_ONE_PART]
# An unknown flag ends the process, and jaxlib after 0.11.0 does not know this one.
if jaxlib.version.__version_info__ <= (0, 11, 0):
  _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
FLAGS = " ".join(_FLAGS)


def forget():
  """Frees the compiled programs of this process, and gives the memory back to the system."""
  import jax  # pylint: disable=import-outside-toplevel  # after conftest.py's settings

  jax.clear_caches()
  gc.collect()
  with contextlib.suppress(OSError, AttributeError):  # a C library other than GNU's
    ctypes.CDLL(None).malloc_trim(0)  # freed memory stays the process's without
