"""Shapes of arrays with the shardings that a run gives them."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax

from rlreason import models
from rlreason.models import ModelConfig, lora, quantize
from rlreason.parallel import Layout, rules
from rlreason.training.planning.shapes import Shape
from rlreason.training.settings.recipe import Recipe
from rlreason.types import Params


@dataclasses.dataclass(frozen=True)
class Planned:
  """A recipe, its policy and the devices."""

  recipe: Recipe
  shape: Shape
  layout: Layout
  tokens: int | None  # of a completion, on average; None: the longest

  @property
  def model(self) -> ModelConfig:
    return self.shape.model

  @property
  def columns(self) -> int:
    """Of the widest prompts."""
    return max(self.recipe.prompt_buckets)

  def length(self, longest: int) -> int:
    """Tokens of a completion on average, at most `longest`."""
    return longest if self.tokens is None else min(self.tokens, longest)


def struct(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype)


def key() -> jax.ShapeDtypeStruct:
  """Of a random key, which programs receive without a sharding."""
  return jax.eval_shape(lambda: jax.random.key(0))


def params(planned: Planned, model: ModelConfig) -> Params:
  """The parameters of a model; the kernels of a base of fewer bits are quantised."""
  found = models.abstract_params(model)
  if model.lora is not None and model.lora.base != "full":
    plain = models.abstract_params(dataclasses.replace(model, lora=None))
    base = jax.eval_shape(lambda p: quantize.quantize_params(p, kind=model.lora.base), plain)
    found = lora.join(lora.split(found)[0], base)
  return placer(planned, model)(found)


def placer(planned: Planned, *of: ModelConfig) -> Callable[[Any], Any]:
  """Makes `place(tree)`: arrays get the sharding of the parameter that they are named after.

  So do moments and copies, whose paths contain that of the parameter; everything else is on all
  devices, with the sums over an axis of a parameter that Adafactor keeps.
  """
  table = {}
  for model in of:
    shardings = planned.layout.param_shardings(models.abstract_boxed_params(model))
    table |= {_names(path): sharding for path, sharding
              in jax.tree_util.tree_flatten_with_path(shardings)[0]}
  everywhere = planned.layout.param_shardings(None)

  def one(path, leaf):
    names = _names(path)
    parts = [names[i:j] for i in range(len(names)) for j in range(i + 1, len(names) + 1)]
    found = max((part for part in parts if part in table), key=len, default=None)
    is_split = found is not None and len(table[found].spec) <= len(leaf.shape)
    sharding = rules.fit_sharding(table[found], leaf.shape) if is_split else everywhere
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  return lambda tree: jax.tree_util.tree_map_with_path(one, tree)


def rows(planned: Planned, tree: Any) -> Any:
  """Rows as `Layout.put_rows` places them; numpy arrays are shapes too."""
  sharding = rules.rows_sharding(planned.layout.param_shardings(None).mesh)
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def plan(tree: Any) -> Any:
  """A plan of rows, which programs receive from the host."""
  return jax.tree.map(lambda x: struct(x.shape, x.dtype), tree)


def _names(path: tuple) -> tuple[str, ...]:
  return tuple(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part))))
               for part in path)
