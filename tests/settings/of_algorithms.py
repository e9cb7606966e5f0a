"""Rows of algorithms, optimisers and the sampler: seen in the numbers of one update.

The model is a table: the logits of a token are the row of the token before it. So small a program
compiles in a fraction of a second, and everything but the transformer is the real thing.
"""

import functools
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlreason import losses, models
from rlreason.algorithms import (
    DistillConfig, PolicyGradientConfig, PreferenceConfig, ProcessRewardConfig,
    RewardModelConfig, SFTConfig, policy_gradient)
from rlreason.algorithms.base import update_params
from rlreason.algorithms.policy_gradient import scoring
from rlreason.models import ModelConfig
from rlreason.sampling import SamplingOptions, logits as logits_lib, sample
from rlreason.slots import Slot
from rlreason.training.optimizer import OptimizerConfig, make_optimizer
from rlreason.training.stages.rl import Planner
from rlreason.types import Outcome, PackedBatch, PairBatch, Rollout, StepBatch
from tests.algorithms import tiny
from tests.settings import fakes
from tests.settings.bases import Row

WORDS, ROW, TOKENS = 7, 4, 3
MODEL = ModelConfig(
    vocab_size=WORDS, width=WORDS, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=2,
    mlp_width=2, tie_embeddings=False)
RANDOM = np.random.default_rng(0)
MASK = np.arange(TOKENS) < np.array([3, 2, 3, 1])[:, None]
numbers = lambda *shape: RANDOM.normal(size=shape).astype(np.float32)
arrays = functools.partial(jax.tree.map, jnp.asarray)
ROLLOUT = arrays(Rollout(
    prompt_tokens=np.full((ROW, 2), 2, np.int32), prompt_mask=np.ones((ROW, 2), bool),
    completion_tokens=np.where(MASK, RANDOM.integers(1, WORDS, MASK.shape), 0).astype(np.int32),
    token_mask=MASK, action_mask=MASK, log_probs=np.where(MASK, -1.5, 0).astype(np.float32),
    values=np.where(MASK, numbers(*MASK.shape), 0),
    truncated=np.array([True, False, False, False])))
OUTCOME = arrays(Outcome(
    np.array([1, 0, 0.5, 2], np.float32), np.ones(ROW, bool), np.array([True, False, False, True]),
    np.array([0.5, 0.5, 0, 0], np.float32)))
SAMPLER = Slot(losses.truncated_importance)


def table(seed):
  random = np.random.default_rng(seed)
  return {"table": jnp.asarray(random.normal(size=(WORDS, WORDS)), jnp.float32)}


HEAD = arrays({"kernel": numbers(WORDS), "bias": np.float32(0.1)})


def before(rows, last=False):
  """One-hot of the token before each: the features of the table; with `last`, one more."""
  tokens = jnp.concatenate([rows.prompt_tokens[:, -1:], rows.completion_tokens], axis=1)
  return jax.nn.one_hot(tokens if last else tokens[:, :-1], WORDS)


def policy_pass(spec, params, rows, mask, packing=None):
  del mask, packing
  features = before(rows)
  log_probs = jax.nn.log_softmax(features @ params["table"] / spec.temperature)
  chosen = jnp.take_along_axis(log_probs, rows.completion_tokens[..., None], axis=-1)[..., 0]
  entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
  return scoring.Pass(chosen, entropy, features, jnp.float32(0))


def values_of_rows(spec, params, features, rows, packing=None):
  del spec, packing
  head = params["value_head"] if "value_head" in params else params["critic"]["value_head"]
  return (before(rows) if features is None else features) @ head["kernel"] + head["bias"]


def values_with_last(spec, params, rows):
  values = values_of_rows(spec, params, before(rows, last=True), rows)
  return values[:, :-1], values[:, -1]


@functools.cache
def update(config, temperature=1.0, has_answers=False):
  """Scores, batch, metrics and state of two updates of a policy gradient, as one tree."""
  algorithm = policy_gradient(
      config, MODEL, optax.sgd(0.1), temperature=temperature, group_size=2,
      has_answers=has_answers)
  params = {"policy": table(0)}
  if config.critic == "shared":
    params["value_head"] = HEAD
  elif config.critic == "separate":
    params["critic"] = {"trunk": table(2), "value_head": HEAD}

  @tiny.fast_jit
  def step(state, key):
    models_now = {"params": state.params, "reference": state.reference or table(1)}
    scores = algorithm.score(models_now, ROLLOUT, None)
    batch, metrics = algorithm.make_batch((ROLLOUT, scores, OUTCOME), state.coefs)
    state, more = algorithm.update_step(state, batch, key)
    return state, (batch, metrics | more)

  patch = functools.partial(mock.patch.object, scoring)
  with patch("policy_pass", policy_pass), patch("values_of_rows", values_of_rows), patch(
      "_values_with_last", values_with_last):
    state, first = step(algorithm.init(params), jax.random.key(0))
    return jax.device_get((first, step(state, jax.random.key(1))))


def answered(config):
  """As `update`, of completions whose last token is a given answer."""
  is_last = MASK & ~np.pad(MASK[:, 1:], ((0, 0), (0, 1)))
  with mock.patch.object(
      sys.modules[__name__], "ROLLOUT", ROLLOUT.replace(action_mask=jnp.asarray(MASK & ~is_last))):
    return update.__wrapped__(config, has_answers=True)


def program(config):
  """The update as a program: what changes only how it is computed changes this."""
  algorithm = policy_gradient(config, MODEL, optax.sgd(0.1), temperature=1.0, group_size=2)
  params = {"policy": table(0)} | ({"value_head": HEAD} if config.critic == "shared" else {})
  patch = functools.partial(mock.patch.object, scoring)
  with patch("policy_pass", policy_pass), patch("values_of_rows", values_of_rows):
    def run():
      state = algorithm.init(params)
      scores = algorithm.score({"params": params, "reference": table(1)}, ROLLOUT, None)
      batch, _ = algorithm.make_batch((ROLLOUT, scores, OUTCOME), state.coefs)
      return algorithm.update_step(state, batch, jax.random.key(0))
    return str(jax.make_jaxpr(run)())


def pg(value, **beside):
  return Row(value, update, beside=beside)


NO_CRITIC = dict(critic="none")
POLICY_GRADIENT = {
    "epochs": pg(2), "minibatch_size": pg(2), "micro_batch_size": Row(2, program),
    "recompute_log_probs": pg(True),
    "share_prompts": Row(True, lambda config: type(Planner(
        config, 2, fakes.LAYOUT).of_rollout(ROLLOUT))),
    "pack_rows": Row(True, lambda config: type(Planner(
        config, 1, fakes.LAYOUT).of_rollout(ROLLOUT)), with_other=dict(packed_width=24)),
    "packed_width": Row(24, lambda config: jax.tree.map(np.shape, Planner(
        config, 1, fakes.LAYOUT).of_rollout(ROLLOUT)), dict(pack_rows=True)),
    "advantage": pg(Slot(losses.group_centered)), "discount": pg(0.5), "gae_lambda": pg(0.5),
    "critic_lambda": pg(0.5), "length_adaptive_alpha": pg(0.5), "bootstrap_truncated": pg(True),
    "whiten_rewards": pg(True), "whiten_advantages": pg(False), "whiten_ddof": pg(1),
    "answer_score": Row("mean_prob", answered), "mask_truncated": pg(True),
    "truncated_score": pg(2.0),
    "advantage_threshold": pg(0.5),
    "advantage_threshold_normalizer": pg("kept", advantage_threshold=0.9),
    "policy_loss": pg(Slot(losses.reinforce)),
    "correction": pg(SAMPLER, recompute_log_probs=True),
    "selection": Row(
        Slot(losses.select_kl_cov, {"fraction": 0.5}), update,
        with_other=dict(policy_loss=Slot(losses.kl_cov))),
    "aggregation": pg("token-mean"), "constant_length": pg(5, aggregation="constant"),
    "nll_coef": pg(0.5), "nll_aggregation": pg("sequence-sum", nll_coef=0.5),
    "entropy_coef": pg(0.5), "entropy_target": pg(5.0), "entropy_step": pg(
        0.5, entropy_target=5.0),
    "critic": pg("separate"), "critic_warmup_steps": pg(1), "value_clip": pg(0.01),
    "value_coef": pg(0.5), "huber_delta": pg(0.1),
    "kl_coef": pg(0.5), "kl_placement": pg("score"),
    "kl_estimator": pg("k3", kl_placement="loss", allow_any_kl=True),
    "allow_any_kl": pg(True, kl_estimator="k3"), "kl_clamp_ratio": pg(0.1), "kl_clamp": pg(0.1),
    "unbiased_kl": pg(True, kl_placement="loss", kl_estimator="k3"),
    "kl_target": pg(0.1), "kl_horizon": pg(100.0, kl_target=0.1),
    "whiten_kl": pg(True, kl_placement="score"), "reference_every": pg(1),
    "reference_decay": pg(0.5, reference_every=1)}

# Pairs.

PAIRS = PairBatch(
    prompt_tokens=ROLLOUT.prompt_tokens, prompt_mask=ROLLOUT.prompt_mask,
    completion_tokens=jnp.stack([ROLLOUT.completion_tokens, ROLLOUT.completion_tokens[::-1]], 1),
    completion_mask=jnp.stack([MASK, MASK[::-1]], 1))
PREFERENCE = sys.modules["rlreason.algorithms.preference"]
PROCESS_REWARD = sys.modules["rlreason.algorithms.process_reward"]
REWARD_MODEL = sys.modules["rlreason.algorithms.reward_model"]
DISTILL = sys.modules["rlreason.algorithms.distill"]
SFT = sys.modules["rlreason.algorithms.sft"]


def sequence_log_probs(model, params, batch):
  flat = PREFERENCE.rows.flatten_completions(batch)
  log_probs = jax.nn.log_softmax(before(flat) @ params["table"])
  chosen = jnp.take_along_axis(log_probs, flat.completion_tokens[..., None], axis=-1)[..., 0]
  return jnp.sum(jnp.where(flat.completion_mask, chosen, 0), axis=1).reshape(
      batch.completion_tokens.shape[:2]), jnp.float32(0)


def preference_run(config):
  algorithm = PREFERENCE.preference(config, MODEL, optax.sgd(0.1))

  def run():
    state, batch = algorithm.init({"policy": table(0)}), PAIRS
    if config.has_reference:
      scores = algorithm.score({"params": state.params, "reference": table(1)}, batch, None)
      batch, _ = algorithm.make_batch((batch, scores), state.coefs)
    return algorithm.update_step(state, batch, None)

  return run


def preferred(config):
  with mock.patch.object(PREFERENCE, "_sequence_log_probs", sequence_log_probs):
    return jax.device_get(tiny.fast_jit(preference_run(config))())


def preference_program(config):
  with mock.patch.object(PREFERENCE, "_sequence_log_probs", sequence_log_probs):
    return str(jax.make_jaxpr(preference_run(config))())


def scored_program(config):
  """The update of a reward model; it changes with every setting."""
  scores = lambda model, params, batch: (
      before(batch)[:, 0] @ params["value_head"]["kernel"], jnp.float32(0))
  hidden = lambda model, params, batch, mask=None: (before(batch, last=True), jnp.float32(0))
  algorithm = REWARD_MODEL.reward_model(config, MODEL, optax.sgd(0.1))
  batch = PAIRS if config.has_pairs else PAIRS.replace(is_desirable=jnp.arange(ROW) % 2 == 0)
  with mock.patch.object(REWARD_MODEL, "_scores_and_balance", scores), mock.patch.object(
      REWARD_MODEL.rows, "features_with_last", hidden):
    run = lambda: algorithm.update_step(
        algorithm.init({"trunk": table(0), "value_head": HEAD}), batch, None)
    return str(jax.make_jaxpr(run)()), jax.device_get(tiny.fast_jit(run)())


def process_program(config):
  """The update of a process reward model, of ratings that are shares as well."""
  hidden = lambda model, params, batch, mask=None: (before(batch, last=True), jnp.float32(0))
  algorithm = PROCESS_REWARD.process_reward(config, MODEL, optax.sgd(0.1))
  columns = jnp.tile(jnp.arange(TOKENS)[None], (ROW, 1))
  batch = StepBatch(
      prompt_tokens=ROLLOUT.prompt_tokens, prompt_mask=ROLLOUT.prompt_mask,
      completion_tokens=ROLLOUT.completion_tokens, token_mask=ROLLOUT.token_mask, columns=columns,
      labels=(columns % 2).astype(jnp.float32), label_mask=jnp.asarray(MASK))
  params = PROCESS_REWARD.init_process_params(config, MODEL, table(0), jax.random.key(0))
  with mock.patch.object(PROCESS_REWARD.rows, "features_with_last", hidden):
    run = lambda: algorithm.update_step(algorithm.init(params), batch, None)
    return str(jax.make_jaxpr(run)()), jax.device_get(tiny.fast_jit(run)())


def distill_run(config):
  params = lambda seed: {"lm_head": {"kernel": table(seed)["table"]}}
  algorithm = DISTILL.distill(config, MODEL, MODEL, optax.sgd(0.1))

  def run():
    state = algorithm.init(DISTILL.init_distill_params(config, MODEL, params(0), params(1)))
    scores = algorithm.score({"teacher": params(1)}, ROLLOUT, None)
    batch, metrics = algorithm.make_batch((ROLLOUT, scores, jnp.ones(ROW, bool)), {})
    return metrics, algorithm.update_step(state, batch, None)

  return run


def with_features(make, run):
  features = lambda model, params, rows, mask=None: (before(rows), jnp.float32(0))
  with mock.patch.object(DISTILL.rows, "completion_features", features):
    return make(run)


def distilled(config):
  return with_features(lambda run: jax.device_get(tiny.fast_jit(run)()), distill_run(config))


def distill_program(config):
  return with_features(lambda run: str(jax.make_jaxpr(run)()), distill_run(config))


def sft_program(config):
  algorithm = SFT.sft(config, tiny.MODEL, optax.sgd(0.1))
  tokens = jnp.ones((4, 6), jnp.int32)
  batch = PackedBatch(
      tokens=tokens, segment_ids=tokens, positions=jnp.cumsum(tokens, axis=1) - 1,
      loss_weights=jnp.ones((4, 6)))
  run = lambda params: algorithm.update_step(algorithm.init({"policy": params}), batch, None)
  return str(jax.make_jaxpr(run)(models.abstract_params(tiny.MODEL)))


# The optimiser.


def moved(config, dtype=jnp.float32):
  """Three updates of a matrix, a norm and a critic, by gradients of several sizes."""
  optimizer = make_optimizer(config, 4)
  params = {"policy": {"layers": {"kernel": jnp.ones((1, 2, 2), dtype)}, "scale": jnp.ones(1)},
            "critic": {"kernel": jnp.ones(1)}}

  @tiny.fast_jit
  def run():
    state, now = optimizer.init(params), params
    for size in (1.0, 0.1, 3.0):
      gradients = jax.tree.map(
          lambda x, size=size: size * jnp.arange(1.0, 1 + x.size).reshape(x.shape), now)
      now, state = update_params(optimizer, gradients, state, now)
    return now

  return jax.device_get(run())


OPTIMIZER = {name: Row(value, moved) for name, value in dict(
    learning_rate=0.2, critic_learning_rate=0.2, warmup_steps=2, schedule="cosine", b1=0.5,
    b2=0.5, eps=0.1, weight_decay=0.1, max_grad_norm=None, kind="muon",
    mu_dtype="bfloat16").items()}
OPTIMIZER["master_weights"] = Row(
    True, lambda config: moved(config, jnp.bfloat16), beside=dict(learning_rate=1e-3))

# The sampler.


def filtered(options):
  return np.asarray(logits_lib.filter_logits(jnp.asarray(table(3)["table"]), options))


def sampled(options):
  """What is compiled; only the shapes of the model are needed."""
  prompts = tiny.make_prompts(2)
  run = lambda params, key: sample(
      tiny.MODEL, params, prompts, key, options=options, stop_ids=tiny.STOP)
  return str(jax.make_jaxpr(run)(models.abstract_params(tiny.MODEL), jax.random.key(0)))


SAMPLING = {
    "max_new_tokens": Row(4, sampled), "temperature": Row(0.5, (filtered, sampled)),
    "top_k": Row(2, (filtered, sampled)), "top_p": Row(0.5, (filtered, sampled)),
    "min_p": Row(0.5, (filtered, sampled)), "blocked_bigrams": Row((((1,), (2,)),), sampled),
    "weights": Row("int8", sampled)}

ROWS = {
    PolicyGradientConfig: POLICY_GRADIENT, OptimizerConfig: OPTIMIZER, SamplingOptions: SAMPLING,
    PreferenceConfig: {
        "loss": Row(Slot(losses.dpo, {"beta": 0.1}), preferred),
        "average_log_probs": Row(True, preferred), "nll_coef": Row(0.5, preferred),
        "micro_batch_size": Row(2, preference_program)},
    RewardModelConfig: {
        "loss": Row(Slot(losses.bradley_terry, {"margin": 1.0}), scored_program),
        "trained_tokens": Row("every", scored_program, beside=dict(
            loss=Slot(losses.outcome_cross_entropy))),
        "micro_batch_size": Row(2, scored_program)},
    ProcessRewardConfig: {
        "loss": Row(Slot(losses.three_way_cross_entropy), process_program),
        "micro_batch_size": Row(2, process_program)},
    DistillConfig: {
        "divergence": Row(Slot(losses.forward_kl), distilled),
        "temperature": Row(2.0, distilled), "top_k": Row(2, distilled),
        "others": Row("renormalize", distilled, beside=dict(top_k=2)),
        "aggregation": Row("sequence-mean", distilled),
        "micro_batch_size": Row(2, distill_program)},
    SFTConfig: {"micro_batch_size": Row(2, sft_program)},
    Slot: {
        "function": Row(losses.reinforce, lambda slot: update(PolicyGradientConfig(
            minibatch_size=4, share_prompts=False, policy_loss=slot))),
        "options": Row({"clip_high": 0.01}, lambda slot: update(PolicyGradientConfig(
            minibatch_size=2, epochs=2, share_prompts=False, policy_loss=slot)))},
}
