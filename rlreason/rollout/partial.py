"""Partial rollouts: groups whose completions are sampled over several steps.

A step ends when enough groups have ended; the others go on in the next one, with the log-probs they
were sampled with. The open groups belong to the position of the data, so that a checkpoint holds
them.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from rlreason.data.fitting import doubling_buckets, encode_prompt, make_prompts
from rlreason.data.pipeline import BatchIterator
from rlreason.data.tasks.base import Row
from rlreason.models import ModelConfig
from rlreason.parallel import Layout
from rlreason.sampling import SamplingOptions, Started, sample_until
from rlreason.tokenizers import Tokenizer
from rlreason.types import Params, Prompts, Rollout

_SMALLEST = 32  # columns of the tokens so far, if there are any


@dataclasses.dataclass
class Group:
  """A prompt and its completions so far."""

  position: dict[str, Any]  # of the data before the batch that the prompt is of
  number: int  # of the prompt in this batch
  row: Row
  key_data: list[int] | None = None  # of the draw in which it began; None: not begun
  index: int = 0  # in this draw, from which its random keys follow
  draw: int = 0  # number of this draw
  # Of each of the G completions: {"tokens", "log_probs", "values" (None: there is no critic),
  # "is_done"}, the first three of its tokens.
  completions: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class OpenGroups:
  """The open groups and the prompts after them: an iterator's state as `BatchIterator`'s.

  Attributes:
    draws: their number so far.
  """

  def __init__(self, prompts: BatchIterator[list[Row]]):
    self._prompts, self._groups = prompts, []
    self.draws = 0

  def take(self, count: int, key: jax.Array) -> list[Group]:
    """The next groups, open ones first; those that begin get the key. `put_back` must follow."""
    while len(self._groups) < count:
      position = self._prompts.get_state()
      self._groups += [
          Group(position, number, row) for number, row in enumerate(next(self._prompts))]
    taken, self._groups = self._groups[:count], self._groups[count:]
    for index, group in enumerate(group for group in taken if group.key_data is None):
      group.key_data = np.asarray(jax.random.key_data(key)).tolist()
      group.index, group.draw = index, self.draws
    self.draws += 1
    return taken

  def put_back(self, taken: Sequence[Group], rollout: Rollout, indices: Sequence[int]):
    """Those of the groups that go on, in their order, with their rows of the rollout (numpy)."""
    size = len(rollout.token_mask) // len(taken)
    for i in indices:
      taken[i].completions = [
          _completion(rollout, row) for row in range(i * size, (i + 1) * size)]
    self._groups = [*(taken[i] for i in indices), *self._groups]

  def get_state(self) -> dict[str, Any]:
    kept = [{field.name: getattr(group, field.name) for field in dataclasses.fields(Group)
             if field.name != "row"} for group in self._groups]
    return {"prompts": self._prompts.get_state(), "draws": self.draws, "groups": kept}

  def set_state(self, state: dict[str, Any]) -> None:
    """Moves to a saved position; reads the prompts of the open groups again."""
    self._groups, position, rows = [], None, []
    for kept in state["groups"]:
      if kept["position"] != position:
        position = kept["position"]
        self._prompts.set_state(position)
        rows = next(self._prompts)
      self._groups.append(Group(row=rows[kept["number"]], **kept))
    self._prompts.set_state(state["prompts"])
    self.draws = state["draws"]


def make_partial_generator(
    model: ModelConfig, tokenizer: Tokenizer, layout: Layout, *, options: SamplingOptions,
    group_size: int, prompt_buckets: Sequence[int], enough: int, has_values: bool = False,
) -> Callable[[Params, Sequence[Group]], tuple[Rollout, np.ndarray]]:
  """Makes `generate(params, groups)`: a rollout of all groups, and which have ended, bool[P].

  The arguments are those of `make_generator`; sampling stops when `enough` groups have ended, a
  multiple of the layout's shards. There is one program for each prompt bucket and width of the
  tokens so far.
  """
  compiled = partial_program(
      model, tokenizer.eos_ids, layout, options=options, group_size=group_size, enough=enough,
      has_values=has_values)
  widths = started_widths(options)

  def generate(params, groups):
    prompts = make_prompts(
        [encode_prompt(tokenizer, group.row) for group in groups], prompt_buckets,
        pad_id=tokenizer.pad_id).replace(
            index=np.array([group.index for group in groups], np.int32))
    started = layout.put_rows(_started(prompts, groups, group_size, widths, has_values))
    rollout = layout.get_rows(compiled(params, started, jax.random.key(0)))
    lengths = rollout.token_mask.sum(axis=1)
    is_open = rollout.truncated & (lengths < options.max_new_tokens)
    return rollout, ~is_open.reshape(len(groups), group_size).any(axis=1)

  return generate


def started_widths(options: SamplingOptions) -> list[int]:
  """Columns that the tokens so far may have, besides none."""
  return doubling_buckets(_SMALLEST, options.max_new_tokens)


def partial_program(
    model: ModelConfig, stop_ids: tuple[int, ...], layout: Layout, *, options: SamplingOptions,
    group_size: int, enough: int, has_values: bool = False,
) -> Callable[[Params, Started, jax.Array], Rollout]:
  """The program of `make_partial_generator`, which has the same arguments."""
  def sample_rows(params, started, key):
    del key  # the groups have theirs
    return sample_until(
        model, params["policy"], started, options=options, stop_ids=stop_ids,
        group_size=group_size, enough=enough // layout.num_replicas,
        value_head=params["value_head"] if has_values else None)

  return layout.compile_sampler(sample_rows)


def _completion(rollout: Rollout, row: int) -> dict[str, Any]:
  of_row = lambda x: None if x is None else x[row, rollout.token_mask[row]].tolist()
  return {"tokens": of_row(rollout.completion_tokens), "log_probs": of_row(rollout.log_probs),
          "values": of_row(rollout.values), "is_done": not rollout.truncated[row]}


def _started(
    prompts: Prompts, groups: Sequence[Group], group_size: int, widths: Sequence[int],
    has_values: bool,
) -> Started:
  """The completions so far as arrays."""
  nothing = {"tokens": [], "log_probs": [], "values": [], "is_done": False}
  rows = [row for group in groups for row in group.completions or [nothing] * group_size]
  lengths = np.array([len(row["tokens"]) for row in rows], np.int32)
  width = min(width for width in (0, *widths) if width >= lengths.max())
  mask = np.arange(width) < lengths[:, None]

  def array(name, dtype):
    found = np.zeros(mask.shape, dtype)
    found[mask] = np.concatenate([np.asarray(row[name], dtype) for row in rows])
    return found

  return Started(
      prompts=prompts, key_data=np.array([group.key_data for group in groups], np.uint32),
      tokens=array("tokens", np.int32), lengths=lengths,
      is_done=np.array([row["is_done"] for row in rows]),
      log_probs=array("log_probs", np.float32),
      values=array("values", np.float32) if has_values else None)
