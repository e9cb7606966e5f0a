"""A model in the form that decode steps read, made once for all steps of a program."""

from flax import struct
import jax

from rlreason import models
from rlreason.models import quantize
from rlreason.models.config import ModelConfig
from rlreason.parallel.rules import num_shards
from rlreason.parallel.shards import gather_rows
from rlreason.types import Params

_TABLE = ("vocab", "embed")


@struct.dataclass
class Decoder:
  """A model in the form that decode steps read; from `prepare`."""

  config: ModelConfig = struct.field(pytree_node=False)
  params: Params  # those of the prefill
  ends: Params  # embedding and final norm of decode steps
  layers: list[Params]  # of `models.split_layers`
  vocabulary: jax.Array | Params  # [V, D]
  value_head: Params | None


def prepare(
    config: ModelConfig, params: Params, *, value_head: Params | None = None, is_int8: bool = False
) -> Decoder:
  """Transposes, casts and, on a mesh, gathers the kernels once, for all steps.

  Args:
    config: the model.
    params: its parameters.
    value_head: of `models.init_value_head`, or None for no values.
    is_int8: whether steps read kernels of 8 bits (`SamplingOptions.is_int8`).
  """
  layers = models.split_layers(config, params, is_int8=is_int8)
  # The loop then reads the rows of the vocabulary contiguously.
  vocabulary = gather_rows(
      models.unembedding(config, params).T.astype(config.compute_dtype), _TABLE)
  vocabulary = quantize.quantize_rows(vocabulary) if is_int8 else vocabulary
  ends = {"embed": params["embed"], "final_norm": params["final_norm"]}
  if num_shards("embed") > 1:
    table = gather_rows(params["embed"]["embedding"].astype(config.compute_dtype), _TABLE)
    scale = gather_rows(params["final_norm"]["scale"], ("embed",))
    ends = {"embed": {"embedding": table}, "final_norm": {"scale": scale}}
  return Decoder(config, params, ends, layers, vocabulary, value_head)
