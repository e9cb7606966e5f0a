"""Sampling on the device: options, filters, sessions, and the compiled decode loop."""

from rlreason.sampling.continuous import Batching, sample_queue
from rlreason.sampling.decode import sample
from rlreason.sampling.memory import check_memory
from rlreason.sampling.options import SamplingOptions

__all__ = [
    "Batching", "SamplingOptions", "check_memory", "sample", "sample_queue"]
