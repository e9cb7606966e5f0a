"""What a recipe takes on devices that need not be there: memory, time and cost of its programs."""

from rlreason.training.planning.plan import Assumptions, Plan, make_plan

__all__ = ["Assumptions", "Plan", "make_plan"]
