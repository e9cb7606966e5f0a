"""Policy gradients for language models: one core whose slots make PPO, GRPO and their relatives.

Proximal policy optimisation (Schulman et al. 2017, https://arxiv.org/abs/1707.06347) with the
details of RLHF is the default: the reward of a completion sits on its last token, a per-token KL
penalty keeps the policy near a reference, and a critic spreads the reward over tokens. Without a
critic the scores of a group are each other's baseline (GRPO, https://arxiv.org/abs/2402.03300, and
others: `presets`). All epochs, minibatches and micro-batches of a step are scans inside one
compiled update.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from rlreason.algorithms import base
from rlreason.algorithms.policy_gradient import scoring
from rlreason.algorithms.policy_gradient.batch import make_batch
from rlreason.algorithms.policy_gradient.coefficients import moving_reference
from rlreason.algorithms.policy_gradient.config import PolicyGradientConfig
from rlreason.algorithms.policy_gradient.scoring import Spec
from rlreason.algorithms.policy_gradient.update import update_step
from rlreason.models import ModelConfig, init_value_head, lora
from rlreason.types import Params


def policy_gradient(
    config: PolicyGradientConfig, model: ModelConfig, optimizer: optax.GradientTransformation, *,
    temperature: float, group_size: int = 1, critic: ModelConfig | None = None,
    reference: ModelConfig | None = None, has_answers: bool = False,
) -> base.Algorithm:
  """The algorithm that a configuration describes.

  Args:
    config: settings.
    model: of the policy.
    optimizer: of all parameters.
    temperature: the rollouts were sampled at, > 0. Log-probs here use the same.
    group_size: completions of each prompt, next to each other in a rollout.
    critic: the model of a separate critic; None: as the policy.
    reference: the model of a reference that is not an earlier policy, such as a teacher.
    has_answers: what is given after the last action of a completion is the right answer, and its
      likelihood is a part of the score.

  Returns:
    The algorithm; its parameters are those of `init_rl_params`.

  Raises:
    ValueError: the temperature is not positive.
  """
  if temperature <= 0:
    raise ValueError(
        f"temperature: got {temperature}, allowed: above 0 (the gradient needs a distribution)")
  spec = Spec(config, model, critic or model, temperature, group_size, reference, has_answers)

  def init(params):
    state = base.init_state(params, optimizer, config.kl_coef, config.entropy_coef)
    return state.replace(reference=moving_reference(config, state.params))

  return base.Algorithm(
      init=init, score=functools.partial(scoring.score, spec),
      make_batch=functools.partial(make_batch, spec),
      update_step=functools.partial(update_step, spec, optimizer))


def init_rl_params(
    config: PolicyGradientConfig, model: ModelConfig, policy: Params, critic: Params | None = None
) -> Params:
  """Parameters of a state: {"policy"} and, with a critic, "value_head" or "critic".

  Args:
    config: settings.
    model: of the policy.
    policy: its parameters, taken over.
    critic: {"trunk", "value_head"} of a separate critic, taken over; None: a copy of the policy,
      with a head of zeros.
  """
  if not config.has_critic:
    return {"policy": policy}
  head = init_value_head(model.width)
  if config.critic == "shared":
    return {"policy": policy, "value_head": head}
  if critic is not None:
    return {"policy": policy, "critic": critic}
  # A copy, not an alias: a donated state must not hold one buffer twice. Where the policy has
  # adapters the critic has its own, on the same base.
  trunk = jax.tree.map(jnp.copy, lora.split(policy)[0])
  return {"policy": policy, "critic": {"trunk": trunk, "value_head": head}}
