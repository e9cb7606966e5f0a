"""Prompts to completions to rewards: shared by training, evaluation and the library's users.

Generated ids are what is trained on; their text is decoded for the reward functions only, and never
tokenised again.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np

from rlreason import masks, tokenizers, tracking
from rlreason.data import prompts as prompts_lib
from rlreason.data.messages import ends_with_assistant
from rlreason.data.sources import BadRows, origin
from rlreason.data.tasks.base import Row, RowSource
from rlreason.models import ModelConfig
from rlreason.parallel import Layout
from rlreason.rewards import SCORE_COLUMN, CombinedReward, RewardResult, answer, verifier
from rlreason.sampling import SamplingOptions, sample
from rlreason.tokenizers import Tokenizer
from rlreason.types import Key, Params, Rollout

# Of the end of a prompt: a few tags, written out, and the blanks around them.
_OPENING_TOKENS = 32


_MAX_GOLDS = 2_000  # rows whose gold answers are looked at before a run


class Scored(NamedTuple):
  """A rollout's texts and rewards, on the host; lists of B."""

  completions: list[str]
  rewards: RewardResult
  totals: np.ndarray  # f32[B]; 0 where not scored
  is_scored: np.ndarray  # bool[B]
  lengths: np.ndarray  # i32[B] generated tokens
  reasoning_lengths: np.ndarray  # i32[B] of them, before the answer

  @property
  def is_right(self) -> np.ndarray:
    """bool[B]: the verifier gives 1 or more; False where it gives nothing."""
    return np.array([bool(verdict) for verdict in self.rewards.verdicts], bool)


class Sampled(NamedTuple):
  """Problems, their completions and what these score."""

  rows: list[Row]  # P
  rollout: Rollout  # B = P * G rows, numpy
  scored: Scored  # of the same

  def differs(
      self, group_size: int, by: Literal["reward", "accuracy"] = "reward"
  ) -> np.ndarray:
    """bool[P]: whether the scored completions of a group do not all have one reward or verdict."""
    values = self.scored.totals if by == "reward" else self.scored.is_right
    values, is_scored = (x.reshape(-1, group_size) for x in (values, self.scored.is_scored))
    values = values.astype(np.float32)
    lowest = np.min(values, axis=1, initial=np.inf, where=is_scored)
    return np.max(values, axis=1, initial=-np.inf, where=is_scored) > lowest


def encode_prompt(tokenizer: Tokenizer, row: Row) -> list[int]:
  """Token ids of a row's prompt: plain text, or chat messages through the template.

  A row that a stage wrote brings its `prompt_ids`: what was sampled is not tokenised again.
  """
  if row.get("prompt_ids"):
    return row["prompt_ids"]
  if isinstance(row["prompt"], str):
    return tokenizer.encode(row["prompt"], add_special=True)
  return tokenizers.encode_prompt(tokenizer, row["prompt"])


class FittingRows:
  """The rows of a source whose prompts have at most `max_length` tokens."""

  def __init__(
      self, rows: RowSource, tokenizer: Tokenizer, max_length: int, columns: Collection[str] = (),
      has_math_golds: bool = False,
  ):
    """Encodes every prompt once; a bad row is logged, counted and left out like one too long.

    Args:
      rows: of a task.
      tokenizer: of the policy.
      max_length: tokens.
      columns: that each row must have and fill: those of its verifier.
      has_math_golds: whether `answer` is read as mathematics; a row without a gold answer (`proof`)
        is bad.

    Raises:
      ValueError: all rows are bad, or no prompt fits.
    """
    lists, bad_rows = [], BadRows("prompts", "prompts")
    for i in tracking.each("tokenising prompts", len(rows)):
      try:
        row = rows[i]
        missing = sorted(name for name in columns if row.get(name) is None)
        if missing:
          raise ValueError(f"the verifier needs the columns {missing}. Got: {sorted(row)}")
        if has_math_golds:
          answer.gold_text(row["answer"])
        if not row.get("prompt_ids") and ends_with_assistant(row["prompt"]):
          raise ValueError("the prompt ends with the assistant's turn")
        lists.append(encode_prompt(tokenizer, row))
      except ValueError as error:
        lists.append([])  # left out with the empty ones
        bad_rows.add(origin(rows, i), error)
    self._places, self.num_dropped = prompts_lib.fit_prompts(lists, max_length)
    self._rows = rows
    if self._places or len(bad_rows) == len(rows):
      unfit = self.num_dropped - len(bad_rows)
      bad_rows += [(None, f"empty or longer than {max_length} tokens")] * unfit
      bad_rows.finish(len(rows))
    else:
      raise ValueError(
          f"prompts: got {len(rows)} that are all empty or longer than {max_length} tokens, the "
          "largest of prompt_buckets; allowed: at least one that fits")

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index: int) -> Row:
    return self._rows[self._places[index]]


def check_fitting(
    rows: RowSource, tokenizer: Tokenizer, max_length: int, columns: Collection[str] = (),
    has_math_golds: bool = False,
) -> None:
  """Raises what `FittingRows` would, and looks no further than to the first row that fits.

  Gold answers that are no mathematics are counted and shown.
  """
  if has_math_golds:
    report_golds(rows)
  for i in range(len(rows)):
    try:
      row = rows[i]
      is_full = all(row.get(name) is not None for name in columns) and not ends_with_assistant(
          row["prompt"])
      if is_full and has_math_golds:
        answer.gold_text(row["answer"])
      if is_full and 0 < len(encode_prompt(tokenizer, row)) <= max_length:
        return
    except ValueError:
      continue
  FittingRows(rows, tokenizer, max_length, columns, has_math_golds)


def report_golds(rows: RowSource) -> None:
  """Logs which of the first gold answers are no mathematics."""
  golds = {}
  for i in range(min(len(rows), _MAX_GOLDS)):
    try:
      golds[origin(rows, i)] = answer.gold_text(rows[i].get("answer"))
    except ValueError:
      continue  # a bad row: `FittingRows` says so
  verifier.report_texts(golds)


def make_generator(
    model: ModelConfig, tokenizer: Tokenizer, layout: Layout, *, options: SamplingOptions,
    group_size: int, prompt_buckets: Sequence[int], has_values: bool = False,
    sampler: Callable[..., Rollout] | None = None,
) -> Callable[[Params, Sequence[Row], Key], Rollout]:
  """Makes `generate(params, rows, key) -> Rollout` on the host, one program per prompt bucket.

  Args:
    model: the policy's shape.
    tokenizer: its tokenizer.
    layout: where programs run; the number of rows must be a multiple of its shards.
    options: of the sampler.
    group_size: completions per prompt.
    prompt_buckets: allowed widths of prompts, tokens.
    has_values: whether the parameters have a `value_head` to apply while sampling.
    sampler: in the place of `sampling.sample`, with its arguments.

  Returns:
    A function of placed parameters {"policy": ...}, task rows and a key; numpy arrays come back.
  """

  def sample_rows(params, prompts, key):
    return (sampler or sample)(
        model, params["policy"], prompts, key, options=options, stop_ids=tokenizer.eos_ids,
        group_size=group_size, value_head=params["value_head"] if has_values else None)

  compiled = layout.compile_sampler(sample_rows)

  def generate(params, rows, key):
    prompts = prompts_lib.make_prompts(
        [encode_prompt(tokenizer, row) for row in rows], prompt_buckets, pad_id=tokenizer.pad_id)
    return layout.get_rows(compiled(params, layout.put_rows(prompts), key))

  return generate


def completion_texts(tokenizer: Tokenizer, rollout: Rollout) -> list[str]:
  """The text of each completion, special tokens but tags like <think> left out."""
  return [tokenizer.decode(ids[mask].tolist())
          for ids, mask in zip(rollout.completion_tokens, rollout.token_mask, strict=True)]


def _opened(tokenizer: Tokenizer, rollout: Rollout, row: int) -> str:
  """The tags of reasoning that the prompt of a row ends with."""
  ids = rollout.prompt_tokens[row][rollout.prompt_mask[row]]
  return tokenizers.opened(tokenizer.decode(ids[-_OPENING_TOKENS:].tolist(), skip_special=False))


def tokens_until(tokenizer: Tokenizer, ids: Sequence[int], end: int) -> int:
  """The fewest first tokens whose text has `end` characters (above 0), if all of them have."""
  low, high = 0, len(ids)  # the text of the first `high` tokens is long enough, of `low` it is not
  while high - low > 1:
    middle = (low + high) // 2
    if len(tokenizer.decode(ids[:middle])) >= end:
      high = middle
    else:
      low = middle
  return high


def reasoning_tokens(
    tokenizer: Tokenizer, ids: Sequence[int], text: str, mark: str = "") -> int:
  """Generated tokens before the answer (`boxes.text_before_answer`); all of them without one."""
  start = len(answer.text_before_answer(text, mark))
  return len(ids) if start == len(text) else tokens_until(tokenizer, ids, start + 1) - 1


def score(
    reward: CombinedReward, tokenizer: Tokenizer, rows: Sequence[Row], rollout: Rollout,
    model_scores: np.ndarray | None = None,
) -> Scored:
  """Decodes a rollout on the host and scores it.

  Args:
    reward: of `rewards.combine`.
    tokenizer: that made the prompts.
    rows: the P task rows; their columns reach the reward functions, once per completion.
    rollout: B = P * G completions, numpy.
    model_scores: f32[B] of a reward model, for the reward `learned`; None: there is none.

  Returns:
    Texts and rewards of the B completions.
  """
  completions = completion_texts(tokenizer, rollout)
  group_size = len(completions) // len(rows)
  repeated = [row for row in rows for _ in range(group_size)]
  columns = {name: [row[name] for row in repeated] for name in rows[0]}
  prompts = columns.pop("prompt")
  reasoning_lengths = [
      reasoning_tokens(tokenizer, ids[mask].tolist(), text, reward.mark) for ids, mask, text in zip(
          rollout.completion_tokens, rollout.token_mask, completions, strict=True)]
  lengths = masks.lengths(rollout.token_mask)
  openings = [_opened(tokenizer, rollout, row * group_size) for row in range(len(rows))]
  columns |= {
      "tokens": lengths.tolist(), "opened": [text for text in openings for _ in range(group_size)],
      "reasoning_tokens": reasoning_lengths,
      "reasoning_text": [answer.text_before_answer(text, reward.mark) for text in completions],
      "truncated": rollout.truncated.tolist(),
      "group": [row // group_size for row in range(len(completions))]}
  if model_scores is not None:
    columns[SCORE_COLUMN] = model_scores.tolist()
  result = reward(prompts, completions, **columns)
  return Scored(
      completions=completions, rewards=result,
      totals=np.array([total or 0.0 for total in result.total], np.float32),
      is_scored=np.array([total is not None for total in result.total]),
      lengths=lengths,
      reasoning_lengths=np.array(reasoning_lengths, np.int32))


def append_answers(
    tokenizer: Tokenizer, rows: Sequence[Row], rollout: Rollout, template: str
) -> Rollout:
  """Puts the answers of the problems where the completions begin to give theirs.

  A completion is cut where the words of the template before `{answer}` begin, or before its end
  token; then comes the answer in the template, and an end token. One with neither was cut off and
  stays `truncated`.

  Args:
    tokenizer: of the policy.
    rows: the P problems, with an `answer`.
    rollout: B = P * G completions, numpy.
    template: text with {answer} in it.

  Returns:
    The rollout, wider by the longest answer (rounded up to 8 tokens). The answers are no actions,
    and their log-probs and values 0: the sampler knows none.
  """
  opening = tokenizer.encode(template.partition("{answer}")[0])
  answers = [[*tokenizer.encode(template.replace("{answer}", str(row["answer"]))),
              tokenizer.eos_ids[0]] for row in rows]
  group_size = rollout.completion_tokens.shape[0] // len(rows)
  extra = -(-max(map(len, answers)) // 8) * 8
  widen = lambda x: None if x is None else np.pad(x, ((0, 0), (0, extra)))
  tokens, is_action = widen(rollout.completion_tokens), widen(rollout.action_mask)
  lengths = masks.lengths(rollout.token_mask)
  truncated = np.array(rollout.truncated)
  for i, ids in enumerate(tokens.tolist()):
    start = _find(ids[:lengths[i]], opening)
    if start is None and not truncated[i]:
      start = lengths[i] - 1
    truncated[i], start = start is None, lengths[i] if start is None else start
    answer_ids = answers[i // group_size]
    lengths[i] = start + len(answer_ids)
    tokens[i, start:] = 0
    tokens[i, start:lengths[i]] = answer_ids
    is_action[i, start:] = False
  mask = np.arange(tokens.shape[1]) < lengths[:, None]
  sampled = lambda x: None if x is None else np.where(is_action, widen(x), 0.0).astype(np.float32)
  return rollout.replace(
      completion_tokens=tokens, token_mask=mask, action_mask=is_action, truncated=truncated,
      log_probs=sampled(rollout.log_probs), values=sampled(rollout.values))


def _find(ids: list[int], part: list[int]) -> int | None:
  """The first place of `part` in `ids`; None if it is nowhere, or empty."""
  places = range(len(ids) - len(part) + 1) if part else ()
  return next((i for i in places if ids[i:i + len(part)] == part), None)


def crop(rollout: Rollout, buckets: Sequence[int]) -> Rollout:
  """The rollout (numpy) cut to the smallest bucket that holds its longest completion."""
  longest = int(masks.lengths(rollout.token_mask).max())
  width = min(bucket for bucket in buckets if bucket >= longest)
  cut = lambda x: None if x is None else x[:, :width]
  return rollout.replace(
      completion_tokens=cut(rollout.completion_tokens), token_mask=cut(rollout.token_mask),
      action_mask=cut(rollout.action_mask), log_probs=cut(rollout.log_probs),
      values=cut(rollout.values))


def fill_with_useful(
    parts: Sequence[Sampled], num_prompts: int, group_size: int,
    by: Literal["reward", "accuracy"] = "reward",
) -> Sampled:
  """The first `num_prompts` groups that differ within themselves; where there are too few, others.

  Args:
    parts: of one group size; together at least `num_prompts` groups.
    num_prompts: P of the result.
    group_size: G.
    by: what has to differ.
  """
  places = [(part, group) for part in range(len(parts)) for group in range(len(parts[part].rows))]
  is_useful = np.concatenate([part.differs(group_size, by) for part in parts])
  chosen = sorted(np.argsort(~is_useful, kind="stable")[:num_prompts])
  return _join([_take_groups(
      parts[part], [places[i][1] for i in chosen if places[i][0] == part], group_size)
                for part in range(len(parts))])


def _take_groups(sampled: Sampled, groups: Sequence[int], group_size: int) -> Sampled:
  """Those groups alone; the counts of failures stay those of all."""
  index = (np.array(groups, int)[:, None] * group_size + np.arange(group_size)).reshape(-1)
  take = lambda values: [values[i] for i in index]
  scored = sampled.scored
  rewards = scored.rewards._replace(
      total=take(scored.rewards.total),
      parts={name: take(values) for name, values in scored.rewards.parts.items()})
  arrays = ("totals", "is_scored", "lengths", "reasoning_lengths")
  return Sampled(
      [sampled.rows[group] for group in groups],
      jax.tree.map(lambda x: x[index], sampled.rollout),
      scored._replace(completions=take(scored.completions), rewards=rewards,
                      **{name: getattr(scored, name)[index] for name in arrays}))


def _join(parts: Sequence[Sampled]) -> Sampled:
  """One after the other; prompts as wide as the widest."""
  width = max(part.rollout.prompt_tokens.shape[1] for part in parts)
  rollouts = [_widen(part.rollout, width) for part in parts]
  scored = [part.scored for part in parts]
  chain = lambda lists: [value for values in lists for value in values]
  rewards = RewardResult(
      total=chain(one.rewards.total for one in scored),
      parts={name: chain(one.rewards.parts[name] for one in scored)
             for name in scored[0].rewards.parts},
      counts={name: sum(one.rewards.counts[name] for one in scored)
              for name in scored[0].rewards.counts})
  arrays = ("totals", "is_scored", "lengths", "reasoning_lengths")
  return Sampled(
      chain(part.rows for part in parts),
      jax.tree.map(lambda *leaves: np.concatenate(leaves), *rollouts),
      Scored(completions=chain(one.completions for one in scored), rewards=rewards,
             **{name: np.concatenate([getattr(one, name) for one in scored]) for name in arrays}))


def _widen(rollout: Rollout, width: int) -> Rollout:
  """Prompts padded on the left to `width` columns."""
  pad = lambda x: np.pad(x, ((0, 0), (width - x.shape[1], 0)))
  return rollout.replace(
      prompt_tokens=pad(rollout.prompt_tokens), prompt_mask=pad(rollout.prompt_mask))
