"""Results of the recipes of this folder on their test bed: avg@8 in %, by seed (docs/results.md).

Three seeds continued from one supervised start, which a run of a recipe trains itself.
"""

from ml_collections import config_dict

from rlreason.evaluation import metrics

_PROBLEMS = 200
# Run of miniatures.py -> avg@8 with the seeds 0, 1 and 2.
MEASURED = {
    "no training": (39.8, 35.6, 38.0),
    "GRPO": (94.1, 93.6, 91.3),
    "Dr. GRPO": (92.9, 93.0, 87.1),
    "DAPO": (97.9, 97.1, 97.8),
    "GSPO": (92.9, 92.7, 82.5),
    "PPO": (94.3, 94.8, 90.9),
    "VAPO": (85.1, 91.0, 84.0),
    "RLOO": (94.0, 91.8, 92.7),
    "ReMax": (91.0, 91.0, 87.6),
    "REINFORCE++": (94.1, 92.0, 94.1),
    "R1-Zero": (89.4, 93.0, 90.1),
    "T1": (89.1, 93.6, 95.7),
    "DASH": (93.8, 93.8, 94.4),
    "LaTRO": (88.1, 85.5, 81.9),
    "one example": (56.2, 54.2, 37.4),
    "expert iteration": (87.8, 86.4, 85.8),
    "PPO of RLHF": (39.6, 38.4, 34.9),
    "R1": (94.6, 93.6, 94.2),
    "DPO": (63.7, 64.6, 60.8),
    "IPO": (62.6, 64.4, 60.1),
    "KTO": (64.5, 62.6, 61.8),
    "ORPO": (77.8, 77.0, 77.3),
    "SimPO": (62.2, 62.5, 58.1),
    "CISPO": (64.9, 87.1, 84.2),
    "OPO": (94.4, 94.1, 93.4),
    "pass@4": (84.1, 79.4, 79.3),
    "Clip-Cov": (82.9, 86.6, 79.9),
    "KL-Cov": (91.6, 86.9, 87.4),
    "REINFORCE++-baseline": (94.4, 93.4, 92.3),
}


def expect(config: config_dict.ConfigDict, run: str, recipe: str, start: str) -> None:
  """Adds to a config the results of a run of the recipe after its first and its last stage.

  Args:
    config: complete except for these.
    run: a key of `MEASURED`.
    recipe: the value of --config for this config.
    start: of the recipe; with a policy of the user there is no expected result.
  """
  if start:
    return
  config.evaluation.expected = dict(
      metric="avg@8", recipe=recipe, num_problems=_PROBLEMS,
      points={config.stages[0]: _band("no training"), config.stages[-1]: _band(run)},
      source="3 seeds from one supervised start, docs/results.md")


def _band(run: str) -> tuple[float, float]:
  """From the lowest to the highest end of the 95% intervals, in [0, 1]."""
  ends = [metrics.share_of(percent / 100, _PROBLEMS) for percent in MEASURED[run]]
  return min(end["low"] for end in ends), max(end["high"] for end in ends)
