"""How the suite compiles: quickly, for its programs are small and run a few times."""

# LLVM without its expensive passes, and kernels of fused operations without MLIR: the gradients of
# nine families, of which most of a test's time is compiling, take a quarter of the time. What
# users run, main_test.py's run that is stopped and gone on with, is compiled as theirs is.
FLAGS = " ".join([
    "--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false"])
