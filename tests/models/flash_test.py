"""The Pallas kernel, interpreted on the CPU, against XLA's attention; which is chosen where."""

import contextlib
import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlreason import masks, models
from rlreason.models import attention, flash
from rlreason.models.attention import Platform
from rlreason.parallel import ParallelConfig, rules
from rlreason.parallel.mesh import make_mesh

LENGTH = 130  # padded to 256
MODEL = models.ModelConfig(
    vocab_size=11, width=8, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=64, mlp_width=8,
    sliding_window=5, sliding_layers=(True, False), attention_softcap=2.0)


def _rows():
  """i32[2, T] padding left and right and two segments; one row full."""
  places = jnp.arange(LENGTH)
  packed = jnp.where(places < 40, 1, 2) * ((places >= 3) & (places < LENGTH - 7))
  return jnp.stack([packed, jnp.ones(LENGTH, jnp.int32)]).astype(jnp.int32)


def _positions(segment_ids):
  starts = jnp.concatenate(
      [jnp.ones((2, 1), bool), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1)
  places = jnp.broadcast_to(jnp.arange(LENGTH)[None], segment_ids.shape)
  return places - jax.lax.cummax(jnp.where(starts, places, 0), axis=1)


def _inputs(heads=4, kv_heads=2):
  random = np.random.default_rng(0)
  return tuple(
      jnp.asarray(random.normal(size=(2, LENGTH, count, 64)), jnp.float32)
      for count in (heads, kv_heads, kv_heads))


def _value_and_gradients(attend, inputs, is_kept):
  """The kept outputs, and the gradients of a function of them."""
  def loss(*inputs):
    out = jnp.where(is_kept[..., None, None], attend(*inputs), 0.0)
    return jnp.sum(jnp.sin(3 * out)), out
  (_, out), gradients = jax.jit(
      jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*inputs)
  return out, gradients


def _in_mesh(fn, config):
  mesh = make_mesh(config)

  def traced(*args):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(rules.RULES):
      return fn(*args)
  return traced, mesh


@pytest.mark.parametrize("window, softcap, kv_heads", [(None, None, 4), (5, 2.0, 2)])
def test_flash_is_the_attention_of_xla(window, softcap, kv_heads):
  ids = _rows()
  mask = masks.attention_mask(ids, _positions(ids), window)
  options = dict(scale=0.3, softcap=softcap)
  expected = _value_and_gradients(
      functools.partial(attention.attend, mask=mask, **options), _inputs(kv_heads=kv_heads),
      ids > 0)
  got = _value_and_gradients(
      lambda *inputs: flash.attend(*inputs, ids, window=window, interpret=True, **options),
      _inputs(kv_heads=kv_heads), ids > 0)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, expected)


@pytest.mark.parametrize("tensor", [2, 4])  # 4 does not divide the 2 key heads
def test_flash_on_a_mesh(tensor):
  ids = _rows()
  attend = functools.partial(
      flash.attend, window=5, scale=0.3, softcap=None, interpret=True)
  on_mesh, mesh = _in_mesh(attend, ParallelConfig(data=2, tensor=tensor))
  put = lambda x: jax.device_put(x, rules.rows_sharding(mesh))
  got = jax.jit(on_mesh)(*map(put, _inputs()), put(ids))
  mask = masks.attention_mask(ids, _positions(ids), 5)
  expected = attention.attend(*_inputs(), mask, scale=0.3)
  kept = np.asarray(ids > 0)
  np.testing.assert_allclose(np.asarray(got)[kept], np.asarray(expected)[kept], atol=1e-5)


@pytest.mark.parametrize("fields", [
    dict(data=2, sequence=2), dict(data=1, sequence=4, tensor=2), dict(data=1, sequence=8)])
@pytest.mark.parametrize("window, softcap", [(None, None), (5, 2.0)])
def test_flash_of_split_columns(fields, window, softcap):
  """Each device has its queries, 64 or 128 of them, and the keys of all."""
  ids = _rows()
  mask, kept = masks.attention_mask(ids, _positions(ids), window), ids > 0
  options = dict(scale=0.3, softcap=softcap)
  expected = _value_and_gradients(
      functools.partial(attention.attend, mask=mask, **options), _inputs(), kept)

  def gradients(*inputs):
    attend = functools.partial(
        flash.attend, segment_ids=ids, window=window, interpret=True, **options)
    return _value_and_gradients(attend, inputs, kept)

  on_mesh, mesh = _in_mesh(gradients, ParallelConfig(**fields))
  got = jax.jit(on_mesh)(*(jax.device_put(x, rules.rows_sharding(mesh)) for x in _inputs()))
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, expected)


@contextlib.contextmanager
def _as_on_a_tpu(monkeypatch):
  """Chooses as on a TPU, and interprets the kernel."""
  with monkeypatch.context() as patch:
    patch.setattr(attention, "this_platform", lambda: Platform("tpu"))
    for name in ("attend", "attend_balanced"):
      patch.setattr(flash, name, functools.partial(getattr(flash, name), interpret=True))
    yield


def test_a_model_of_two_kinds_of_layers_with_flash(monkeypatch):
  params = jax.jit(models.init_params, static_argnums=0)(MODEL, jax.random.key(0))
  ids = _rows()
  tokens = jax.random.randint(jax.random.key(1), ids.shape, 0, 11)
  run = lambda config: jax.jit(functools.partial(models.forward, config))(
      params, tokens, ids, _positions(ids))
  expected = run(MODEL)
  with _as_on_a_tpu(monkeypatch):
    got = run(dataclasses.replace(MODEL, attention="flash"))
  kept = np.asarray(ids > 0)
  np.testing.assert_allclose(np.asarray(got)[kept], np.asarray(expected)[kept], atol=1e-4)


@pytest.mark.parametrize("fields", [
    dict(data=2, sequence=2), dict(data=1, sequence=3), dict(data=1, sequence=4, tensor=2)])
def test_a_model_whose_columns_are_split_evenly(fields, monkeypatch):
  """Each device has two parts of a row, one from each end; results are as on one device."""
  params = jax.jit(models.init_params, static_argnums=0)(MODEL, jax.random.key(0))
  ids = _rows()
  tokens = jax.random.randint(jax.random.key(1), ids.shape, 0, 11)
  kept = (ids > 0)[..., None]

  def loss(config, params, tokens, ids):
    hidden = jnp.where(kept, models.forward(config, params, tokens, ids, _positions(ids)), 0.0)
    return jnp.sum(jnp.sin(hidden)), hidden

  run = lambda config: jax.value_and_grad(functools.partial(loss, config), has_aux=True)
  (_, expected), of_params = jax.jit(run(MODEL))(params, tokens, ids)
  with _as_on_a_tpu(monkeypatch):
    on_mesh, mesh = _in_mesh(
        run(dataclasses.replace(MODEL, attention="flash")), ParallelConfig(**fields))
    put = lambda x: jax.device_put(x, rules.rows_sharding(mesh))
    program = jax.jit(on_mesh).lower(params, put(tokens), put(ids))
    (_, got), gradients = program.compile()(params, put(tokens), put(ids))
  np.testing.assert_allclose(got, expected, atol=1e-4)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4),
               gradients, of_params)


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 5])
def test_the_parts_of_balanced_columns(shards):
  order = flash.balanced(4 * shards, shards)
  np.testing.assert_array_equal(np.sort(order), np.arange(4 * shards))
  pairs = (order + 1).reshape(shards, -1).sum(axis=1)  # tokens that each attends to
  assert len(set(pairs)) == 1
  np.testing.assert_array_equal(
      flash.in_order(jnp.asarray(order)[None], 1, shards)[0], np.arange(4 * shards))


HOPPER, AMPERE, TURING = (
    Platform("gpu", capability) for capability in ((9, 0), (8, 0), (7, 5)))
BF16 = dict(attention_softcap=None, dtype="bfloat16")


@pytest.mark.parametrize("platform, fields, length, expected", [
    (Platform("cpu"), BF16, 128, "xla"),
    (Platform("tpu"), BF16, 128, "flash"),
    (Platform("tpu"), BF16, 127, "xla"),
    (Platform("tpu"), BF16 | dict(attention="xla"), 128, "xla"),
    (Platform("gpu"), BF16, 128, "xla"),  # not CUDA
    (TURING, BF16, 128, "xla"),
    (AMPERE, BF16, 128, "cudnn"),
    (AMPERE, BF16, 127, "xla"),
    (AMPERE, BF16 | dict(dtype="float32"), 128, "xla"),
    (AMPERE, BF16 | dict(attention_softcap=50.0), 128, "xla"),
    (AMPERE, BF16 | dict(head_dim=12), 128, "xla"),
    (AMPERE, BF16 | dict(head_dim=256), 128, "xla"),
    (HOPPER, BF16 | dict(head_dim=256), 128, "cudnn"),
    (HOPPER, BF16 | dict(attention="xla"), 128, "xla"),
    (HOPPER, BF16 | dict(attention="flash"), 128, "xla"),
    (Platform("tpu"), dict(attention="flash"), 128, "flash"),
    (Platform("tpu"), dict(attention="flash"), 127, "xla"),
    (Platform("tpu"), dict(attention="flash", head_dim=80), 128, "xla"),
    (Platform("tpu"), dict(attention="cudnn"), 128, "xla"),
])
def test_the_choice_by_platform(platform, fields, length, expected):
  assert attention.resolve(dataclasses.replace(MODEL, **fields), length, platform) == expected


def test_what_cannot_be_had_is_said_once(monkeypatch):
  said = []
  monkeypatch.setattr(attention.logging, "warning", said.append)
  attention._warn_once.cache_clear()
  for _ in range(2):
    attention.resolve(dataclasses.replace(MODEL, attention="flash"), 128, Platform("cpu"))
    attention.resolve(MODEL, 128, Platform("cpu"))
  assert said == ["attention 'flash' needs a TPU: XLA's is used where that is not so"]


def test_an_unknown_choice_is_refused():
  with pytest.raises(ValueError, match="attention: got 'fast', allowed: auto, xla, cudnn, flash"):
    dataclasses.replace(MODEL, attention="fast")


def test_products_of_bf16_ask_for_no_other_precision():
  """The compiler for TPUs refuses them in a kernel; f32 products of the model ask for f32."""
  heads = jnp.ones((1, 128, 2, 64), jnp.bfloat16)

  def loss(query, key, value):
    out = flash.attend(
        query, key, value, jnp.ones((1, 128), jnp.int32), window=None, scale=1.0, softcap=None,
        interpret=True)
    return jnp.sum(out.astype(jnp.float32))

  with jax.default_matmul_precision("float32"):
    program = str(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(heads, heads, heads))
    product = str(jax.make_jaxpr(jnp.matmul)(heads[0, 0], heads[0, 0].T))
  assert "dot_general" in program and "HIGHEST" not in program and "HIGHEST" in product
