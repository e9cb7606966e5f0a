"""AReaL, https://github.com/areal-project/AReaL: utils/functional and the normalisation of data."""

from peer_functions.importing import differentiate, flat, without

_ABSENT = ["ray", "colorlog", "uvloop", "aiohttp", "numba", "einops", "torchdata", "pynvml"]

with without(_ABSENT, bare=["areal", "areal.infra", "areal.api", "areal.engine",
                            "areal.engine.fsdp_utils"]):
  from areal.api.cli_args import NormConfig, RejectionSamplingConfig
  from areal.utils import data
  from areal.utils.functional import functional


def advantage(x, **options):
  groups, size = x["scores"].shape
  normalize = data.Normalization(NormConfig(group_size=size, **options))
  return flat(normalize(x["scores"].reshape(-1)))


def policy_loss(x, *, rejection=None, **options):
  sampling = rejection and RejectionSamplingConfig(**rejection)
  return differentiate(
      lambda log_probs: functional.ppo_actor_loss_fn(
          log_probs, x["old_log_probs"], x["sampler_log_probs"], x["advantages"],
          loss_mask=x["mask"], rejection_sampling=sampling, **options)[0], x["log_probs"])


def value_loss(x, *, clip, kind):
  return differentiate(
      lambda values: functional.ppo_critic_loss_fn(
          values, x["old_values"], x["returns"], clip, x["mask"], kind)[0], x["values"])


def preference(x, *, beta, kind):
  """The sum of the losses of log-probs [2, B]."""
  reference = x["ref_pairs"][0] - x["ref_pairs"][1]
  return differentiate(
      lambda both: functional.dpo_preference_loss(
          both[0] - both[1] - reference, beta=beta, loss_type=kind).sum(), x["pairs"])


def kl(x, *, estimator, clamp):
  estimate = data.KLEstimator(estimator, clamp)
  return differentiate(
      lambda log_probs: (estimate(log_probs, x["ref_log_probs"]) * x["mask"]).sum(),
      x["log_probs"])
