"""Memory and time of loading a large checkpoint: the peak on the host beside the parameters.

Writes a random Llama of several gigabytes in bf16 shards, then loads it in processes of their own,
as bf16 and as f32, to one device and to a mesh of four. The goal: never more than the largest
tensor beside the parameters' own bytes. Prints one JSON line; `--gigabytes` sets the size on disk.
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

import jax
import numpy as np

from rlreason import models, weights
from rlreason.models import ModelConfig
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.tokenizers import WordTokenizer
import side_by_side

LAYER = dict(width=2048, num_heads=16, num_kv_heads=8, head_dim=128, mlp_width=8192)
VOCABULARY = 65536


def model_config(gigabytes):
  """As many layers as fill so many gigabytes of bf16."""
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
  """Random weights: one random row, read from different places."""
  noise = (0.02 * np.random.default_rng(0).standard_normal(2**22)).astype(jax.numpy.bfloat16)
  params = jax.tree.map(
      lambda leaf: np.resize(noise, leaf.shape), models.abstract_params(config))
  weights.save_model(
      folder, config, params, WordTokenizer.from_words(["a"]), max_shard_bytes=1_000_000_000)


def memory(field):
  """A field of this process's status, bytes: VmRSS now, VmHWM at the peak."""
  for line in pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
    if line.startswith(f"{field}:"):
      return int(line.split()[1]) * 1024
  raise RuntimeError(f"{field} is not in /proc/self/status")


def load(folder, dtype, tensor):
  """Loads in this process and prints what it took."""
  layout = make_layout(ParallelConfig(tensor=tensor))
  place = lambda config: layout.param_shardings(models.abstract_boxed_params(config))
  jax.block_until_ready(jax.numpy.zeros(8) + 1)
  before, started = memory("VmRSS"), time.perf_counter()
  config, params, _ = weights.load_model(folder, dtype=dtype, sharding=place)
  jax.block_until_ready(params)
  seconds = time.perf_counter() - started
  own = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  largest = config.vocab_size * config.width * np.dtype(dtype).itemsize
  print(json.dumps({
      "parameters_gb": round(own / 1e9, 2), "largest_tensor_mb": round(largest / 1e6),
      "beside_mb": round((memory("VmHWM") - before - own) / 1e6), "seconds": round(seconds, 1)}))


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--gigabytes", type=float, default=3.2, help="on disk")
  parser.add_argument("--load", nargs=3, metavar=("FOLDER", "DTYPE", "TENSOR"),
                      help="only load: what the processes of their own are started with")
  arguments = parser.parse_args()
  if arguments.load:
    folder, dtype, tensor = arguments.load
    load(folder, dtype, int(tensor))
    return
  config = model_config(arguments.gigabytes)
  results = {}
  with tempfile.TemporaryDirectory() as folder:
    write(folder, config)
    shards = len(list(pathlib.Path(folder).glob("*.safetensors")))
    for dtype in ("bfloat16", "float32"):
      for tensor in (1, 4):
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={tensor}"}
        done = subprocess.run(
            [sys.executable, __file__, "--load", folder, dtype, str(tensor)], check=True,
            capture_output=True, text=True, env=environment)
        results[f"{dtype}, {tensor} devices"] = json.loads(done.stdout.splitlines()[-1])
  side_by_side.print_line(
      "loading", parameters=count(config), shards=shards, results=results,
      goal="beside_mb at most largest_tensor_mb")


if __name__ == "__main__":
  main()
