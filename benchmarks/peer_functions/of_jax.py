"""Tunix, https://github.com/google/tunix, and RLax, https://github.com/google-deepmind/rlax."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from peer_functions.importing import without

with without([], bare=["tunix", "tunix.rl", "rlax", "rlax._src"]):
  from rlax._src import multistep
  from tunix.rl import algo_core, common


def _flat(*arrays):
  return np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in arrays])


def _arrays(x):
  return {name: jnp.asarray(value.numpy()) for name, value in x.items()}


def advantage(x, *, estimator):
  function = {"grpo": algo_core.compute_advantages, "rloo": algo_core.compute_rloo_advantages,
              "drgrpo": algo_core.compute_drgrpo_advantages}[estimator]
  return _flat(function(x["scores"].numpy().reshape(-1), x["scores"].shape[1]))


def gae(x, *, gamma, lam):
  x = _arrays(x)
  mask = x["mask"].astype(jnp.float32)
  advantages, returns = algo_core.compute_gae_advantages(
      x["rewards"], x["values"], mask, gamma, lam)
  return _flat(advantages * mask, returns * mask)


def policy_loss(x, *, name="grpo", beta=0.0, kl="low_var_kl", **options):
  """Value and gradient of a loss whose model has these log-probs."""
  x = _arrays(x)
  example = types.SimpleNamespace(
      prompt_ids=None, completion_ids=None, completion_mask=x["mask"].astype(jnp.float32),
      advantages=x["advantages"], old_per_token_logps=x["old_log_probs"],
      ref_per_token_logps=x["ref_log_probs"])
  config = types.SimpleNamespace(**{
      "beta": beta, "kl_loss_mode": kl, "kl_clamp_value": None, "temperature": 1.0,
      "entropy_coef": 0.0, "loss_algo": "grpo", "loss_agg_mode": "token-mean", **options})
  function = {"grpo": algo_core.grpo_loss_fn, "ppo": algo_core.ppo_policy_loss_fn}[name]
  model_free = (algo_core.nnx.split, common.compute_per_token_logps)

  def loss(log_probs):
    # Stands for the model, which would have to be a Tunix one.
    algo_core.nnx.split = lambda model: (None, None)
    common.compute_per_token_logps = lambda *args, **kwargs: (log_probs, jnp.zeros((1, 1, 2)))
    try:
      return function(None, example, config, 0, 0)[0]
    finally:
      algo_core.nnx.split, common.compute_per_token_logps = model_free

  return _flat(*jax.value_and_grad(loss)(x["log_probs"]))


def kl(x, *, method, clamp=None):
  x = _arrays(x)
  loss = lambda log_probs: jnp.sum(common.compute_kl_divergence(
      log_probs, x["ref_log_probs"], method, clamp) * x["mask"])
  return _flat(*jax.value_and_grad(loss)(x["log_probs"]))


def aggregate(x, *, mode, **options):
  x = _arrays(x)
  mask = x["mask"].astype(jnp.float32)
  return _flat(common.aggregate_loss(x["advantages"], mask, mode, **options))


def rlax_gae(x, *, gamma, lam):
  """For rows without padding: advantages."""
  x = _arrays(x)
  values = jnp.pad(x["values"], ((0, 0), (0, 1)))
  discounts = jnp.full(x["rewards"].shape, gamma)
  return _flat(jax.vmap(
      lambda r, d, v: multistep.truncated_generalized_advantage_estimation(r, d, lam, v))(
          x["rewards"], discounts, values))


def rlax_n_step_returns(x, *, gamma, n):
  """For rows without padding: returns."""
  x = _arrays(x)
  values = jnp.pad(x["values"][:, 1:], ((0, 0), (0, 1)))
  discounts = jnp.full(x["rewards"].shape, gamma)
  return _flat(jax.vmap(
      lambda r, d, v: multistep.n_step_bootstrapped_returns(r, d, v, n))(
          x["rewards"], discounts, values))
