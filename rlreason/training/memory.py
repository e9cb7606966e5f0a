"""Compares a lower bound of a run's memory with the memory available, before any computation.

The bound counts what certainly exists at one time: parameters, their moments and gradients, and the
activations that a gradient pass keeps. A run that passes may still run out of memory. The bound for
sampling is in `sampling/memory.py`.
"""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp

from rlreason import models
from rlreason.models import LoRAConfig, ModelConfig, attention, lora, quantize
from rlreason.parallel import memory
from rlreason.sampling import check_memory as check_sampling
from rlreason.training.optimizer import OptimizerConfig, optimizer_of
from rlreason.training.settings.recipe import Recipe


def check_memory(recipe: Recipe, model: ModelConfig):
  """Raises if a recipe cannot fit into the memory of all devices.

  Args:
    recipe: the recipe.
    model: of the policy, without adapters.

  Raises:
    ValueError: it does not fit; names the field, the memory needed and available.
  """
  params = parameter_bytes(model, recipe.lora)["parameters"]
  shape = (f"num_layers={model.num_layers}, width={model.width}, mlp_width={model.mlp_width}, "
           f"num_heads={model.num_heads}, vocab_size={model.vocab_size}")
  memory.check_fits("config.model", shape, {"parameters": params})
  for stage in recipe.stages:
    where = f"config.{stage.name}"
    held = {"parameters": params}
    if "optimizer" in vars(stage):
      held = parameter_bytes(model, recipe.lora, stage.optimizer)
      memory.check_fits("config.model", f"{shape}, which the stage {stage.name!r} trains", held)
    passed = stage.pass_rows(max(recipe.prompt_buckets))
    if passed is not None:
      field, rows, length = passed
      memory.check_fits(
          f"{where}.{field}",
          f"{length} tokens a row, {rows} rows a pass (micro_batch_size), {shape}",
          {**held, "a pass": pass_bytes(model, rows, length)})
    if "sampling" in vars(stage):
      check_sampling(
          model, prompts=(getattr(stage, "prompts_at_once", 0) or stage.num_prompts) + getattr(
              stage, "carried_prompts", 0),
          columns=min(recipe.prompt_buckets),
          group_size=stage.group_size, max_new_tokens=stage.sampling.max_new_tokens,
          field=f"{where}.sampling.max_new_tokens")


def parameter_bytes(
    model: ModelConfig, adapters: LoRAConfig | None,
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1.0),
) -> Mapping[str, int]:
  """Bytes of a policy, without its adapters, and of its training."""
  params = models.abstract_params(model)
  trained = params
  if adapters is not None:
    trained = lora.split(models.abstract_params(dataclasses.replace(model, lora=adapters)))[0]
    if adapters.base != "full":
      params = jax.eval_shape(lambda p: quantize.quantize_params(p, kind=adapters.base), params)
  gradients = jax.eval_shape(
      lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree), trained)
  moments = jax.eval_shape(optimizer_of(optimizer, 1)[0].init, trained)
  counts = sum(leaf.dtype.itemsize for leaf in jax.tree.leaves(moments) if not leaf.shape)
  return {"parameters": memory.tree_bytes(params), "moments": memory.tree_bytes(moments) - counts,
          "gradients": memory.tree_bytes(gradients)}


def pass_bytes(model: ModelConfig, rows: int, length: int) -> int:
  """Bytes that a gradient pass over whole rows keeps: the input of each layer, and scores.

  XLA's attention has a score for each pair of tokens, in one layer at a time if the others are
  recomputed (`remat`).
  """
  size = jnp.dtype(model.compute_dtype).itemsize
  total = rows * length * model.num_layers * model.width * size
  if attention.resolve(model, length) == "xla":
    layers = model.num_layers if model.remat == "none" else 1
    total += rows * model.num_heads * length**2 * layers * size
  return total
