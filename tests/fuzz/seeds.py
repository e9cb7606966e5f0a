"""Whole model files that are to be damaged: each kind of file that is read, as small as it goes."""

from collections.abc import Callable
import dataclasses
import json
import pathlib

import jax
import numpy as np
from safetensors import numpy as safetensors_numpy

from rlreason import weights
from rlreason.models import LoRAConfig, abstract_params, lora
from tests import tiny_families
from tests import tiny_gguf
from tests.tokenizers import tiny_models

TEMPLATE = """\
{%- for message in messages %}
{{- '<' + message['role'] + '>' + message['content'] + '<end>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<assistant>' }}{% endif %}"""
_SPECIAL = ("<end>", "<user>", "<assistant>")
ADAPTED = dataclasses.replace(
    tiny_families.CONFIGS["qwen2"], lora=LoRAConfig(rank=3, alpha=6.0, targets=("q", "o", "down")))


def _folder(config, path: pathlib.Path, *, max_shard_bytes=10**9) -> None:
  tokenizer = tiny_models.byte_level(_SPECIAL, chat_template=TEMPLATE)
  config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
  weights.save_model(
      path, config, tiny_gguf.random_params(config), tokenizer, max_shard_bytes=max_shard_bytes)


def _template_file(path: pathlib.Path) -> None:
  """Newer folders have their template in a file of its own."""
  _folder(tiny_families.LLAMA, path)
  (path / "chat_template.jinja").write_text(TEMPLATE)


def _sentencepiece(path: pathlib.Path) -> None:
  _folder(dataclasses.replace(tiny_families.LLAMA), path)
  (path / "tokenizer.json").unlink()
  tiny_models.train("llama", path).rename(path / "tokenizer.model")
  fields = json.loads((path / "config.json").read_text()) | {"vocab_size": 420}
  config = dataclasses.replace(tiny_families.LLAMA, vocab_size=420)
  tensors = weights.load.safetensors
  tensors.write(
      path, *_stored(config), max_shard_bytes=10**9)
  (path / "config.json").write_text(json.dumps(fields))


def _stored(config):
  """What `safetensors.write` takes, of random parameters."""
  params = tiny_gguf.random_params(config)
  entries = weights.load.names.hf_entries(config)
  stored = {name: weights.load.safetensors.Stored("F32", entry.file_shape)
            for name, entry in entries.items()}
  return stored, lambda name: weights.load.names.read_pieces(params, name, entries[name])


def _reward_model(path: pathlib.Path) -> None:
  """A backbone with a scalar head."""
  tokenizer = tiny_models.byte_level(_SPECIAL, chat_template=TEMPLATE)
  config = dataclasses.replace(tiny_families.LLAMA, vocab_size=tokenizer.vocab_size)
  head = {"kernel": np.ones(config.width, np.float32), "bias": np.ones((), np.float32)}
  params = {"trunk": tiny_gguf.random_params(config), "value_head": head}
  weights.save_scalar_model(path, config, params, tokenizer)


def _buffers(path: pathlib.Path) -> None:
  """Old checkpoints carry what can be computed."""
  _folder(tiny_families.LLAMA, path)
  tensors = safetensors_numpy.load_file(path / "model.safetensors")
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)
  safetensors_numpy.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def _gguf(config, architecture: str, path: pathlib.Path) -> None:
  path.mkdir()
  params = tiny_gguf.random_params(config)
  tiny_gguf.write_gguf(path / "model.gguf", config, tiny_gguf.gguf_tensors(config, params),
                       {"blk.0.ffn_up.weight": tiny_gguf.KINDS.Q8_0}, architecture)


def _gguf_llama3(path: pathlib.Path) -> None:
  """With the divisors of scaled rotary frequencies, and vectors stored as matrices are."""
  path.mkdir()
  config = tiny_gguf.TINY
  turns = 8192 / (2 * np.pi) * config.rope_theta ** -(np.arange(0, 16, 2) / 16)
  kept = np.clip((turns - 1) / 3, 0, 1)
  arrays = tiny_gguf.gguf_tensors(config, tiny_gguf.random_params(config))
  arrays["rope_freqs.weight"] = (1 / ((1 - kept) / 32 + kept)).astype(np.float32)
  tiny_gguf.write_gguf(path / "model.gguf", config, arrays,
                       {"blk.1.attn_norm.weight": tiny_gguf.KINDS.BF16})


def _adapters(path: pathlib.Path) -> None:
  random = np.random.default_rng(0)
  adapters = jax.tree.map(lambda x: random.standard_normal(x.shape).astype(np.float32),
                          lora.split(abstract_params(ADAPTED))[0])
  weights.save_adapters(path, ADAPTED, adapters)


def _wide(family: str):
  """Rows of GGUF's blocks."""
  return dataclasses.replace(
      tiny_families.CONFIGS[family], vocab_size=9, width=64, head_dim=16, mlp_width=64)


# name -> makes a folder with the files
SEEDS: dict[str, Callable[[pathlib.Path], None]] = {
    **{name: lambda path, config=config: _folder(config, path)
       for name, config in tiny_families.CONFIGS.items()},
    "template file": _template_file,
    "buffers": _buffers,
    "reward model": _reward_model,
    "shards": lambda path: _folder(tiny_families.LLAMA, path, max_shard_bytes=10_000),
    "sentencepiece": _sentencepiece,
    "gguf llama": lambda path: _gguf(tiny_gguf.TINY, "llama", path),
    "gguf llama 3": _gguf_llama3,
    "gguf qwen3moe": lambda path: _gguf(_wide("qwen3_moe"), "qwen3moe", path),
    "gguf gemma3": lambda path: _gguf(_wide("gemma3"), "gemma3", path),
    "gguf smollm3": lambda path: _gguf(_wide("smollm3"), "smollm3", path),
    "adapters": _adapters,
}
