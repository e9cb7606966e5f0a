"""Sampling on the device: options, filters, sessions, and the compiled decode loop."""

from rlreason.sampling.continuous import Batching, sample_queue
from rlreason.sampling.decode import sample
from rlreason.sampling.memory import check_memory
from rlreason.sampling.options import SamplingOptions
from rlreason.sampling.partial import Started, sample_until

__all__ = [
    "Batching", "SamplingOptions", "Started", "check_memory", "sample", "sample_queue",
    "sample_until"]
