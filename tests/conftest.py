"""Settings of the whole suite, made before any test module imports jax."""

import os

# Eight CPU devices, so that sharded programs are tested without an accelerator. A test that starts
# a process of its own inherits this and may override it.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8").strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # pylint: disable=wrong-import-position

# Silent broadcasting of ranks hides mistakes of masks and shapes.
jax.config.update("jax_numpy_rank_promotion", "raise")
