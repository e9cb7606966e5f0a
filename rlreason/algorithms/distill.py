"""Token-level distillation: trains the student's next-token distributions towards a teacher's.

Off-policy on completions of the teacher or of a data set, on-policy (GKD, Agarwal et al. 2023,
https://arxiv.org/abs/2306.13649) on those of the student itself: this module takes any rows.

The teacher runs once per batch, in `score`. It returns either its hidden states, from which its
full distributions are recomputed in blocks of tokens, or its k likeliest words.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlreason import losses, masks
from rlreason.algorithms import base, rows
from rlreason.config import check_unread
from rlreason.models import ModelConfig
from rlreason.parallel import ALONE
from rlreason.slots import Slot
from rlreason.types import DistillBatch, Metrics, Params, Rollout


@dataclasses.dataclass(frozen=True)
class DistillConfig:
  """Settings of the distillation update."""

  divergence: Slot = Slot(losses.reverse_kl)  # of losses/distill.py
  temperature: float = 1.0  # above 0, divides the logits of student and teacher
  top_k: int = 0  # words of the teacher that are kept; 0 = its whole vocabulary
  others: losses.Others = "bucket"  # how the other words are treated with a top_k
  aggregation: Literal["token-mean", "sequence-mean"] = "token-mean"  # mean of the loss
  micro_batch_size: int = 0  # rows per gradient pass over all devices; 0 = the whole batch

  def __post_init__(self):
    self.divergence.check(("student", "teacher"))
    for name in ("top_k", "micro_batch_size"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name}: got {getattr(self, name)}, allowed: 0 or more")
    if self.temperature <= 0:
      raise ValueError(f"temperature: got {self.temperature}, allowed: above 0")
    for name, allowed in (("others", ("bucket", "renormalize")),
                          ("aggregation", ("token-mean", "sequence-mean"))):
      if getattr(self, name) not in allowed:
        raise ValueError(
            f"{name}: got {getattr(self, name)!r}, allowed: {', '.join(allowed)}")
    if not self.top_k:
      check_unread(self, "with top_k=0", "others")


class _Spec(NamedTuple):
  """The settings that all parts of the algorithm share."""

  config: DistillConfig
  model: ModelConfig
  teacher: ModelConfig


def distill(
    config: DistillConfig, model: ModelConfig, teacher: ModelConfig,
    optimizer: optax.GradientTransformation,
) -> base.Algorithm:
  """The distillation algorithm on `DistillBatch`es.

  - Its parameters are those of `init_distill_params`.
  - `score(models, rollout)`: the `teacher` of a batch; `models` is {"teacher": parameters}.
  - `make_batch((rollout, scores, is_kept bool[B]), {})`: rows that are not kept, such as those
    a verifier found wrong, are not trained on.

  Raises:
    ValueError: the two vocabularies differ in size, or `top_k` is larger.
  """
  if teacher.vocab_size != model.vocab_size:
    raise ValueError(
        f"teacher: got a vocabulary of {teacher.vocab_size}, allowed: that of the student, "
        f"{model.vocab_size}")
  if config.top_k > model.vocab_size:
    raise ValueError(f"top_k: got {config.top_k}, allowed: at most {model.vocab_size} words")
  spec = _Spec(config, model, teacher)
  return base.Algorithm(
      init=lambda params: base.init_state(params, optimizer),
      score=functools.partial(_score, spec), make_batch=_make_batch,
      update_step=functools.partial(_update_step, spec, optimizer))


def init_distill_params(
    config: DistillConfig, teacher: ModelConfig, policy: Params, teacher_params: Params
) -> Params:
  """Parameters of a distillation state.

  Args:
    config: settings.
    teacher: the model of the teacher.
    policy: parameters of the student, used without a copy.
    teacher_params: parameters of the teacher.

  Returns:
    {"policy"} and, without a top_k, {"frozen": {"kernel"}}, which turns the teacher's hidden states
    into logits. It is not trained and not in checkpoints.
  """
  if config.top_k:
    return {"policy": policy}
  # A copy: the state that holds it is donated.
  kernel = jnp.copy(_unembedded(teacher, teacher_params, None).kernel)
  return {"policy": policy, "frozen": {"kernel": kernel}}


def _unembedded(
    model: ModelConfig, params: Params, hidden, num_words: int | None = None
) -> losses.Unembedded:
  if model.tie_embeddings:
    return losses.Unembedded(
        hidden, params["embed"]["embedding"], 0, model.logit_softcap, num_words)
  return losses.Unembedded(hidden, params["lm_head"]["kernel"], 1, model.logit_softcap, num_words)


def _score(spec: _Spec, models, rollout: Rollout, plan=None):
  del plan  # rows are computed one by one
  config, params = spec.config, models["teacher"]

  def score_rows(rollout):
    hidden, _ = rows.completion_features(spec.teacher, params, rollout)
    if not config.top_k:
      return {"hidden": hidden}
    ids, log_probs = losses.top_k_log_probs(
        _unembedded(spec.teacher, params, hidden, spec.model.num_tokens), config.top_k,
        temperature=config.temperature)
    return {"ids": ids, "log_probs": log_probs}

  return rows.in_chunks(score_rows, rollout, config.micro_batch_size)


def _make_batch(inputs, coefs) -> tuple[DistillBatch, Metrics]:
  del coefs  # the losses have none
  rollout, scores, is_kept = inputs
  mask = rollout.action_mask & is_kept[:, None]
  metrics = {}
  if "log_probs" in scores:
    mass = jnp.sum(jnp.exp(scores["log_probs"]), axis=-1)
    metrics["distill/teacher_mass"] = (  # of the kept words
        masks.masked_sum(mass, mask), jnp.sum(mask.astype(jnp.float32)))
  return DistillBatch(
      prompt_tokens=rollout.prompt_tokens, prompt_mask=rollout.prompt_mask,
      completion_tokens=rollout.completion_tokens, loss_mask=mask, teacher=scores), metrics


def _divergence(spec: _Spec, params: Params, hidden: jax.Array, batch: DistillBatch) -> jax.Array:
  """f32[B, T] nats; arbitrary where masked."""
  config, said = spec.config, batch.teacher
  divergence = lambda student, teacher: config.divergence(student=student, teacher=teacher)
  # Both over the words of the student's tokenizer: neither model uses those beyond it.
  student = _unembedded(spec.model, params["policy"], hidden, spec.model.num_tokens)
  if config.top_k:
    return losses.top_k_divergence(
        student, said["ids"], said["log_probs"], divergence, others=config.others,
        temperature=config.temperature)
  teacher = losses.Unembedded(
      said["hidden"], params["frozen"]["kernel"], 0 if spec.teacher.tie_embeddings else 1,
      spec.teacher.logit_softcap, spec.model.num_tokens)
  return losses.token_divergence(
      student, teacher, divergence, temperature=config.temperature)


def _loss(spec: _Spec, params: Params, micro_batch) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
  """The share of a micro-batch (rows, f32[b, T] weights) in its batch's loss, and its metrics."""
  batch, weights = micro_batch
  hidden, balance = rows.completion_features(
      spec.model, params["policy"], batch, masks.before_end(batch.loss_mask))
  loss = masks.masked_sum(
      _divergence(spec, params, hidden, batch) * weights, batch.loss_mask)
  share = jnp.sum(weights)
  metrics = {"loss/distill": (loss, share)}
  return base.with_balance(spec.model, loss, metrics, balance, share)


def _update_step(spec: _Spec, optimizer, state, batch: DistillBatch, key, *, replicas=ALONE):
  """One optimiser step on a batch."""
  del key  # nothing here is random
  config = spec.config
  batch = replicas.gather(batch)
  # A NaN in the padding must not reach a gradient, where 0 * NaN is NaN.
  batch = batch.replace(teacher=jax.tree.map(
      lambda x: masks.zero_masked(x, batch.loss_mask[..., None]), batch.teacher))
  weights = masks.token_weights(batch.loss_mask, config.aggregation)  # of all rows: gathered
  indices = rows.micro_batch_indices(weights.shape[0], config.micro_batch_size)
  return base.step_on_batch(
      functools.partial(_loss, spec), state, replicas.take((batch, weights), indices), optimizer,
      replicas)
