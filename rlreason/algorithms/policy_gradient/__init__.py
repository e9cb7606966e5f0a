"""One policy-gradient core; the methods of the literature are its settings (`presets`)."""

from rlreason.algorithms.policy_gradient.config import PolicyGradientConfig
from rlreason.algorithms.policy_gradient.update import (
    init_rl_params, minibatch_rows, policy_gradient)

__all__ = ["PolicyGradientConfig", "init_rl_params", "minibatch_rows", "policy_gradient"]
