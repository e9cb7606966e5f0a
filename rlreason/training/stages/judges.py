"""The local model of a stage's reward `judge`: loaded beside the policy, and sampled from."""

from collections.abc import Sequence
import dataclasses

import jax

from rlreason import models, processes, weights
from rlreason import rollout as rollout_lib
from rlreason.data import fitting
from rlreason.rewards.judge import Ask, LocalModel, model_of
from rlreason.rewards.service import Messages
from rlreason.rollout import scored as scored_lib
from rlreason.sampling import SamplingOptions
from rlreason.tokenizers import Tokenizer
from rlreason.training.settings.rl import RLStage
from rlreason.training.settings.sample import SampleStage
from rlreason.training.setup import param_shardings
from rlreason.training.stages.base import Setup
from rlreason.workers.pool import Reply

_SMALLEST_BUCKET = 128  # tokens; questions are padded to it times a power of two


def _local_model(stage: RLStage | SampleStage) -> LocalModel | None:
  """The local model of the stage's judge, if it has one."""
  for spec in stage.rewards:
    if spec.name == "judge" and spec.function is None:
      found = model_of(spec.options["service"])
      return found if isinstance(found, LocalModel) else None
  return None


def check(setup: Setup, stage: RLStage | SampleStage):
  """Raises FileNotFoundError or ValueError if the stage's judge could not be used."""
  local, where = _local_model(stage), f"config.{stage.name}.rewards.judge.options.service"
  if local is None:
    return
  if processes.count() > 1:
    raise ValueError(f"{where}.path: got {local.path!r} with {processes.count()} processes, "
                     "allowed: a url")
  if local.batch_size % setup.layout.num_shards:
    raise ValueError(f"{where}.batch_size: got {local.batch_size}, allowed: a multiple of "
                     f"{setup.layout.num_shards}, the devices that split rows")
  model, _ = weights.open_model(weights.find_model(local.path))
  if model.max_positions <= local.max_tokens:
    raise ValueError(f"{where}.max_tokens: got {local.max_tokens}, allowed: below "
                     f"{model.max_positions}, the positions of the judge")


def make_ask(setup: Setup, stage: RLStage | SampleStage) -> Ask | None:
  """`ask` of the stage's local judge, greedy; None: it has none."""
  local = _local_model(stage)
  if local is None:
    return None
  model, params, tokenizer = weights.load_model(
      weights.find_model(local.path), dtype=setup.model.param_dtype,
      compute_dtype=setup.model.dtype, sharding=param_shardings(setup.layout))
  model = dataclasses.replace(
      models.with_tokens(model, tokenizer.vocab_size), attention=setup.model.attention)
  params = {"policy": setup.layout.put_state(params)}
  longest = model.max_positions - local.max_tokens
  buckets = [_SMALLEST_BUCKET]
  while buckets[-1] < longest:
    buckets.append(2 * buckets[-1])
  generate = rollout_lib.make_generator(
      model, tokenizer, setup.layout, group_size=1,
      options=SamplingOptions(max_new_tokens=local.max_tokens, temperature=0.0),
      prompt_buckets=[min(bucket, longest) for bucket in buckets])

  def ask(requests: Sequence[Messages]) -> list[str | Reply]:
    distinct = {request: _encode(tokenizer, request) for request in dict.fromkeys(requests)}
    fitting_ones = [request for request, ids in distinct.items() if len(ids) <= longest]
    # Of similar lengths together, because a batch is as wide as its longest.
    fitting_ones.sort(key=lambda request: len(distinct[request]))
    replies = {}
    for start in range(0, len(fitting_ones), local.batch_size):
      some = fitting_ones[start:start + local.batch_size]
      rows = [{"prompt_ids": distinct[request]} for request in some]
      rows += rows[-1:] * (local.batch_size - len(rows))  # every batch has one shape
      texts = scored_lib.completion_texts(tokenizer, generate(params, rows, jax.random.key(0)))
      replies |= zip(some, texts)
    return [replies.get(request) or Reply(
        failure="error", message=f"a question of {len(distinct[request])} tokens, allowed: at most "
        f"{longest}" if request not in replies else "an empty reply") for request in requests]

  return ask


def _encode(tokenizer: Tokenizer, request: Messages) -> list[int]:
  """A conversation through the model's chat template, or as plain text without one."""
  if tokenizer.chat_template is None:
    prompt = "\n\n".join(content for _, content in request) + "\n"
  else:
    prompt = [{"role": role, "content": content} for role, content in request]
  return fitting.encode_prompt(tokenizer, {"prompt": prompt})
