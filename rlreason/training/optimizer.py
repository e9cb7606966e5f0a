"""The optimiser: its kind, a schedule, clipping, and its own learning rate for the critic.

Not here: which stage trains which parameters (settings/), the rule that skips updates with a
gradient that is not finite (the algorithm's update step), and master weights (algorithms/base.py).
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import optax
from optax import contrib

from rlreason.algorithms.base import with_masters
from rlreason.config import check_unread

Kind = Literal["adamw", "adafactor", "muon"]
# A tree without these keys at the top is a policy.
_CRITIC_KEYS = ("critic", "value_head")
_VECTOR_NAMES = ("scale", "bias")
_MATRIX_NAMES = ("kernel", "lora_a", "lora_b")
# Of Muon: its updates are as large as AdamW's usually are (Liu et al. 2025), so that learning rate
# and weight decay are those of AdamW.
_UPDATE_RMS = 0.2
_MATRICES = "matrices"  # the second part of a label


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101) or another optimiser."""

  learning_rate: float  # per update, > 0: the highest value of the schedule
  critic_learning_rate: float | None = None  # of `critic` and `value_head`; None = learning_rate
  warmup_steps: int = 0  # updates, >= 0: from 0 linearly up to learning_rate
  schedule: Literal["constant", "linear", "cosine"] = "constant"  # after the warm-up, down to 0
  b1: float = 0.9  # in [0, 1): decay of the mean of gradients
  b2: float = 0.95  # in [0, 1): decay of the mean of squared gradients
  eps: float = 1e-8  # > 0: added to the root, after the bias correction
  weight_decay: float = 0.0  # >= 0, times the learning rate; matrices only
  max_grad_norm: float | None = 1.0  # > 0: global norm over all parameters; None = no clipping
  # adafactor keeps sums of squared gradients by row and column; muon is for the layers' matrices.
  kind: Kind = "adamw"
  # Of the mean of gradients: float32 or bfloat16; None = as the parameter, or its master weight.
  mu_dtype: Literal["float32", "bfloat16"] | None = None
  # Updates are of f32 weights that the optimiser keeps; bfloat16 parameters are these, rounded.
  master_weights: bool = False

  def __post_init__(self):
    critic_rate = self.critic_learning_rate
    checks = {
        "learning_rate": (self.learning_rate > 0, "> 0"),
        "critic_learning_rate": (critic_rate is None or critic_rate > 0, "> 0 or None"),
        "warmup_steps": (self.warmup_steps >= 0, ">= 0"),
        "schedule": (
            self.schedule in ("constant", "linear", "cosine"),
            "constant, linear, cosine",
        ),
        "b1": (0 <= self.b1 < 1, "in [0, 1)"),
        "b2": (0 <= self.b2 < 1, "in [0, 1)"),
        "eps": (self.eps > 0, "> 0"),
        "weight_decay": (self.weight_decay >= 0, ">= 0"),
        "max_grad_norm": (self.max_grad_norm is None or self.max_grad_norm > 0, "> 0 or None"),
        "kind": (self.kind in get_args(Kind), ", ".join(get_args(Kind))),
        "mu_dtype": (self.mu_dtype in (None, "float32", "bfloat16"), "float32, bfloat16, None"),
    }
    for name, (is_valid, allowed) in checks.items():
      if not is_valid:
        raise ValueError(f"{name}: got {vars(self)[name]!r}, allowed: {allowed}")
    if self.kind == "adafactor":
      check_unread(self, "with kind='adafactor', which has its own", "b2", "eps")
      if not self.b1:
        check_unread(self, "with kind='adafactor' and b1=0", "mu_dtype")


def make_schedule(
    config: OptimizerConfig, total_steps: int, learning_rate: float | None = None
) -> optax.Schedule:
  """Makes the learning rate as a function of the number of updates done so far.

  Update `i` (from 0) of the warm-up uses `(i + 1) / (warmup_steps + 1)` of the peak, so that no
  update is wasted at 0; from update `warmup_steps` on the rate is constant, or decreases and would
  reach 0 at update `total_steps`.

  Args:
    config: the optimiser.
    total_steps: updates in the whole stage (epochs and minibatches counted).
    learning_rate: the peak; that of the config if None.

  Returns:
    A function from a count of updates to a learning rate.

  Raises:
    ValueError: the warm-up is not shorter than the stage.
  """
  if total_steps < 1:
    raise ValueError(f"total_steps: got {total_steps}, allowed: >= 1")
  if config.warmup_steps >= total_steps:
    raise ValueError(
        f"warmup_steps: got {config.warmup_steps}, allowed: less than the {total_steps} updates of "
        "the stage"
    )
  peak = config.learning_rate if learning_rate is None else learning_rate
  rest = total_steps - config.warmup_steps
  after = {
      "constant": lambda: optax.constant_schedule(peak),
      "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
      "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
  }[config.schedule]()
  if not config.warmup_steps:
    return after
  first = peak / (config.warmup_steps + 1)
  warmup = optax.linear_schedule(first, peak, config.warmup_steps)
  return optax.join_schedules([warmup, after], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
  """Makes the optimiser of a stage.

  The parameters may be those of one model, or a dict with the keys `policy`, `critic` and
  `value_head`, of which the last two follow `critic_learning_rate` when it is set. The clipped norm
  is that of all of them together.

  Args:
    config: the optimiser.
    total_steps: updates in the whole stage (epochs and minibatches counted).

  Returns:
    An optax transformation; its state holds one count of updates per group.

  Raises:
    ValueError: the warm-up is not shorter than the stage.
  """
  critic_rate = config.critic_learning_rate or config.learning_rate
  groups = {}
  for group, rate in (("policy", config.learning_rate), ("critic", critic_rate)):
    schedule = make_schedule(config, total_steps, rate)
    make = _make_adafactor if config.kind == "adafactor" else _make_adamw
    groups[group] = make(config, schedule)
    if config.kind == "muon":
      groups[f"{group} {_MATRICES}"] = _make_muon(config, schedule)
  has_clip = config.max_grad_norm is not None
  clip = optax.clip_by_global_norm(config.max_grad_norm) if has_clip else optax.identity()
  labels = _label_matrices if config.kind == "muon" else label_parameters
  made = optax.chain(clip, optax.partition(groups, labels))
  return with_masters(made) if config.master_weights else made


def label_parameters(params: Any) -> Any:
  """Labels each leaf `critic` (keys `critic`, `value_head` at the top) or `policy`."""
  return jax.tree_util.tree_map_with_path(
      lambda path, _: "critic" if _name(path[:1]) in _CRITIC_KEYS else "policy", params
  )


def _label_matrices(params: Any) -> Any:
  """As `label_parameters`, and the matrices of layers are groups of their own."""
  return jax.tree.map(
      lambda label, axes: label if axes is None else f"{label} {_MATRICES}",
      label_parameters(params), _axes_of_matrices(params))


def _axes_of_matrices(params: Any) -> Any:
  """Of each leaf the axes of its matrices, or None if Muon is not for it.

  It is for the matrices of layers: kernels, routers, and adapters. Embeddings, heads, norms and
  biases are for AdamW, as the authors of Muon have it. Leaves of layers are stacked on axis 0, and
  experts on axis 1; heads are one axis of a matrix together with their width.
  """
  def axes(path, leaf):
    names = [_name((part,)) for part in path]
    kernel = names[-1].endswith("_kernel")  # of experts [N, E, I, O], of their router [N, D, E]
    if "layers" not in names or not (kernel or names[-1] in _MATRIX_NAMES):
      return None
    first = leaf.ndim - 2 if kernel else 1
    # The output projection of attention has two axes of inputs: heads and their width.
    inputs = 2 if names[-2] == "o" and names[-1] != "lora_b" else 1
    split = first + inputs
    return contrib.MuonDimensionNumbers(
        tuple(range(first, split)), tuple(range(split, leaf.ndim)))

  return jax.tree_util.tree_map_with_path(axes, params)


def decay_mask(params: Any) -> Any:
  """Whether weight decay applies to each leaf: to matrices and tables, not norms and biases.

  It is decided by name, not by rank: a norm's scale stacked over layers is `[N, D]`, like a matrix.
  """
  return jax.tree_util.tree_map_with_path(
      lambda path, _: _name(path[-1:]) not in _VECTOR_NAMES, params
  )


def _make_adamw(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
  return optax.adamw(
      schedule,
      b1=config.b1,
      b2=config.b2,
      eps=config.eps,
      weight_decay=config.weight_decay,
      mask=decay_mask,
      mu_dtype=config.mu_dtype,
  )


def _make_adafactor(
    config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
  """Adafactor (Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235), absolute step sizes.

  Not relative to the size of a parameter: the learning rate is of AdamW's scale. Squares of
  gradients are factored where two axes of a leaf have 128 entries or more.
  """
  return optax.chain(
      optax.scale_by_factored_rms(),
      optax.clip_by_block_rms(1.0),
      optax.ema(config.b1, debias=False, accumulator_dtype=config.mu_dtype) if config.b1 else (
          optax.identity()),
      optax.add_decayed_weights(config.weight_decay, decay_mask),
      optax.scale_by_learning_rate(schedule),
  )


def _make_muon(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
  """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), each matrix by itself.

  With the update size of Liu et al. 2025 (https://arxiv.org/abs/2502.16982).
  """
  muon = contrib.muon(
      schedule,
      beta=config.b1,
      eps=config.eps,
      weight_decay=config.weight_decay,
      mu_dtype=config.mu_dtype,
      muon_weight_dimension_numbers=_axes_of_matrices,
      consistent_rms=_UPDATE_RMS,
  )

  def update(*args):
    # Of its authors the products are of bf16; f32 factors take a TPU six passes.
    with jax.default_matmul_precision("bfloat16"):
      return muon.update(*args)

  return optax.GradientTransformation(muon.init, update)


def _name(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True)


def optimizer_of(config: OptimizerConfig, updates: int):
  """A stage's optimiser and learning rate; a stage of 0 steps has them without using them."""
  total = max(updates, config.warmup_steps + 1)
  return make_optimizer(config, total), make_schedule(config, total)
