"""Optimiser, checkpoints, metrics, stages and the loop that joins them."""
