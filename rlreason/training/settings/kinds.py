"""The kinds of stages: a new one is a module and a line here.

The module has the settings, a `StageConfig`, and the functions `check` and `make`
(`stages/kinds.py`). Of the kinds here the settings are in a module of their own, so that reading a
config does not import the rest.
"""

from typing import Union

from rlreason.training.settings.custom import CustomStage
from rlreason.training.settings.distill import DistillStage
from rlreason.training.settings.label_steps import LabelStepsStage
from rlreason.training.settings.preference import PreferenceStage
from rlreason.training.settings.process_reward import ProcessRewardStage
from rlreason.training.settings.reward_model import RewardModelStage
from rlreason.training.settings.rl import RLStage
from rlreason.training.settings.sample import SampleStage
from rlreason.training.settings.select import SelectStage
from rlreason.training.settings.sft import SFTStage

STAGES = {
    "sft": SFTStage, "rl": RLStage, "sample": SampleStage, "select": SelectStage,
    "preference": PreferenceStage, "reward_model": RewardModelStage,
    "process_reward": ProcessRewardStage, "label_steps": LabelStepsStage,
    "distill": DistillStage, "custom": CustomStage}
AnyStage = Union[tuple(STAGES.values())]  # as the type of a field
