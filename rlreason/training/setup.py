"""Makes the objects that a recipe names: model, tokenizer, tasks, layout and evaluator."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, get_args

import jax

from rlreason import config as config_lib, models, tokenizers, weights
from rlreason.data.tasks.base import Task
from rlreason.data.tasks.load import load_tasks, vocabulary
from rlreason.evaluation.evaluator import make_evaluator, metric_names
from rlreason.evaluation.reading import make_reader
from rlreason.models import LoRAConfig, ModelConfig, quantize
from rlreason.models.config import Remat
from rlreason.parallel import Layout, make_layout
from rlreason.tokenizers import Tokenizer, WordTokenizer
from rlreason.training.keys import init_key
from rlreason.training.memory import check_memory
from rlreason.training.settings.recipe import NewModel, PretrainedModel, Recipe
from rlreason.training.stages.base import Setup
from rlreason.types import Key, Params


# Fields in which a start model may differ from the policy: the recipe sets them, or they do not
# change results.
_FREE_FIELDS = (
    "family", "balance_coef", "max_positions", "dtype", "param_dtype", "remat", "unroll",
    "attention", "lora")


def make_setup(recipe: Recipe) -> tuple[Setup, Params]:
  """Loads or makes everything a run needs before its first step.

  Returns:
    The set-up, and the initial parameters of the policy, sharded as in the layout.

  Raises:
    FileNotFoundError, ValueError: as the loaders do; nothing has been computed yet.
  """
  layout = make_layout(recipe.parallel)
  check_remat(recipe.model.remat, layout)
  tasks = load_tasks(recipe.task)
  model, params, tokenizer = load_policy(recipe, layout, init_key(recipe.seed))
  try:
    model = dataclasses.replace(model, lora=recipe.lora)
  except ValueError as error:
    raise ValueError(f"config.{error}") from error
  limits = {f"{stage.name}.sampling": stage.sampling.max_new_tokens
            for stage in recipe.stages if "sampling" in vars(stage)}
  for section, longest in {**limits, "evaluation": recipe.evaluation.max_new_tokens}.items():
    if max(recipe.prompt_buckets) + longest > model.max_positions:
      raise ValueError(
          f"config.{section}.max_new_tokens: got {longest}, and prompt_buckets of up to "
          f"{max(recipe.prompt_buckets)} tokens, allowed: {model.max_positions} together, the "
          "positions of the model")
  try:
    evaluate = make_evaluator(
        recipe.evaluation, tasks[recipe.evaluation.split], model, tokenizer, layout,
        prompt_buckets=recipe.prompt_buckets, reader=make_reader(recipe.task),
        grading=recipe.grading)
  except ValueError as error:
    raise ValueError(f"config.evaluation: {error}") from error
  _check_best(recipe, tasks, tokenizer)
  return Setup(recipe, model, tokenizer, tasks, layout, evaluate), params


def _check_best(recipe: Recipe, tasks: dict[str, Task], tokenizer: Tokenizer):
  """Raises ValueError if no evaluation has the metric that determines the best one."""
  metric = recipe.checkpoint.keep_best
  if not metric:
    return
  names = metric_names(
      recipe.evaluation, tasks[recipe.evaluation.split], tokenizer,
      longest=max(recipe.prompt_buckets), reader=make_reader(recipe.task),
      grading=recipe.grading)
  if metric not in names:
    raise ValueError(
        f"config.checkpoint.keep_best: got {metric!r}, allowed: {', '.join(names)}, or ''")


def load_policy(
    recipe: Recipe, layout: Layout, key: Key
) -> tuple[ModelConfig, Params, Tokenizer]:
  """The model from which a recipe starts, with its parameters sharded as in the layout."""
  choice = recipe.model

  def sharding(model):
    """The sharding of a model whose weights have not been read yet."""
    check_memory(recipe, with_choices(model, choice))
    return param_shardings(layout)(model)

  if isinstance(choice, PretrainedModel):
    model, params, tokenizer = weights.load_model(
        weights.find_model(choice.path), dtype=choice.param_dtype, compute_dtype=choice.dtype,
        sharding=sharding, quantize=base_kind(recipe), end_tokens=choice.end_tokens)
    try:
      tokenizer = tokenizers.with_chat_options(tokenizer, choice.chat_options)
    except ValueError as error:
      raise ValueError(f"config.model.{error}") from error
    model = models.with_tokens(model, tokenizer.vocab_size)
    return with_choices(model, choice), params, tokenizer
  words = vocabulary(recipe.task)
  if words is None:
    raise ValueError(
        "config.model.kind: got 'new' with a task that has no vocabulary of its own, allowed: "
        "'pretrained', or the tasks 'chain' and 'countdown', or an object with a `vocabulary`")
  try:
    tokenizer = WordTokenizer.from_words(words)
  except ValueError as error:
    raise ValueError(f"config.task: vocabulary: {error}") from error
  model = new_model_config(choice, tokenizer.vocab_size)
  params = jax.jit(
      functools.partial(models.init_params, model), out_shardings=sharding(model))(key)
  if base_kind(recipe) is not None:
    params = jax.jit(
        functools.partial(quantize.quantize_params, kind=base_kind(recipe)))(params)
  return model, params, tokenizer


def check_remat(remat: Remat, layout: Layout):
  """Raises ValueError if the devices have no memory of a host beside their own."""
  if remat != "offload":
    return
  if any(device.platform == "cpu" for device in layout.param_shardings(None).device_set):
    raise ValueError(
        "config.model.remat: got 'offload' on a CPU, whose memory is the host's, allowed: "
        f"{', '.join(name for name in get_args(Remat) if name != 'offload')}")


def check_same_shape(source: str, model: ModelConfig, policy: ModelConfig):
  """Raises ValueError if a start model computes something else than the policy."""
  names = [field.name for field in dataclasses.fields(ModelConfig)
           if field.name not in _FREE_FIELDS]
  wrong = [name for name in names if getattr(model, name) != getattr(policy, name)]
  if wrong:
    of = lambda config: ", ".join(f"{name}={getattr(config, name)}" for name in wrong)
    raise ValueError(f"start: got {source!r}, a model of {of(model)}, allowed: {of(policy)}")


def check_same_adapters(source: str, adapters: LoRAConfig, policy: LoRAConfig):
  """Raises ValueError if start adapters differ in form from those that the recipe trains."""
  names = ("rank", "alpha", "targets")
  wrong = [name for name in names if getattr(adapters, name) != getattr(policy, name)]
  if wrong:
    of = lambda config: ", ".join(f"{name}={getattr(config, name)}" for name in wrong)
    raise ValueError(f"start: got {source!r}, adapters of {of(adapters)}, allowed: {of(policy)}")


def base_kind(recipe: Recipe) -> str | None:
  """The quantisation of the policy from which a stage starts; None: none."""
  return None if recipe.lora is None or recipe.lora.base == "full" else recipe.lora.base


def param_shardings(layout: Layout) -> Callable[[ModelConfig], Any]:
  """The shardings of a model's parameters."""
  return lambda model: layout.param_shardings(models.abstract_boxed_params(model))


def new_model_config(choice: NewModel, vocab_size: int) -> ModelConfig:
  """The model of a recipe that starts from scratch.

  Raises:
    ValueError: there is no such model.
  """
  fields = dataclasses.asdict(choice)
  del fields["kind"]
  try:
    return ModelConfig(vocab_size=vocab_size, **fields)
  except ValueError as error:
    raise ValueError(config_lib.at("config.model", error, fields)) from error


def with_choices(model: ModelConfig, choice: PretrainedModel | NewModel) -> ModelConfig:
  """A model with the compute settings of a recipe."""
  return dataclasses.replace(
      model, remat=choice.remat, unroll=choice.unroll, attention=choice.attention)
