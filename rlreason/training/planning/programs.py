"""The programs of a stage, with the shapes that the recipe gives them: what all kinds share.

The functions are those that the stages compile; only their arguments are shapes. Rows are as wide
as the recipe allows, because a run has to have the memory for these.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlreason.algorithms import init_reward_params
from rlreason.models import ModelConfig
from rlreason.rollout import generate
from rlreason.sampling import segments
from rlreason.training.planning import flops, placed
from rlreason.training.planning.placed import Planned, struct
from rlreason.training.planning.shapes import model_shape
from rlreason.training.settings.base import stage_of
from rlreason.types import Params, Prompts, Rollout


class Program(NamedTuple):
  """A program of a stage."""

  name: str  # sampling, scoring, batch, update
  call: Callable  # jitted
  args: tuple  # shapes
  tokens: float = 0.0  # that it computes (a sampler: draws), over all devices, without padding
  flops: float = 0.0  # that these need, over all devices
  turns: dict[str, float] = {}  # of its loops, as `hlo.count` takes them
  cache: int = 0  # bytes of keys and values on one device
  calls: float = 1.0  # in a step
  is_model_first: bool = True  # whether its first argument holds parameters


class Programs(NamedTuple):
  """The programs of a step of a stage, and what is in memory all the time."""

  programs: list[Program]
  held: dict[str, Any]  # kind -> shapes of the arrays that the stage keeps
  tokens: float  # of a step
  notes: tuple[str, ...] = ()  # for the user


def sampling_of(
    planned: Planned, model: ModelConfig, params: Params, *, prompts: int, group_size: int,
    options: Any, **settings,
) -> Program:
  """The sampler's program for all prompts of a step; `settings` of `sampling_program`."""
  program = generate.sampling_program(
      model, planned.shape.stop_ids, planned.layout, options=options, group_size=group_size,
      **settings)
  args = params, prompt_rows(planned, prompts), placed.key()
  length = planned.length(options.max_new_tokens)
  return sampler(planned, model, program, args, prompts=prompts, group_size=group_size,
                 length=length, longest=options.max_new_tokens)._replace(
                     turns=segments.turns(options, group_size, length))


def sampler(
    planned: Planned, model: ModelConfig, program: Callable, args: tuple, *, prompts: int,
    group_size: int, length: int, longest: int,
) -> Program:
  """A program that samples completions of this length, of at most `longest` tokens."""
  rows = prompts * group_size
  return Program(
      "sampling", program, args, tokens=float(rows * length),
      flops=flops.sampling(
          model, prompts=prompts, rows=rows, prompt=planned.columns, completion=length),
      cache=cache_bytes(planned, model, prompts, rows, longest))


def cache_bytes(
    planned: Planned, model: ModelConfig, prompts: int, rows: int, longest: int) -> int:
  """Of keys and values on one device, once the cache has its last length."""
  slots = prompts * planned.columns + rows * segments.num_slots(longest)
  mesh = planned.layout.param_shardings(None).mesh
  split = planned.layout.prompt_parts(prompts) * (
      1 if model.num_kv_heads % mesh.shape["tensor"] else mesh.shape["tensor"])
  of_token = 2 * model.num_layers * model.num_kv_heads * model.head_dim
  return of_token * model.compute_dtype.itemsize * slots // split


def prompt_rows(planned: Planned, count: int) -> Prompts:
  return placed.rows(planned, Prompts(
      tokens=struct((count, planned.columns), jnp.int32),
      mask=struct((count, planned.columns), jnp.bool_), index=struct((count,), jnp.int32)))


def full_rollout(planned: Planned, rows: int, longest: int, has_values: bool) -> Rollout:
  """A rollout (numpy) whose completions have the planned length."""
  mask = np.zeros((rows, longest), bool)
  mask[:, :planned.length(longest)] = True
  prompts = rows, planned.columns
  return Rollout(
      prompt_tokens=np.zeros(prompts, np.int32), prompt_mask=np.ones(prompts, bool),
      completion_tokens=np.zeros(mask.shape, np.int32), token_mask=mask, action_mask=mask,
      log_probs=np.zeros(mask.shape, np.float32),
      values=np.zeros(mask.shape, np.float32) if has_values else None,
      truncated=np.zeros(rows, bool))


def update_of(planned: Planned, algorithm, state, batch, **numbers) -> Program:
  """The program of an update."""
  return Program(
      "update", planned.layout.compile_update(algorithm.update_step, state),
      (state, batch, placed.key()), **numbers)


def held_by(state, *others: Any) -> dict[str, Any]:
  """What a stage keeps: its parameters with those of other models, and the optimiser's state."""
  return {"parameters": [state.params, state.extra, *others], "moments": state.opt_state}


def other_model(planned: Planned, source: str, field: str) -> tuple[ModelConfig, Params]:
  """Another model of a stage and its parameters; those of a stage have the policy's shape."""
  if stage_of(source) is not None:
    model = dataclasses.replace(planned.model, lora=None)
  else:
    model = dataclasses.replace(
        model_shape(source, field).model, dtype=planned.model.dtype,
        param_dtype=planned.model.param_dtype)
  return model, placed.params(planned, model)


def scalar_params(planned: Planned, model: ModelConfig, params: Params) -> Params:
  """{"trunk", "value_head"} of a reward model or a critic."""
  return placed.placer(planned, model)(jax.eval_shape(
      lambda trunk: init_reward_params(
          model, {name: part for name, part in trunk.items() if name != "lm_head"},
          jax.random.key(0)), params))
