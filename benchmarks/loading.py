"""Memory and time of loading and saving: peak host memory beyond the parameters.

Writes a random Llama of several gigabytes in bf16 shards and in GGUF files, then, in separate
processes, loads it as bf16 and as f32, to one device and to a mesh of four; saves it; converts the
folder. The goal: at most the largest tensor beyond the parameters' own bytes. Prints one JSON line;
`--gigabytes` sets the size on disk.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import gguf
import jax
import numpy as np

from rlreason import models, weights
from rlreason.models import ModelConfig
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.tokenizers import WordTokenizer
from rlreason.weights import names
import side_by_side

LAYER = dict(width=2048, num_heads=16, num_kv_heads=8, head_dim=128, mlp_width=8192)
VOCABULARY = 65536


def model_config(gigabytes):
  """As many layers as fit in this many gigabytes of bf16."""
  one, two = (ModelConfig(
      vocab_size=VOCABULARY, num_layers=layers, tie_embeddings=False, **LAYER)
              for layers in (1, 2))
  per_layer = count(two) - count(one)
  layers = max(1, math.ceil((gigabytes * 1e9 / 2 - count(one)) / per_layer) + 1)
  return ModelConfig(
      vocab_size=VOCABULARY, num_layers=layers, tie_embeddings=False, param_dtype="bfloat16",
      **LAYER)


def count(config):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(models.abstract_params(config)))


def write(folder, config):
  """Random weights: one random row, read at different offsets."""
  noise = (0.02 * np.random.default_rng(0).standard_normal(2**22)).astype(jax.numpy.bfloat16)
  params = jax.tree.map(
      lambda leaf: np.resize(noise, leaf.shape), models.abstract_params(config))
  weights.save_model(
      folder, config, params, WordTokenizer.from_words(["a"]), max_shard_bytes=1_000_000_000)


def write_gguf(path, config, kind):
  """The same sizes in one GGUF file with one type of matrix; a vocabulary of as many tokens."""
  writer = gguf.GGUFWriter(path, "llama")
  for name, value in (
      ("block_count", config.num_layers), ("context_length", config.max_positions),
      ("embedding_length", config.width), ("feed_forward_length", config.mlp_width),
      ("head_count", config.num_heads), ("head_count_kv", config.num_kv_heads),
      ("key_length", config.head_dim), ("layer_norm_rms_eps", config.norm_eps),
      ("tokenizer_model", "gpt2"), ("tokenizer_pre", "smollm"), ("eos_token_id", 0),
      ("token_list", ["a", "b", "ab", *(f"t{i}" for i in range(3, config.vocab_size))]),
      ("token_types", [1] * config.vocab_size), ("token_merges", ["a b"])):
    getattr(writer, f"add_{name}")(value)
  noise = 0.02 * np.random.default_rng(0).standard_normal(2**20, np.float32)
  blocks = gguf.quants.quantize(noise.reshape(1, -1), kind).reshape(-1)
  entries = names.gguf_entries(config, interleaved_rope=True)
  sizes = {}
  for name, entry in entries.items():
    stored = kind if len(entry.file_shape) > 1 else gguf.GGMLQuantizationType.F32
    block, block_bytes = gguf.GGML_QUANT_SIZES[stored]
    sizes[name] = math.prod(entry.file_shape) // block * block_bytes
    writer.add_tensor_info(name, entry.file_shape, np.dtype("float32"), sizes[name], stored)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_ti_data_to_file()
  for size in sizes.values():
    writer.write_tensor_data(np.resize(blocks.view(np.uint8), size))
  writer.close()


class Meter:
  """Time and peak of memory in a block."""

  def __enter__(self):
    jax.block_until_ready(jax.numpy.zeros(8) + 1)
    side_by_side.forget_peak()
    self.before, self.started = side_by_side.process_memory("VmRSS"), time.perf_counter()
    return self

  def __exit__(self, *_):
    self.seconds = time.perf_counter() - self.started
    self.peak = side_by_side.process_memory("VmHWM") - self.before

  def print(self, own, largest):
    print(json.dumps({
        "parameters_gb": round(own / 1e9, 2), "largest_tensor_mb": round(largest / 1e6),
        "beside_mb": round((self.peak - own) / 1e6), "seconds": round(self.seconds, 1)}))


def measure(work, path, dtype, tensor):
  """Does one task in this process and prints its time and memory.

  Args:
    work: "load", "save" (after loading) or "convert".
    path: of the model.
    dtype: of the parameters; for "convert", of the files.
    tensor: number of devices.
  """
  layout = make_layout(ParallelConfig(tensor=tensor))
  place = lambda config: layout.param_shardings(models.abstract_boxed_params(config))
  with tempfile.TemporaryDirectory(dir=pathlib.Path(path).parent) as copy:
    own, largest = 0, VOCABULARY * LAYER["width"] * np.dtype(dtype).itemsize
    if work == "convert":
      with Meter() as meter:
        weights.convert(path, copy)
    else:
      with Meter() as meter:
        loaded = weights.load_model(path, dtype=dtype, sharding=place)
        jax.block_until_ready(loaded[1])
      if work == "load":
        own = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded[1]))
      else:
        with Meter() as meter:
          weights.save_model(copy, *loaded)
    meter.print(own, largest)


def run(work, path, dtype, tensor=1):
  """Runs `measure` in a separate process."""
  flag = f"--xla_force_host_platform_device_count={tensor}"
  done = subprocess.run(
      [sys.executable, __file__, "--measure", work, path, dtype, str(tensor)], check=True,
      capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": flag})
  return json.loads(done.stdout.splitlines()[-1])


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--gigabytes", type=float, default=3.2, help="on disk")
  parser.add_argument("--measure", nargs=4, metavar=("WORK", "PATH", "DTYPE", "DEVICES"),
                      help="what the processes of their own are started with")
  arguments = parser.parse_args()
  if arguments.measure:
    *what, tensor = arguments.measure
    measure(*what, int(tensor))
    return
  config = model_config(arguments.gigabytes)
  results = {}
  with tempfile.TemporaryDirectory() as parent:
    folder = f"{parent}/model"
    write(folder, config)
    shards = len(list(pathlib.Path(folder).glob("*.safetensors")))
    for work, dtype, tensor in (
        *(("load", dtype, tensor) for dtype in ("bfloat16", "float32") for tensor in (1, 4)),
        ("save", "bfloat16", 1), ("save", "bfloat16", 4), ("convert", "bfloat16", 1)):
      results[f"{work} {dtype}, {tensor} devices"] = run(work, folder, dtype, tensor)
    for kind in (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.Q8_0):
      path = f"{parent}/model.gguf"
      write_gguf(path, config, kind)
      results[f"load {kind.name} as bfloat16"] = run("load", path, "bfloat16")
  side_by_side.print_line(
      "loading", parameters=count(config), shards=shards, results=results,
      goal="beside_mb at most largest_tensor_mb")


if __name__ == "__main__":
  main()
