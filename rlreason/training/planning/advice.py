"""What to change where a program does not fit."""

from rlreason.parallel import rules
from rlreason.training.planning.plan import Plan, ProgramPlan, StagePlan


def advise(plan: Plan, part: StagePlan, program: ProgramPlan) -> str:
  """Settings that make a program smaller, those of its largest part first."""
  sizes = dict(program.memory)
  state = sum(sizes.pop(kind, 0) for kind in ("parameters", "moments", "gradients"))
  sizes["state"] = state
  makers = {"state": _less_state, "cache": _less_cache, "activations": _fewer_activations,
            "rows": _fewer_activations}
  found: list[str] = []
  for kind in sorted(sizes, key=sizes.get, reverse=True):
    if sizes[kind] > program.bytes / 8:
      found += [text for text in makers[kind](plan, part, program) if text not in found]
  return "try " + ", or ".join(found[:4]) if found else "take more devices"


def _less_state(plan: Plan, part: StagePlan, program: ProgramPlan) -> list[str]:
  del part, program
  split = plan.mesh["data"]
  found = []
  if split > 1:  # these hold the same parameters
    found.append(f"config.parallel.fsdp={plan.mesh['fsdp'] * split}")
  if plan.shape.model.param_dtype == "float32":
    found.append("config.model.param_dtype=bfloat16")
  if plan.recipe.lora is None:
    found.append("config.lora.rank=16 (adapters only)")
  return [*found, "more devices"]


def _less_cache(plan: Plan, part: StagePlan, program: ProgramPlan) -> list[str]:
  del program
  stage, shards = part.stage, rules.count_row_shards(plan.mesh)
  found = []
  if hasattr(stage, "prompts_at_once"):
    at_once = (stage.prompts_at_once or stage.num_prompts) // 2
    found += _smaller(stage.name, "prompts_at_once", at_once, shards)
  else:
    found += _smaller(stage.name, "num_prompts", stage.num_prompts // 2, shards)
  found.append(f"a smaller config.{stage.name}.sampling.max_new_tokens")
  return [*found, "more devices"]


def _fewer_activations(plan: Plan, part: StagePlan, program: ProgramPlan) -> list[str]:
  stage, shards = part.stage, rules.count_row_shards(plan.mesh)
  found = []
  if program.name in ("sampling", "greedy"):
    return _less_cache(plan, part, program)
  if plan.shape.model.remat == "none":
    found.append("config.model.remat=full")
  for section in ("algorithm", "sft", "preference", "reward_model",
                  "process_reward", "distill"):
    config = getattr(stage, section, None)
    if hasattr(config, "micro_batch_size"):
      size = config.micro_batch_size or getattr(config, "minibatch_size", 0) or getattr(
          stage, "batch_size", 0) or stage.num_prompts * stage.group_size
      found += _smaller(stage.name, f"{section}.micro_batch_size", size // 2, shards)
  if not found:  # not a micro-batch of fewer rows than there are devices that split rows
    found.append(f"config.parallel.sequence={2 * plan.mesh['sequence']} (of more devices, or of "
                 "fewer that split rows)")
  return [*found, "shorter rows", "more devices"]


def _smaller(stage: str, field: str, size: int, shards: int) -> list[str]:
  """A field with about half of its value, if the devices can still split that."""
  size -= size % shards
  return [f"config.{stage}.{field}={size}"] if size else []
