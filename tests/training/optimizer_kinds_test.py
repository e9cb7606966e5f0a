"""Adafactor, Muon and master weights: by hand, against optax, on meshes, and over a restart."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlreason import models
from rlreason.algorithms import SFTConfig, base, sft
from rlreason.models import LoRAConfig, lora
from rlreason.parallel import ParallelConfig, make_layout
from rlreason.training import checkpoint as checkpoint_lib, run as run_lib
from rlreason.training.optimizer import OptimizerConfig, make_optimizer
from rlreason.training.planning import placed
from rlreason.training.settings.recipe import from_config
from tests.algorithms import sft_test, tiny
from tests.training import tiny_run

# Of 128: axes of that size are factored.
WIDE = dataclasses.replace(tiny.MODEL, width=128, head_dim=64, mlp_width=128, num_layers=2)
KINDS = {
    "adamw": {}, "adafactor": dict(kind="adafactor", b1=0.0),
    "adafactor with a mean": dict(kind="adafactor", mu_dtype="bfloat16"),
    "muon": dict(kind="muon"), "bfloat16 mean": dict(mu_dtype="bfloat16"),
    "masters": dict(master_weights=True),
    "masters of muon": dict(kind="muon", master_weights=True)}
every_kind = pytest.mark.parametrize("name", KINDS)


def config_of(name, **fields):
  return OptimizerConfig(**{"learning_rate": 1e-2, **KINDS[name], **fields})


def model_of(name, model=WIDE):
  has_masters = KINDS[name].get("master_weights", False)
  return dataclasses.replace(model, param_dtype="bfloat16") if has_masters else model


def waves(tree, number=1):
  """Gradients, f32."""
  return jax.tree.map(
      lambda x: jnp.sin(number * jnp.arange(1.0, 1 + x.size)).reshape(x.shape), tree)


def steps_of(optimizer, params, count, gradients=waves):
  """Parameters and the optimiser's state after some updates."""
  state = optimizer.init(params)
  step = jax.jit(functools.partial(base.update_params, optimizer))
  for number in range(1, count + 1):
    params, state = step(gradients(params, number), state, params)
  return params, state


def assert_close(got, expected, **tolerance):
  jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), got, expected)


@pytest.mark.parametrize("b1, mu_dtype", [(0.0, None), (0.5, None), (0.5, "bfloat16")])
def test_adafactor_is_that_of_optax(b1, mu_dtype):
  params = {"kernel": jnp.ones((3, 128, 130)), "scale": jnp.ones((3, 5))}
  config = OptimizerConfig(
      learning_rate=0.1, kind="adafactor", b1=b1, mu_dtype=mu_dtype, max_grad_norm=None)
  plain = optax.adafactor(
      0.1, multiply_by_parameter_scale=False, momentum=b1 or None,
      dtype_momentum=mu_dtype or jnp.float32)
  got, state = steps_of(make_optimizer(config, 4), params, 3)
  # There the mean is of updates times the rate: in bf16 these are rounded differently.
  assert_close(got, steps_of(plain, params, 3)[0], rtol=1e-3 if mu_dtype else 1e-6)
  sizes = sum(leaf.size for leaf in jax.tree.leaves(state))
  assert sizes < 3 * (128 + 130) + 50 + (3 * 128 * 130 + 15) * bool(b1)


def test_weight_decay_of_adafactor_by_hand():
  config = OptimizerConfig(learning_rate=0.1, kind="adafactor", b1=0.0, weight_decay=0.5,
                           max_grad_norm=None)
  params = {"kernel": jnp.asarray([2.0, 4.0]), "scale": jnp.asarray([2.0])}
  gradients = {"kernel": jnp.asarray([3.0, -7.0]), "scale": jnp.asarray([1.0])}
  optimizer = make_optimizer(config, 4)
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  # Its first step is the sign; decay adds -rate * decay * w to matrices.
  assert_close(updates, {"kernel": [-0.2, -0.1], "scale": [-0.1]}, rtol=1e-5)


def orthogonal(matrix):
  """Five steps of the iteration of Jordan et al. on one matrix, in numpy."""
  x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
  x = x / np.linalg.norm(x)
  for _ in range(5):
    a = x @ x.T
    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
  return x.T if matrix.shape[0] > matrix.shape[1] else x


def test_a_first_update_of_muon_by_hand():
  """Each layer's matrix by itself: heads and their width are one axis; of experts each."""
  shapes = {"q": (2, 6, 2, 5), "o": (2, 2, 5, 6)}
  params = {"policy": {
      "embed": {"embedding": jnp.ones((4, 6))},
      "layers": {
          "attention": {name: {"kernel": jnp.ones(shape)} for name, shape in shapes.items()},
          "experts": {"up_kernel": jnp.ones((2, 3, 6, 4)), "router_kernel": jnp.ones((2, 6, 3))},
          "mlp_norm": {"scale": jnp.ones((2, 6))}}}}
  gradients = waves(params)
  config = OptimizerConfig(
      learning_rate=0.1, kind="muon", weight_decay=0.5, max_grad_norm=None, eps=1e-12)
  optimizer = make_optimizer(config, 4)
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  got, of = updates["policy"]["layers"], gradients["policy"]["layers"]

  def check(got, gradient, inputs, outputs):
    got, gradient = (np.asarray(x, np.float64).reshape(-1, inputs, outputs)
                     for x in (got, gradient))
    size = 0.2 * max(inputs, outputs) ** 0.5
    for one, given in zip(got, gradient, strict=True):
      np.testing.assert_allclose(
          one, -0.1 * (size * orthogonal(given) + 0.5), rtol=1e-3, atol=1e-4)

  check(got["attention"]["q"]["kernel"], of["attention"]["q"]["kernel"], 6, 10)
  check(got["attention"]["o"]["kernel"], of["attention"]["o"]["kernel"], 10, 6)
  check(got["experts"]["up_kernel"], of["experts"]["up_kernel"], 6, 4)
  check(got["experts"]["router_kernel"], of["experts"]["router_kernel"], 6, 3)
  # The first step of AdamW is the sign, and norms do not decay.
  assert_close(got["mlp_norm"]["scale"], -0.1 * np.sign(of["mlp_norm"]["scale"]), rtol=1e-5)
  assert_close(updates["policy"]["embed"]["embedding"],
               -0.1 * (np.sign(gradients["policy"]["embed"]["embedding"]) + 0.5), rtol=1e-5)


def test_muon_is_for_the_matrices_of_layers_and_for_their_adapters():
  model = dataclasses.replace(tiny.MODEL, qkv_bias=True, lora=LoRAConfig(rank=2))
  params = {"policy": models.abstract_params(model), "critic": {
      "trunk": models.abstract_params(tiny.MODEL), "value_head": {"kernel": jnp.ones(16)}}}
  optimizer = make_optimizer(OptimizerConfig(learning_rate=1.0, kind="muon"), 4)
  state = jax.eval_shape(optimizer.init, params)[1].inner_states
  names = lambda group: {path[-1].key for path, _ in jax.tree.leaves_with_path(state[group])
                         if hasattr(path[-1], "key")}
  assert names("policy matrices") == {"kernel", "lora_a", "lora_b"}
  assert names("policy") == {"embedding", "scale", "bias"}
  assert names("critic matrices") == {"kernel"}
  of_critic = jax.tree.leaves_with_path(state["critic"])
  kernels = [path for path, _ in of_critic if getattr(path[-1], "key", "") == "kernel"]
  assert kernels and all(path[-2].key == "value_head" for path in kernels)


@pytest.mark.parametrize("kind", ["adafactor", "muon"])
def test_the_critic_has_its_own_rate(kind):
  layers = {"layers": {"mlp": {"up": {"kernel": jnp.ones((1, 4, 4))}}}}
  params = {"policy": layers, "critic": layers}
  config = OptimizerConfig(
      learning_rate=0.1, critic_learning_rate=0.3, kind=kind, max_grad_norm=None)
  optimizer = make_optimizer(config, 4)
  updates, _ = optimizer.update(waves(params), optimizer.init(params), params)
  assert_close(updates["critic"], jax.tree.map(lambda x: 3 * x, updates["policy"]), rtol=1e-5)


def test_an_update_smaller_than_a_step_of_bf16_needs_master_weights():
  """With a rate of 1e-3 a weight of 1 does not move: the next bf16 numbers are 0.4% off."""
  params = {"kernel": jnp.ones(3, jnp.bfloat16)}
  plain, kept = (steps_of(make_optimizer(OptimizerConfig(
      learning_rate=1e-3, master_weights=has_masters), 64), params, 20,
                          lambda params, _: {"kernel": jnp.ones(3)})
                 for has_masters in (False, True))
  np.testing.assert_array_equal(plain[0]["kernel"], params["kernel"])
  masters = base.masters_of(kept[0], kept[1].rest)["kernel"]
  np.testing.assert_allclose(masters, 0.98, rtol=1e-5)
  np.testing.assert_array_equal(kept[0]["kernel"], masters.astype(jnp.bfloat16))


@pytest.mark.parametrize("kind", ["adamw", "adafactor", "muon"])
def test_master_weights_are_those_of_f32_parameters_to_the_bit(kind):
  model = dataclasses.replace(tiny.MODEL, param_dtype="bfloat16")
  params = {"policy": tiny.random_params(model)}
  config = OptimizerConfig(learning_rate=1e-3, kind=kind, weight_decay=0.1)
  whole, _ = steps_of(
      make_optimizer(config, 8), jax.tree.map(lambda x: jnp.float32(x), params), 5)
  optimizer = make_optimizer(dataclasses.replace(config, master_weights=True), 8)
  kept, state = steps_of(optimizer, params, 5)
  jax.tree.map(np.testing.assert_array_equal, base.masters_of(kept, state.rest), whole)
  rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), whole)
  jax.tree.map(np.testing.assert_array_equal, kept, rounded)


def test_any_f32_number_is_its_two_halves():
  bits = np.random.default_rng(0).integers(0, 2**32, 10_000, np.uint32)
  edges = np.array([0, 1 << 31, 1, 0x8000, 0x18000, 0x7FFF, 0x3F808000, 0x3F818000], np.uint32)
  values = np.concatenate([bits, edges]).view(np.float32)
  values = jnp.asarray(values[np.isfinite(values)])
  # pylint: disable=protected-access
  params, rest = {"x": base._upper(values)}, {"x": base._lower(values)}
  np.testing.assert_array_equal(
      np.asarray(base.masters_of(params, rest)["x"]).view(np.uint32),
      np.asarray(values).view(np.uint32))


def test_a_skipped_update_leaves_master_weights():
  params = {"policy": {"kernel": jnp.ones(2, jnp.bfloat16)}}
  optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3, master_weights=True), 8)
  apply = lambda state, value: base.apply_gradients(
      state, {"policy": {"kernel": jnp.full(2, value)}}, jnp.float32(0), optimizer)[0]
  state = apply(base.init_state(params, optimizer), 1.0)
  after = apply(state, np.nan)
  jax.tree.map(np.testing.assert_array_equal, after.opt_state, state.opt_state)
  assert np.any(state.opt_state.rest["policy"]["kernel"]) and int(after.skipped) == 1


def state_of(name, config, model):
  """A train state and one update of it, on a layout; the state as numpy."""
  layout, optimizer = make_layout(config), make_optimizer(config_of(name), 8)
  params = layout.put_params(tiny.random_params(model), models.abstract_boxed_params(model))
  state = layout.put_state(base.init_state({"policy": params}, optimizer))
  gradients = waves(jax.eval_shape(lambda: state.params))
  shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
  update = layout.compile_update(
      lambda state, batch, key, replicas: base.apply_gradients(
          state, batch, jnp.float32(0), optimizer), state)
  return shapes, update(state, gradients, jax.random.key(0))[0]


@every_kind
def test_many_devices_are_one_and_split_the_state_as_planned(name):
  model = model_of(name)
  mesh = ParallelConfig(data=2, fsdp=2, tensor=2)
  shapes, many = state_of(name, mesh, model)
  _, one = state_of(name, ParallelConfig(data=1), model)
  weights = [base.masters_of(state.params, state.opt_state.rest) if KINDS[name].get(
      "master_weights") else state.params for state in (many, one)]
  # Five products of f32 matrices, one after the other, in another order.
  assert_close(*weights, rtol=0, atol=2e-6 if "muon" in name else 2e-7)
  planned = placed.Planned(None, None, make_layout(mesh), None)
  expected = placed.placer(planned, model)(jax.eval_shape(lambda: shapes))
  for (path, got), plan in zip(
      jax.tree.leaves_with_path(shapes), jax.tree.leaves(expected), strict=True):
    assert got.sharding.is_equivalent_to(plan.sharding, len(got.shape)), path
  large = [leaf for leaf in jax.tree.leaves(many.opt_state) if leaf.size >= 128 * 128]
  assert all(leaf.sharding.shard_shape(leaf.shape) != leaf.shape for leaf in large)


@every_kind
def test_a_state_that_was_saved_goes_on_to_the_bit(name, tmp_path):
  optimizer, model = make_optimizer(config_of(name), 8), model_of(name)
  params = {"policy": tiny.random_params(model)}
  step = jax.jit(lambda state: base.apply_gradients(
      state, waves(state.params, 2), jnp.float32(0), optimizer)[0])
  state = step(base.init_state(params, optimizer))
  with checkpoint_lib.Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, base.trained_part(state), {})
  with checkpoint_lib.Checkpointer(tmp_path) as checkpointer:
    restored, _ = checkpointer.restore(1, jax.eval_shape(lambda: base.trained_part(state)))
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, step(restored), step(state))


@pytest.mark.parametrize("has_adapters", [False, True])
@every_kind
def test_the_loss_falls(name, has_adapters):
  model = model_of(name, tiny.MODEL)
  policy = tiny.random_params(model)
  if has_adapters:
    model = dataclasses.replace(tiny.MODEL, lora=LoRAConfig(rank=4, alpha=8.0))
    policy = tiny.random_params()
    policy = lora.join(policy, models.init_adapters(model, jax.random.key(0)))
  algorithm = sft(SFTConfig(), model, make_optimizer(config_of(name, learning_rate=3e-2), 40))
  state, losses = algorithm.init({"policy": policy}), []
  step = jax.jit(algorithm.update_step)
  batch = sft_test.padded()
  for _ in range(25):
    state, metrics = step(state, batch, jax.random.key(0))
    losses.append(float(metrics["loss/total"][0]))
  assert losses[-1] < 0.8 * losses[0]
  if has_adapters:
    jax.tree.map(np.testing.assert_array_equal, lora.base(state.params["policy"]),
                 lora.base(policy))


@pytest.mark.parametrize("fields, message", [
    (dict(kind="lion"), "kind: got 'lion', allowed: adamw, adafactor, muon"),
    (dict(mu_dtype="int8"), "mu_dtype: got 'int8', allowed: float32, bfloat16, None"),
    (dict(kind="adafactor", b2=0.5), "b2: got 0.5 with kind='adafactor'.*allowed: 0.95"),
    (dict(kind="adafactor", eps=0.1), "eps: got 0.1 with kind='adafactor'"),
    (dict(kind="adafactor", b1=0.0, mu_dtype="bfloat16"), "mu_dtype: got .* and b1=0"),
])
def test_config_errors(fields, message):
  with pytest.raises(ValueError, match=message):
    OptimizerConfig(learning_rate=1.0, **fields)


@pytest.mark.parametrize("changes, message", [
    ({"model.remat": "offload"}, "config.model.remat: got 'offload' on a CPU, .*allowed: none"),
    ({"optimizer.master_weights": True},
     "config.rl.optimizer.master_weights: got True with model.param_dtype='float32', allowed: Fal"),
    ({"optimizer.master_weights": True, "model.param_dtype": "bfloat16", "lora": {"rank": 2}},
     "config.rl.optimizer.master_weights: got True with lora, whose adapters are float32"),
])
def test_levers_without_effect_are_refused(changes, message, tmp_path):
  config = tiny_run.make_config()
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  with pytest.raises(ValueError, match=message):
    run_lib.train(from_config(config), tmp_path / "run")
  assert not (tmp_path / "run").exists()
