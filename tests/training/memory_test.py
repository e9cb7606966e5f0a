"""What cannot fit into memory is refused before anything is computed."""

import dataclasses
import gc
import time

import jax
import jax.numpy as jnp
import optax
import pytest

from rlreason import models, sampling
from rlreason.algorithms import SFTConfig, sft
from rlreason.models import LoRAConfig, ModelConfig
from rlreason.parallel import memory as devices
from rlreason.training import loop, memory, run as run_lib
from rlreason.training.optimizer import OptimizerConfig
from rlreason.training.settings.recipe import from_config
from rlreason.types import PackedBatch
from tests.training import tiny_run

MODEL = ModelConfig(
    vocab_size=64, width=16, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=8, mlp_width=32,
    max_positions=2048)


def test_bytes_of_parameters():
  held = memory.parameter_bytes(MODEL, None)
  kernels = 2 * (4 * 16 * 16 + 3 * 16 * 32)  # of the layers
  vectors = 16 * (2 * 2 + 1)  # norms
  count = kernels + vectors + 64 * 16 * (1 if MODEL.tie_embeddings else 2)
  assert held == {"parameters": 4 * count, "moments": 8 * count, "gradients": 4 * count}
  held = memory.parameter_bytes(dataclasses.replace(MODEL, param_dtype="bfloat16"), None)
  assert held == {"parameters": 2 * count, "moments": 4 * count, "gradients": 4 * count}
  masters = OptimizerConfig(learning_rate=1.0, master_weights=True)
  rounded = dataclasses.replace(MODEL, param_dtype="bfloat16")
  held = memory.parameter_bytes(rounded, None, masters)
  assert held == {"parameters": 2 * count, "moments": (8 + 2) * count, "gradients": 4 * count}
  mean = dataclasses.replace(masters, mu_dtype="bfloat16")
  assert memory.parameter_bytes(rounded, None, mean)["moments"] == (6 + 2) * count
  held = memory.parameter_bytes(MODEL, LoRAConfig(rank=1, base="int8"))
  assert kernels < held["parameters"] < 4 * count - 2 * kernels  # a byte each, and scales
  assert held["moments"] == 2 * held["gradients"] > 0


@pytest.mark.parametrize("remat, rows, length", [("none", 2, 256), ("full", 1, 512)])
def test_a_pass_takes_what_is_said_at_least(remat, rows, length):
  model = dataclasses.replace(MODEL, remat=remat)
  algorithm = sft(SFTConfig(), model, optax.adam(1e-3))
  state = jax.eval_shape(
      lambda: algorithm.init({"policy": models.init_params(model, jax.random.key(0))}))
  shape = lambda dtype: jax.ShapeDtypeStruct((rows, length), dtype)
  batch = PackedBatch(tokens=shape(jnp.int32), segment_ids=shape(jnp.int32),
                      positions=shape(jnp.int32), loss_weights=shape(jnp.float32))
  program = jax.jit(algorithm.update_step).lower(state, batch, jax.random.key(0)).compile()
  taken = program.memory_analysis().temp_size_in_bytes
  assert taken / 10 < memory.pass_bytes(model, rows, length) < taken


@pytest.mark.parametrize("changes, message", [
    ({"sft.length": 2**24},
     r"config.sft.length: got 16777216 tokens a row, 8 rows a pass .*width=16.*: at least "
     r"18,014,\d+\.\d GB \(a pass 18,014,.*\), allowed: what fits into .* GB, the memory of all"),
    ({"sft.batch_size": 2**20, "sft.length": 4096},
     "config.sft.length: got 4096 tokens a row, 1048576 rows a pass"),
    ({"model.width": 2**20, "model.mlp_width": 2**20}, "config.model: got num_layers=1, width=104"),
    ({"model.num_heads": 2**20}, "config.sft.length: got 48 tokens a row, .*num_heads=1048576"),
    ({"rl.sampling.max_new_tokens": 2**22, "model.max_positions": 2**24},
     "config.rl.sampling.max_new_tokens: got 4194304 tokens a row"),
    ({"rl.num_prompts": 2**20, "rl.group_size": 1, "prompt_buckets": (4096,),
      "model.max_positions": 2**24},
     "config.rl.sampling.max_new_tokens: got 12 new tokens of 1048576 rows after 1048576 prompts"),
    ({"evaluation.max_new_tokens": 2**23, "model.max_positions": 2**24, "model.head_dim": 2**8},
     "config.evaluation: max_new_tokens: got 8388608 new tokens of 8 rows"),
])
def test_what_cannot_fit_is_refused_at_once(tmp_path, changes, message):
  config = tiny_run.make_config()
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  started = time.process_time()
  with pytest.raises(ValueError, match=message):
    run_lib.train(from_config(config), tmp_path / "run")
  assert time.process_time() - started < 60
  assert not (tmp_path / "run").exists()


def test_sampling_that_cannot_fit_is_refused():
  sampling.check_memory(MODEL, prompts=2, columns=16, group_size=4, max_new_tokens=100)
  for changes in (dict(prompts=2**26), dict(columns=2**20), dict(group_size=2**30),
                  dict(max_new_tokens=2**29)):
    arguments = dict(prompts=2, columns=16, group_size=4, max_new_tokens=100) | changes
    with pytest.raises(ValueError, match="max_new_tokens: got .* at least .* GB .*allowed: what"):
      sampling.check_memory(MODEL, **arguments)


def test_a_queue_takes_the_memory_of_the_prompts_sampled_at_once():
  config = tiny_run.make_data_config()
  config.model.max_positions, config.prompt_buckets = 2**24, (4096,)
  config.sample.num_prompts, config.sample.group_size = 2**20, 1
  setup = lambda: memory.check_memory(from_config(config), MODEL)
  with pytest.raises(ValueError, match="config.sample.sampling.max_new_tokens: got 6 new"):
    setup()
  config.sample.prompts_at_once = 8
  setup()


def test_the_limit_is_the_memory_of_the_machine():
  assert 2**30 < devices.device_bytes() < 2**50
  devices.check_fits("x", "1", {"a": 2**30})
  with pytest.raises(ValueError, match=r"x: got 1: at least 1,125,899.9 GB \(b 1,125,898.8\), al"):
    devices.check_fits("x", "1", {"a": 2**30, "b": 2**50 - 2**30})


@pytest.mark.parametrize("base, count", [("full", 1), (None, 3)])
def test_with_adapters_policy_reference_and_critic_share_one_base(
    monkeypatch, tmp_path, base, count):
  """While an RL stage trains, a kernel of the base is in one buffer; without adapters in three."""
  config = tiny_run.make_config()
  config.model.mlp_width = 24  # the size of no other array
  if base is not None:
    config.lora = dict(rank=2, base=base)
  config.stages = ("sft", "rl")
  config.sft.steps, config.rl.steps, config.preflight = 2, 1, False
  config.rl.algorithm.update(critic="separate", critic_warmup_steps=0)
  config.evaluation.update(num_problems=2, batch_size=8, num_samples=0)
  save, found = loop.Loop._save, []  # pylint: disable=protected-access
  shape = (1, 24, 16)  # of the down projection of all layers

  def noting(self, stage):
    gc.collect()
    buffers = lambda arrays: {
        leaf.addressable_data(0).unsafe_buffer_pointer() for leaf in arrays if leaf.shape == shape}
    moments = buffers(jax.tree.leaves(self.state.opt_state))
    found.append((stage.name, len(buffers(jax.live_arrays()) - moments)))
    save(self, stage)

  monkeypatch.setattr(loop.Loop, "_save", noting)
  run_lib.train(from_config(config), tmp_path / "run")
  assert ("rl", count) in found and max(number for _, number in found) == count, found
