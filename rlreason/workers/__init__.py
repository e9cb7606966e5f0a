"""Killable processes for code and text that may hang, flood memory or crash."""

from rlreason.workers.pool import PoolCounts, Reply, WorkerPool, default_pool

__all__ = ["PoolCounts", "Reply", "WorkerPool", "default_pool"]
