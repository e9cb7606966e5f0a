"""`rlreason convert`."""

from absl import flags

from rlreason.commands import base


def _run(values: flags.FlagValues, overrides: base.Overrides, arguments: list[str]):
  del overrides, arguments  # there are none
  from rlreason import api
  from rlreason.training import progress

  with progress.on_stderr():
    api.convert(
        values.source, values.destination, dtype=values.dtype, adapters=values.adapters)
  print(f"wrote {values.destination}")


def _define(values: flags.FlagValues):
  flags.DEFINE_string("source", None, base.MODEL_HELP, flag_values=values)
  flags.DEFINE_string("adapters", None, base.ADAPTERS_HELP, flag_values=values)
  flags.DEFINE_string(
      "destination", None, "Hugging Face folder to write, new or empty", flag_values=values)
  flags.DEFINE_enum(
      "dtype", None, ["float32", "bfloat16", "float16"],
      "of the weights; the default keeps that of each tensor, and makes GGUF float32",
      flag_values=values)


COMMAND = base.Command(
    "Writes a model (safetensors or GGUF) as a Hugging Face folder.",
    "rlreason convert --source=model.gguf --destination=models/mine --dtype=bfloat16",
    ("source", "destination"), _define, _run)
