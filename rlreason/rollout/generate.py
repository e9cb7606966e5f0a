"""Prompts to completions: runs the compiled sampler on the rows of a task."""

from collections.abc import Callable, Sequence

from rlreason import masks
from rlreason.data.fitting import encode_prompt, make_prompts
from rlreason.data.tasks.base import Row
from rlreason.models import ModelConfig
from rlreason.parallel import Layout
from rlreason.sampling import SamplingOptions, sample
from rlreason.tokenizers import Tokenizer
from rlreason.types import Key, Params, Prompts, Rollout


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
    sampler: used instead of `sampling.sample`, with its arguments.

  Returns:
    A function of parameters on the devices {"policy": ...}, task rows and a key; it returns numpy
    arrays.
  """

  compiled = sampling_program(
      model, tokenizer.eos_ids, layout, options=options, group_size=group_size,
      has_values=has_values, sampler=sampler)

  def generate(params, rows, key):
    prompts = make_prompts(
        [encode_prompt(tokenizer, row) for row in rows], prompt_buckets, pad_id=tokenizer.pad_id)
    return layout.get_rows(compiled(params, layout.put_rows(prompts), key))

  return generate


def sampling_program(
    model: ModelConfig, stop_ids: tuple[int, ...], layout: Layout, *, options: SamplingOptions,
    group_size: int, has_values: bool = False, sampler: Callable[..., Rollout] | None = None,
) -> Callable[[Params, Prompts, Key], Rollout]:
  """The program of `make_generator`, which has the same arguments."""
  def sample_rows(params, prompts, key):
    return (sampler or sample)(
        model, params["policy"], prompts, key, options=options, stop_ids=stop_ids,
        group_size=group_size, value_head=params["value_head"] if has_values else None)

  return layout.compile_sampler(sample_rows)


def crop(rollout: Rollout, buckets: Sequence[int]) -> Rollout:
  """The rollout (numpy) cropped to the smallest bucket that fits its longest completion."""
  longest = int(masks.lengths(rollout.token_mask).max())
  width = min(bucket for bucket in buckets if bucket >= longest)
  cut = lambda x: None if x is None else x[:, :width]
  return rollout.replace(
      completion_tokens=cut(rollout.completion_tokens), token_mask=cut(rollout.token_mask),
      action_mask=cut(rollout.action_mask), log_probs=cut(rollout.log_probs),
      values=cut(rollout.values))
