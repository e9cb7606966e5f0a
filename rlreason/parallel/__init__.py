"""Devices, sharding rules and compilation; the rest of the library is independent of them."""

from rlreason.parallel.accelerators import cpu_fallback
from rlreason.parallel.choose import make_layout
from rlreason.parallel.layout import Layout
from rlreason.parallel.mesh import ParallelConfig, find_devices
from rlreason.parallel.rules import num_shards
from rlreason.parallel.shards import ALONE, Replicas, map_rows, map_shards, put_together
from rlreason.parallel.transfer import on_writer

__all__ = [
    "ALONE", "Layout", "ParallelConfig", "Replicas", "cpu_fallback", "find_devices", "make_layout",
    "map_rows", "map_shards", "num_shards", "on_writer", "put_together"]
