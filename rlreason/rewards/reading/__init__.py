"""Reads the meaning of an answer from its text; nothing is evaluated.

The text in a uniform spelling (`typesetting.py`) is parsed (`reader.py`) into numbers with units,
lists, equations and formulas (`types.py`).
"""

from rlreason.rewards.reading.reader import read
from rlreason.rewards.reading.types import Reading, expressions, vote

__all__ = [
    "Reading", "expressions", "read", "vote"]
