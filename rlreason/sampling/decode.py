"""Samples completions of prompts in one compiled program: a session that is run to its end."""

import jax.numpy as jnp

from rlreason.models.config import ModelConfig
from rlreason.sampling import session as session_lib
from rlreason.sampling.options import SamplingOptions
from rlreason.types import Key, Params, Prompts, Rollout


def sample(
    config: ModelConfig, params: Params, prompts: Prompts, key: Key, *, options: SamplingOptions,
    stop_ids: tuple[int, ...], group_size: int = 1, value_head: Params | None = None,
) -> Rollout:
  """Samples `group_size` completions of each prompt. To be jitted by the caller.

  Row (p, g) draws from `fold_in(fold_in(key, prompts.index[p]), g)`, and its token t from that
  folded with t: a sample does not depend on the padding, splitting or order of its batch.

  Args:
    config: the model; static.
    params: its parameters.
    prompts: P prompts, padded on the left.
    key: consumed.
    options: length limit, temperature and filters; static.
    stop_ids: a row ends with the first of these, which is kept; static.
    group_size: G; static.
    value_head: of `models.init_value_head`, or None for no values.

  Returns:
    B = P * G completions, row p * G + g. `log_probs` are those of the sampling distribution, over
    the model's tokens, after temperature, filters and blocked bigrams; with temperature 0, of the
    chosen token at temperature 1. `values` are those of the hidden state from which a token was
    sampled.

  Raises:
    ValueError: columns and new tokens exceed `config.max_positions`; a stop id has no embedding.
  """
  decoder = session_lib.prepare(config, params, value_head=value_head, is_int8=options.is_int8)
  session = session_lib.begin(
      decoder, prompts, key, options=options, stop_ids=stop_ids, group_size=group_size)
  # `run` would check at run time which rows are new: here all are.
  session = session_lib.draw_first(decoder, session, jnp.ones(session.lengths.shape, bool))
  until = jnp.full_like(session.lengths, session.capacity)
  return session_lib.to_rollout(
      session_lib.run_begun(decoder, session, until, is_closed=True))
