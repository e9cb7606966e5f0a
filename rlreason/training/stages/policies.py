"""The models of a stage: its policy, reference and critic."""

from collections.abc import Callable
import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from rlreason import models, weights
from rlreason.algorithms import rows, score_completions
from rlreason.models import ModelConfig, lora
from rlreason.tokenizers import Tokenizer
from rlreason.training.keys import init_key
from rlreason.training.settings.base import stage_of
from rlreason.training.settings.rl import RLStage
from rlreason.training.settings.sample import SampleStage
from rlreason.training.setup import base_kind, param_shardings
from rlreason.training.stages.base import Setup, model_folder
from rlreason.training.stages.sources import is_of_stage
from rlreason.types import Key, Params, Rollout


def own_policy(
    setup: Setup, policy: Params, seed: int, *, has_reference: bool
) -> tuple[Params, Params | None]:
  """The policy that a stage trains, and its reference in the form of an algorithm's `score`.

  Without adapters these are a copy, and the policy itself. With adapters they are the policy, with
  new ones if it has none yet, and a copy of the adapters that it had.
  """
  if setup.model.lora is None:
    return (jax.tree.map(jnp.copy, policy), policy) if has_reference else (policy, None)
  if not lora.has_adapters(policy):
    return _add_adapters(setup, setup.model, policy, jax.random.fold_in(init_key(seed), 1)), None
  return policy, jax.tree.map(jnp.copy, lora.split(policy)[0]) if has_reference else None


def _add_adapters(setup: Setup, model: ModelConfig, params: Params, key: Key) -> Params:
  """Parameters with new adapters added."""
  shardings = setup.layout.param_shardings(lora.split(models.abstract_boxed_params(model))[0])
  start = jax.jit(functools.partial(models.init_adapters, model), out_shardings=shardings)
  return lora.join(params, start(key))


def _find_scalar_model(source: str, folder: pathlib.Path) -> pathlib.Path:
  """The folder of a model; "stage:NAME" is that of a stage of the run in `folder`."""
  if is_of_stage(source):
    return model_folder(folder, stage_of(source))
  return weights.find_model(source)


def make_model_scores(
    setup: Setup, stage: RLStage | SampleStage, folder: pathlib.Path
) -> tuple[Callable[[Rollout], np.ndarray] | None, Params | None]:
  """Makes `model_scores(rollout)`, f32[B] of the stage's reward model, and gives its parameters.

  None, None: it has none.
  """
  if not stage.reward_model:
    return None, None
  layout = setup.layout
  model, params, _ = weights.load_scalar_model(
      _find_scalar_model(stage.reward_model, folder), dtype=setup.model.param_dtype,
      compute_dtype=setup.model.dtype, sharding=param_shardings(layout))
  model = dataclasses.replace(
      model, unroll=min(setup.model.unroll, model.num_layers), attention=setup.model.attention)
  params, size = layout.put_state(params), 0
  if isinstance(stage, RLStage):  # no more rows at a time than in a gradient pass
    size = stage.algorithm.micro_batch_size or stage.algorithm.minibatch_size
  score = layout.compile_rows(lambda params, rollout, key: rows.in_chunks(
      functools.partial(score_completions, model, params), rollout, size))
  return lambda rollout: layout.get_rows(score(params, layout.put_rows(rollout), None)), params


def load_critic(
    setup: Setup, stage: RLStage, seed: int, folder: pathlib.Path
) -> tuple[ModelConfig | None, Params | None]:
  """The model and the parameters of a critic from another checkpoint; None for none."""
  if not stage.critic_path:
    return None, None
  model, params, _ = weights.load_scalar_model(
      _find_scalar_model(stage.critic_path, folder), dtype=setup.model.param_dtype,
      compute_dtype=setup.model.dtype, sharding=param_shardings(setup.layout),
      quantize=base_kind(setup.recipe))
  model = dataclasses.replace(
      model, remat=setup.model.remat, attention=setup.model.attention, lora=setup.model.lora)
  if model.lora is not None:
    key = jax.random.fold_in(init_key(seed), 2)
    params["trunk"] = _add_adapters(setup, model, params["trunk"], key)
  return model, params


def check_reference(setup: Setup, stage: RLStage):
  """Checks the stage's separate reference, if it has one, without loading it."""
  if stage.reference_path:
    model, tokenizer = weights.open_model(weights.find_model(stage.reference_path))
    check_other_model(setup, "reference_path", model, tokenizer, stage.sampling.max_new_tokens)


def load_reference(
    setup: Setup, stage: RLStage
) -> tuple[ModelConfig | None, Params | None]:
  """The stage's separate reference; None, None: it has none."""
  return load_beside(setup, stage.reference_path) if stage.reference_path else (None, None)


def load_beside(setup: Setup, path: str) -> tuple[ModelConfig, Params]:
  """A model besides the policy, such as a teacher, with the policy's dtypes and layout."""
  model, params, _ = weights.load_model(
      weights.find_model(path), dtype=setup.model.param_dtype,
      compute_dtype=setup.model.dtype, sharding=param_shardings(setup.layout))
  return model, params


def check_scalar_models(setup: Setup, stage: RLStage | SampleStage):
  """Checks critic and reward model without loading them: they must read the policy's output.

  Models that a stage of the run trains have its vocabulary.
  """
  for field in ("critic_path", "reward_model"):
    source = vars(stage).get(field, "")
    if source and not is_of_stage(source):
      model, tokenizer = weights.open_scalar_model(weights.find_model(source))
      if field == "critic_path":
        dataclasses.replace(model, lora=setup.model.lora)  # raises where it cannot have adapters
      check_other_model(setup, field, model, tokenizer, stage.sampling.max_new_tokens)


def check_other_model(
    setup: Setup, field: str, model: ModelConfig, tokenizer: Tokenizer, new_tokens: int
):
  """Raises ValueError if another model could not read the policy's output."""
  check_positions(setup, field, model, new_tokens)
  check_vocabulary(setup, field, tokenizer)


def check_positions(setup: Setup, field: str, model: ModelConfig, new_tokens: int):
  """Raises ValueError if a prompt and its completion exceed the positions of a model."""
  longest = max(setup.recipe.prompt_buckets) + new_tokens
  if model.max_positions < longest:
    raise ValueError(f"{field}: got a model of {model.max_positions} positions, allowed: "
                     f"{longest} or more, a prompt and its completion")


def check_vocabulary(setup: Setup, field: str, tokenizer: Tokenizer):
  """Raises ValueError if a model has other ids for the policy's tokens."""
  ids = tokenizer.get_vocab()
  other = [word for word, token in setup.tokenizer.get_vocab().items() if ids.get(word) != token]
  if other:
    raise ValueError(f"{field}: got a model that knows {len(other)} of the policy's tokens by "
                     f"another id, or not at all ({other[0]!r}), allowed: one of its vocabulary")
