"""How well a model reasons, with intervals, and how it goes about it."""
