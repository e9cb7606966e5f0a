"""How the suite compiles: quickly, for its programs are small and run a few times."""

import jaxlib.version

# LLVM without its expensive passes, and kernels of fused operations without MLIR: the gradients of
# nine families, of which most of a test's time is compiling, take a quarter of the time. A program
# in one part compiles in three quarters of the time of one in many, and in less memory. What
# users run, main_test.py's run that is stopped and gone on with, is compiled as theirs is.
_FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true",
          "--xla_cpu_parallel_codegen_split_count=1"]
# An unknown flag ends the process, and jaxlib after 0.11.0 does not know this one.
if jaxlib.version.__version_info__ <= (0, 11, 0):
  _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
FLAGS = " ".join(_FLAGS)
