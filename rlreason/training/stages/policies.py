"""The models of a stage: its policy, reference and critic."""

from collections.abc import Callable
import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from rlreason import models, rollout as rollout_lib, weights
from rlreason.algorithms import rows, score_completions, score_steps
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


# Field of a stage -> the numbers of labels that the head of its model may have.
_LABELS = {"critic_path": (1,), "reward_model": (1,), "process_model": weights.STEP_LABELS}


def make_model_scores(
    setup: Setup, stage: RLStage | SampleStage, folder: pathlib.Path
) -> tuple[Callable[[Rollout], np.ndarray] | None, Params | None]:
  """Makes `model_scores(rollout)`, f32[B] of the stage's reward model, and gives its parameters.

  None, None: it has none.
  """
  return _make_scores(setup, stage, "reward_model", folder, score_completions)


def make_step_scores(
    setup: Setup, stage: RLStage | SampleStage, folder: pathlib.Path, tokenizer: Tokenizer
) -> tuple[Callable[[Rollout], list[list[tuple[int, float]]]] | None, Params | None]:
  """Makes `step_scores(rollout)`: [B] lists of (character, score) of the steps of completions.

  They are of the stage's process reward model, whose parameters are given too. None, None: it has
  none.
  """
  def at_every_token(model, params, rollout):
    every = jnp.arange(rollout.completion_tokens.shape[1])
    columns = jnp.broadcast_to(every[None], rollout.completion_tokens.shape)
    return score_steps(model, params, rollout, columns)

  scores_of, params = _make_scores(setup, stage, "process_model", folder, at_every_token)
  if scores_of is None:
    return None, None
  (separator,) = {spec.step_separator for spec in stage.rewards
                  if spec.name == "process" and spec.function is None}

  def step_scores(rollout):
    scores = scores_of(rollout)
    ends = rollout_lib.step_ends(tokenizer, rollout, separator)
    return [[(end.character, float(row[end.column])) for end in row_ends]
            for row, row_ends in zip(scores, ends, strict=True)]

  return step_scores, params


def _make_scores(
    setup: Setup, stage: RLStage | SampleStage, field: str, folder: pathlib.Path, score: Callable
) -> tuple[Callable[[Rollout], np.ndarray] | None, Params | None]:
  """Makes `scores(rollout)` of the model that a field of the stage names, by `score(model, params,
  rollout)`; and gives its parameters. None, None: the field is empty.
  """
  source, layout = vars(stage).get(field, ""), setup.layout
  if not source:
    return None, None
  model, params, _ = weights.load_scalar_model(
      _find_scalar_model(source, folder), dtype=setup.model.param_dtype,
      compute_dtype=setup.model.dtype, sharding=param_shardings(layout), labels=_LABELS[field])
  model = dataclasses.replace(
      model, unroll=min(setup.model.unroll, model.num_layers), attention=setup.model.attention)
  params, size = layout.put_state(params), 0
  if isinstance(stage, RLStage):  # no more rows at a time than in a gradient pass
    size = stage.algorithm.micro_batch_size or stage.algorithm.minibatch_size
  compiled = layout.compile_rows(lambda params, rollout, key: rows.in_chunks(
      functools.partial(score, model, params), rollout, size))
  return lambda rollout: layout.get_rows(compiled(params, layout.put_rows(rollout), None)), params


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
  """Checks critic and reward models without loading them: they must read the policy's output.

  Models that a stage of the run trains have its vocabulary.
  """
  for field, labels in _LABELS.items():
    source = vars(stage).get(field, "")
    if source and not is_of_stage(source):
      model, tokenizer = weights.open_scalar_model(weights.find_model(source), labels)
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
