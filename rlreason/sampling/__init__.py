"""Sampling on the device: options, filters, and the compiled decode loop."""

from rlreason.sampling.decode import sample
from rlreason.sampling.memory import check_memory
from rlreason.sampling.options import SamplingOptions

__all__ = [
    "SamplingOptions", "check_memory", "sample"]
