"""The models a stage works with: its own policy, its reference, its critic."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from rlreason import models, weights
from rlreason.models import ModelConfig, lora
from rlreason.tokenizers import Tokenizer
from rlreason.training.setup import Setup, base_kind, init_key, places
from rlreason.training.stage_configs import RLStage
from rlreason.types import Key, Params


def own_policy(
    setup: Setup, policy: Params, seed: int, *, has_reference: bool
) -> tuple[Params, Params | None]:
  """What a stage trains, and its reference, as an algorithm's `score` takes it.

  Without adapters these are a copy, and the policy itself. With adapters they are the policy, with
  new ones if it has none yet, and a copy of the adapters that it had.
  """
  if setup.model.lora is None:
    return (jax.tree.map(jnp.copy, policy), policy) if has_reference else (policy, None)
  if not lora.has_adapters(policy):
    return _add_adapters(setup, setup.model, policy, jax.random.fold_in(init_key(seed), 1)), None
  return policy, jax.tree.map(jnp.copy, lora.split(policy)[0]) if has_reference else None


def _add_adapters(setup: Setup, model: ModelConfig, params: Params, key: Key) -> Params:
  """Parameters with new adapters beside them."""
  shardings = setup.layout.param_shardings(lora.split(models.abstract_boxed_params(model))[0])
  start = jax.jit(functools.partial(models.init_adapters, model), out_shardings=shardings)
  return lora.join(params, start(key))


def load_critic(
    setup: Setup, stage: RLStage, seed: int
) -> tuple[ModelConfig | None, Params | None]:
  """The model and the parameters of a critic from another checkpoint; None for none."""
  if not stage.critic_path:
    return None, None
  model, params, _ = weights.load_scalar_model(
      weights.find_model(stage.critic_path), dtype=setup.model.param_dtype,
      compute_dtype=setup.model.dtype, sharding=places(setup.layout),
      quantize=base_kind(setup.recipe))
  model = dataclasses.replace(
      model, remat=setup.model.remat, attention=setup.model.attention, lora=setup.model.lora)
  if model.lora is not None:
    key = jax.random.fold_in(init_key(seed), 2)
    params["trunk"] = _add_adapters(setup, model, params["trunk"], key)
  return model, params


def check_critic(setup: Setup, stage: RLStage):
  """Opens the model of a critic without loading it: it has to read what the policy writes."""
  if not stage.critic_path:
    return
  model, tokenizer = weights.open_scalar_model(weights.find_model(stage.critic_path))
  dataclasses.replace(model, lora=setup.model.lora)  # raises where it cannot have the adapters
  check_other_model(setup, "critic_path", model, tokenizer, stage.sampling.max_new_tokens)


def check_other_model(
    setup: Setup, field: str, model: ModelConfig, tokenizer: Tokenizer, new_tokens: int
):
  """Raises ValueError where a model beside the policy could not read what the policy writes."""
  longest = max(setup.recipe.prompt_buckets) + new_tokens
  if model.max_positions < longest:
    raise ValueError(f"{field}: got a model of {model.max_positions} positions, allowed: "
                     f"{longest} or more, a prompt and its completion")
  ids = tokenizer.get_vocab()
  other = [word for word, token in setup.tokenizer.get_vocab().items() if ids.get(word) != token]
  if other:
    raise ValueError(f"{field}: got a model that knows {len(other)} of the policy's tokens by "
                     f"another id, or not at all ({other[0]!r}), allowed: one of its vocabulary")
