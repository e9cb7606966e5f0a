"""Definition of an algorithm, its train state, and the guarded gradient step that all share.

With f32 master weights of bf16 parameters, where an optimiser keeps them.
"""

from typing import Any, Callable, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
import optax

from rlreason.models import lora
from rlreason.models.config import ModelConfig
from rlreason.parallel.shards import Replicas, put_together
from rlreason.types import Metrics, Params


@struct.dataclass
class TrainState:
  """Everything that an update changes. Donated to `update_step`."""

  step: jax.Array  # i32 scalar, updates of this stage so far (each may hold many minibatches)
  params: Params  # {"policy": ...} and, where there is one, "value_head", "critic", "frozen"
  opt_state: Any
  skipped: jax.Array  # i32 scalar, minibatches skipped for a non-finite loss or gradient
  skipped_in_a_row: jax.Array  # i32 scalar, those since the last good minibatch
  # Present only for some methods: "coefs", {"kl", "entropy"} f32 scalars, the current (adaptive)
  # weights of these terms; "reference", f32, a moving copy of the policy's trained parameters.
  extra: dict[str, Any] = struct.field(default_factory=dict)

  @property
  def coefs(self) -> dict[str, jax.Array]:
    """The weights that `Algorithm.make_batch` takes, f32 scalars; none for most methods."""
    return self.extra.get("coefs", {})

  @property
  def reference(self) -> Params | None:
    """A moving reference; None if the state has none."""
    return self.extra.get("reference")


class MasterState(NamedTuple):
  """The state of an optimiser of bf16 parameters with f32 master weights, which updates are of.

  A bf16 number has 8 bits of precision: an update smaller than 1/256 of a parameter is rounded
  away. Here an update is of f32 weights. A parameter is its master weight rounded to bf16, whose 16
  bits are the upper half of an f32, and the state keeps the lower half: together they take as much
  memory as f32 parameters, and models are read in bf16.
  """

  inner: Any  # the optimiser's own
  rest: Params  # i16 like each bf16 parameter: what its master weight has beyond it; others: None


def with_masters(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
  """The optimiser with a `MasterState`; its updates are made by `update_params` only."""
  def init(params):
    rest = jax.tree.map(
        lambda x: jnp.zeros_like(x, jnp.int16) if _is_rounded(x) else None, params)
    return MasterState(optimizer.init(masters_of(params, rest)), rest)

  return optax.GradientTransformation(init, optimizer.update)


def update_params(
    optimizer: optax.GradientTransformation, gradients: Params, opt_state: Any, params: Params
) -> tuple[Params, Any]:
  """The new parameters and the new state of an optimiser, with master weights or without."""
  if not isinstance(opt_state, MasterState):
    updates, new_state = optimizer.update(gradients, opt_state, params)
    # Moments of bf16 parameters are bf16; f32 gradients would turn them into f32.
    new_state = jax.tree.map(lambda new, old: new.astype(old.dtype), new_state, opt_state)
    return optax.apply_updates(params, updates), new_state
  masters = masters_of(params, opt_state.rest)
  updates, inner = optimizer.update(gradients, opt_state.inner, masters)
  masters = optax.apply_updates(masters, updates)
  rounded = jax.tree.map(lambda x, new: _upper(new) if _is_rounded(x) else new, params, masters)
  rest = jax.tree.map(lambda x, new: _lower(new) if _is_rounded(x) else None, params, masters)
  return rounded, MasterState(inner, rest)


def masters_of(params: Params, rest: Params) -> Params:
  """f32 weights of parameters and of what the state keeps of them."""
  return jax.tree.map(lambda x, low: x if low is None else _together(x, low), params, rest)


def kept_still(opt_state: Any, before: Any, name: str, is_still: jax.Array) -> Any:
  """The state with the master weights of one model as they were, where `is_still`, bool scalar."""
  if not isinstance(opt_state, MasterState):
    return opt_state
  rest = opt_state.rest | {name: jax.tree.map(
      lambda new, old: jnp.where(is_still, old, new), opt_state.rest[name], before.rest[name])}
  return opt_state._replace(rest=rest)


def _is_rounded(x: jax.Array) -> bool:
  return x.dtype == jnp.bfloat16


def _bits(x: jax.Array) -> jax.Array:
  return jax.lax.bitcast_convert_type(x, jnp.uint32)


def _upper(x: jax.Array) -> jax.Array:
  """f32 to the nearest bf16; of two equally near ones the larger: the lower half is then signed."""
  high = (_bits(x) + jnp.uint32(0x8000)) >> 16
  return jax.lax.bitcast_convert_type(high.astype(jnp.uint16), jnp.bfloat16)


def _lower(x: jax.Array) -> jax.Array:
  return jax.lax.bitcast_convert_type(_bits(x).astype(jnp.uint16), jnp.int16)


def _together(x: jax.Array, low: jax.Array) -> jax.Array:
  """The f32 number of which `_upper` and `_lower` are these."""
  high = jax.lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32) << 16
  return jax.lax.bitcast_convert_type(high + low.astype(jnp.int32).astype(jnp.uint32), jnp.float32)


class Algorithm(NamedTuple):
  """An algorithm is four pure functions; the loop compiles and calls them.

  - `init(params) -> TrainState`.
  - `score(models, rollout, plan=None) -> scores`: per-token quantities an update needs, as rows;
    `models` is {"params": of the state, "reference": parameters or None}, the plan states how
    groups share their prompt, if they do.
  - `make_batch(inputs, coefs) -> (batch rows, metrics)`: `inputs` are the rollout, its scores and
  its `Outcome` from the host, `coefs` those of the state.
  - `update_step(state, batch, key, *, replicas=ALONE) -> (state, metrics)`.
  """

  init: Callable
  score: Callable | None
  make_batch: Callable | None
  update_step: Callable


def init_state(
    params: Params, optimizer: optax.GradientTransformation, extra: dict[str, Any] | None = None
) -> TrainState:
  """A fresh `TrainState`, on the devices of the parameters."""
  zero = lambda: jnp.zeros((), jnp.int32)
  params = put_together(params)
  opt_state = optimizer.init(lora.split(params)[0])
  return put_together(TrainState(
      step=zero(), params=params, opt_state=opt_state, skipped=zero(), skipped_in_a_row=zero(),
      extra=extra or {}))


def empty_state() -> TrainState:
  """The state of a stage that trains nothing."""
  return init_state({}, optax.identity())


def accumulate_gradients(
    loss_fn: Callable, params: Params, micro_batches: Any, replicas: Replicas,
    is_needed: jax.Array | None = None,
) -> tuple[Params, Metrics]:
  """Sums gradients and metrics of `loss_fn(params, micro_batch) -> (loss, metrics)`.

  The losses are sums over tokens already divided by the minibatch's denominator, so that adding
  them up over micro-batches and replicas is exact.

  Args:
    loss_fn: as above.
    params: differentiated, except the frozen ones (`models.lora`).
    micro_batches: a pytree with a leading axis of micro-batches.
    replicas: those to sum over.
    is_needed: bool[micro-batches], the same on all replicas: micro-batches that would add only
      zeros are not computed. None: all are.

  Returns:
    gradients of the trained part of the parameters in f32, and summed metrics.
  """
  trained, frozen = lora.split(params)
  # f32 sums: bf16 loses additions smaller than 1/256 of the running total.
  to_f32 = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)

  def one(micro_batch):
    (_, metrics), gradients = jax.value_and_grad(
        lambda trained: loss_fn(lora.join(trained, frozen), micro_batch), has_aux=True)(trained)
    return to_f32(gradients), metrics

  num_micro_batches = jax.tree.leaves(micro_batches)[0].shape[0]
  if num_micro_batches == 1:
    total = one(jax.tree.map(lambda x: x[0], micro_batches))
  else:
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(one, jax.tree.map(lambda x: x[0], micro_batches)))

    def add(total, step):
      micro_batch, needed = step
      more = lambda total: jax.tree.map(jnp.add, total, one(micro_batch))
      return (more(total) if needed is None else
              jax.lax.cond(needed, more, lambda total: total, total)), None

    total, _ = jax.lax.scan(add, zeros, (micro_batches, is_needed))
  return replicas.sum(total)


def apply_gradients(
    state: TrainState, gradients: Params, loss: jax.Array,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
  """One optimiser step, or none when the loss or the gradient is not finite.

  Args:
    state: before the step.
    gradients: f32, summed over replicas; of the trained part of the parameters.
    loss: f32 scalar of the minibatch.
    optimizer: clips and scales.

  Returns:
    The new state (its `step` unchanged) and `optim/` metrics.
  """
  norm = optax.tree.norm(gradients)
  is_finite = jnp.isfinite(norm) & jnp.isfinite(loss)
  old, frozen = lora.split(state.params)
  new, opt_state = update_params(optimizer, gradients, state.opt_state, old)
  keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(is_finite, n, o), new, old)
  skip = (~is_finite).astype(jnp.int32)
  state = state.replace(
      params=lora.join(keep(new, old), frozen), opt_state=keep(opt_state, state.opt_state),
      skipped=state.skipped + skip, skipped_in_a_row=(state.skipped_in_a_row + skip) * skip)
  one = jnp.float32(1.0)
  finite = is_finite.astype(jnp.float32)
  metrics = {
      "optim/grad_norm": (jnp.where(is_finite, norm, 0.0), finite),
      "optim/skipped_updates": (skip.astype(jnp.float32), one),
      "loss/total": (jnp.where(is_finite, loss, 0.0), finite),
  }
  return state, metrics


def step_on_batch(
    loss_fn: Callable, state: TrainState, micro_batches: Any,
    optimizer: optax.GradientTransformation, replicas: Replicas,
) -> tuple[TrainState, Metrics]:
  """An update of a single optimiser step; arguments as for `accumulate_gradients`.

  Here the metrics of `loss_fn` are (loss, metrics), and the loss is summed like them.
  """
  gradients, (loss, metrics) = accumulate_gradients(
      loss_fn, state.params, micro_batches, replicas)
  state, optim_metrics = apply_gradients(state, gradients, loss, optimizer)
  return state.replace(step=state.step + 1), metrics | optim_metrics | skip_metrics(state)


def with_balance(
    model: ModelConfig, loss: jax.Array, metrics: Metrics, balance: jax.Array, share: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
  """(loss, (loss, metrics)) with the load-balancing loss of experts, if the model has any.

  `share` f32 scalar is the fraction of the batch in the pass.
  """
  if model.num_experts:
    loss = loss + model.balance_coef * share * balance
    metrics = metrics | {"loss/balance": (share * balance, share)}
  return loss, (loss, metrics)


def trained_part(state: TrainState) -> TrainState:
  """The state without its frozen parameters, as checkpoints hold it."""
  return state.replace(params=lora.split(state.params)[0])


def with_frozen(state: TrainState, frozen: Params) -> TrainState:
  """A `trained_part` completed with the frozen parameters."""
  return state.replace(params=lora.join(state.params, frozen))


def skip_metrics(state: TrainState) -> Metrics:
  """How many updates of the stage were skipped, in total and in a row."""
  one = jnp.float32(1.0)
  return {"optim/skipped_total": (state.skipped.astype(jnp.float32), one),
          "optim/skipped_in_a_row": (state.skipped_in_a_row.astype(jnp.float32), one)}
