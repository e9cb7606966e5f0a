"""Supervised stages: on demonstrations of the task, on files, and on data of other stages."""

from collections.abc import Iterable, Iterator
import pathlib

from absl import logging

from rlreason import rollout as rollout_lib, tokenizers, tracking
from rlreason.algorithms import sft
from rlreason.data import packing, pipeline
from rlreason.data.sources import BadRows, FunctionRows, origin
from rlreason.data.tasks.base import Row, RowSource
from rlreason.data.tasks.load import demonstrations
from rlreason.tokenizers import Tokenizer
from rlreason.training.optimizer import optimizer_of
from rlreason.training.settings.sft import SFTStage
from rlreason.training.stages import base, checks, policies, sources
from rlreason.training.stages.base import Setup
from rlreason.types import Params
from rlreason.workers import WorkerPool


def check(setup: Setup, stage: SFTStage):
  """Raises FileNotFoundError or ValueError if the stage could not be made."""
  _token_weights(setup.tokenizer, stage)
  _check_examples(setup, stage)
  checks.check_split(stage, setup.layout.num_shards)
  if not sources.is_of_stage(stage.examples):
    rows = _load_examples(setup, stage, pathlib.Path())
    _check_some_fit(stage, _tokenize_examples(setup, stage, rows))


def _check_some_fit(stage: SFTStage, examples: Iterable[packing.Example]):
  """Checks that some example fits, up to the first one."""
  count = 0
  for count, example in enumerate(examples, 1):
    if packing.fit_examples([example], stage.length)[0]:
      return
  raise ValueError(
      f"length: got {stage.length}, allowed: enough for at least one of the {count} examples, with "
      "a token in it to learn")


def make(
    setup: Setup, stage: SFTStage, policy: Params, seed: int, pool: WorkerPool,
    folder: pathlib.Path,
) -> base.Stage:
  """The stage; `folder` is the run's, for data of earlier stages."""
  del pool  # there are no rewards
  optimizer, schedule = optimizer_of(stage.optimizer, stage.steps)
  policy, _ = policies.own_policy(setup, policy, seed, has_reference=False)
  algorithm = sft(stage.sft, setup.model, optimizer)
  state = setup.layout.put_state(algorithm.init({"policy": policy}))
  update = setup.layout.compile_update(algorithm.update_step, state)
  examples, dropped = packing.fit_examples(
      _tokenize_examples(setup, stage, _load_examples(setup, stage, folder)), stage.length)
  if not examples:  # of another stage
    raise ValueError(
        f"config.{stage.name}.length: got {stage.length}, allowed: enough for at least one of the "
        f"{dropped} examples")
  data = pipeline.packed_batches(examples, stage.batch_size, stage.length, seed)

  def learn(state, number, batch, key):
    state, metrics = update(state, setup.layout.put_rows(batch), key)
    host_metrics = {"optim/lr": float(schedule(number)),
                    "rollout/dropped_examples": dropped}
    return base.StepOutput(state, metrics, host_metrics, batch.tokens.size)

  return base.Stage(stage.name, stage.steps, state, data, learn)


def _load_examples(setup: Setup, stage: SFTStage, folder: pathlib.Path) -> RowSource:
  """Rows {prompt, completion}: of a file, of answers in a template, or the task's own."""
  _check_examples(setup, stage)
  if stage.examples:
    return sources.read_rows(stage, "examples", setup.tokenizer, folder, ("prompt", "completion"))
  train = setup.tasks["train"].rows
  if stage.answer_template:
    return FunctionRows(
        lambda i: {**train[i], "completion": _answered(stage.answer_template, train[i])},
        min(len(train), stage.num_examples), train)
  return demonstrations(setup.recipe.task, train, stage.num_examples)


def _answered(template: str, row: Row) -> str:
  if row["answer"] is None:  # of a task whose verifier needs none
    raise ValueError("answer_template: the row has no answer")
  return template.replace("{answer}", row["answer"])


def _check_examples(setup: Setup, stage: SFTStage):
  checks.check_source("examples", stage.examples, "{prompt, completion}")
  if not stage.examples and not stage.answer_template:
    demonstrations(setup.recipe.task, setup.tasks["train"].rows, stage.num_examples)


def _token_weights(tokenizer: Tokenizer, stage: SFTStage) -> dict[int, float]:
  """Token id -> weight of predicting it."""
  return {token: weight for word, weight in stage.token_weights.items()
          for token in tokenizer.encode(word)}


def _tokenize_examples(
    setup: Setup, stage: SFTStage, rows: RowSource
) -> Iterator[packing.Example]:
  """The examples of good rows; a bad one, such as a chat that a template refuses, is dropped."""
  weights, bad_rows = _token_weights(setup.tokenizer, stage), BadRows(f"config.{stage.name}")
  for i in tracking.each("tokenising examples", len(rows)):
    try:
      example = _tokenize_example(setup.tokenizer, rows[i], weights)
    except ValueError as error:
      bad_rows.add(origin(rows, i), error)
    else:
      yield example
  bad_rows.finish(len(rows))


def _tokenize_example(tokenizer: Tokenizer, row, weights: dict[int, float]) -> packing.Example:
  if not isinstance(row["prompt"], str) and not row.get("completion_ids"):
    messages = [*row["prompt"], {"role": "assistant", "content": row["completion"]}]
    chat = tokenizers.encode_example(tokenizer, messages)
    if chat.is_last_alone:
      logging.log_first_n(
          logging.WARNING, "the chat template rewrites what the assistant said before: of chats "
          "with several turns the last is trained on alone", 1)
    return packing.mask_example(chat.ids, chat.completion_mask, weights)
  return packing.make_example(
      rollout_lib.encode_prompt(tokenizer, row),
      sources.completion_ids(tokenizer, row, "completion"), weights)
