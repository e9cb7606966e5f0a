"""What an answer says, read off its text; nothing is evaluated.

The text in one spelling (`typesetting.py`) is taken apart (`reader.py`) into numbers with units,
lists, equations and formulas (`types.py`).
"""

from rlreason.rewards.reading.reader import read
from rlreason.rewards.reading.types import Reading, expressions, vote

__all__ = [
    "Reading", "expressions", "read", "vote"]
