"""The dependencies between the stages of a run, by their names."""

from collections.abc import Sequence

from rlreason.training.settings.base import StageConfig


# Field of a stage -> the kinds of stages whose model it may name; "": of all other fields.
_MODEL_KINDS = {"process_model": ("process_reward", "reward_model"), "": ("reward_model",)}


def check_sources(stages: Sequence[StageConfig]):
  """Checks that named stages exist, come earlier, and provide what is requested of them.

  Raises:
    ValueError: one does not; names the stage and the field.
  """
  for number, stage in enumerate(stages):
    before = {earlier.name: earlier for earlier in stages[:number]}
    for field, names in stage.data_sources().items():
      allowed = [name for name, earlier in before.items() if earlier.writes_data]
      for name in names:
        if name not in allowed:
          raise ValueError(
              f"{stage.name}.{field}: got {name!r}, allowed: earlier stages that write data "
              f"({', '.join(allowed) or 'there are none'})")
    for field, name in stage.model_sources().items():
      kinds = _MODEL_KINDS.get(field, _MODEL_KINDS[""])
      models = [name for name, earlier in before.items() if earlier.kind in kinds]
      if name not in models:
        raise ValueError(
            f"{stage.name}.{field}: got {name!r}, allowed: earlier stages of kind "
            f"{' or '.join(map(repr, kinds))} ({', '.join(models) or 'there are none'})")
    names = [other.name for other in stages]
    if stage.start in names and not (stage.start in before and before[stage.start].trains):
      raise ValueError(
          f"{stage.name}.start: got {stage.start!r}, which "
          f"{'trains nothing' if stage.start in before else 'does not come before'}, allowed: "
          "'previous', 'initial', an earlier stage that trains, or a folder")


def start_of(stages: Sequence[StageConfig], number: int) -> str | None:
  """The stage or folder whose policy stage `number` starts from; None: the initial weights."""
  start = stages[number].start
  if start == "initial":
    return None
  if start != "previous":
    return start
  return next((stage.name for stage in reversed(stages[:number]) if stage.trains), None)
