"""rlreason: reinforcement learning that turns language models into reasoning models, in JAX."""
