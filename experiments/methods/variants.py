"""Methods that differ from GRPO in a single slot; the argument names the preset.

    rlreason train --config=experiments/methods/variants.py:cispo --workdir=runs/cispo

cispo (https://arxiv.org/abs/2506.13585), opo (https://arxiv.org/abs/2505.23585), pass_at_k
(https://arxiv.org/abs/2508.10751), clip_cov and kl_cov (https://arxiv.org/abs/2505.22617),
reinforce_plus_plus_baseline (https://arxiv.org/abs/2501.03262). A model to start from follows after
a comma.

Settings of the papers: cispo bounds the ratio only from above; opo updates once for each rollout,
without KL or entropy; pass_at_k rewards 4 completions together; clip_cov removes the gradient of
0.02% of the tokens, with covariances from 1 to 5, kl_cov penalises the 0.2% with the highest.
Expected on this test bed, from 38% of samples right: 79%, 94%, 81%, 83%, 89% and 93%.

Other trust regions: sapo (https://arxiv.org/abs/2511.20347), gmpo
(https://arxiv.org/abs/2507.20673), two_sided_clip (https://arxiv.org/abs/2505.07291), luspo
(https://arxiv.org/abs/2602.05261), cispo_wide as in ScaleRL (https://arxiv.org/abs/2510.13786),
dppo_tv and dppo_kl (https://arxiv.org/abs/2602.04879), vespo (https://arxiv.org/abs/2602.10693).
Stale or mismatched data: masked_sequences, and deepseek_v3_2 (https://arxiv.org/abs/2512.02556).
Other advantages: max_rl and max_rl_g, its other order (https://arxiv.org/abs/2602.02710), gdpo
(https://arxiv.org/abs/2601.05242). Fewer tokens: top_entropy (https://arxiv.org/abs/2506.01939).
Without labels: ttrl (https://arxiv.org/abs/2504.16084), GRPO with the vote of the group as the
reward, and rlpr (https://arxiv.org/abs/2506.18254), with the mean probability of the answer after
the reasoning as the reward.

Settings: those of released code, which are the defaults of the presets; cispo_wide has weights up
to 5, two_sided_clip ratios of bad tokens up to 4; gdpo has rewards of the verifier and of the
format; ttrl votes with 64 completions in the paper, with 8 here; the reward of rlpr is 0.9 for the
probability and 0.1 for the format there, and as 1 to 1/9 here.
Four minibatches of a rollout if the method is about drift. Expected on this test bed, from 38% of
samples right: max_rl, max_rl_g, gdpo, dppo_tv and top_entropy 89% to 90%, luspo 88%, dppo_kl 86%,
cispo_wide 85%, sapo 77%, rlpr 71%, ttrl 53% (two seeds); two_sided_clip and vespo 88%,
deepseek_v3_2 87%, gmpo 83%, and masked_sequences in bfloat16 90% (one seed). docs/results.md also
has them with 16 updates of each rollout.
"""

import bands
import beds

from rlreason.algorithms import presets

PRESETS = {
    "cispo": lambda: presets.cispo(minibatch_size=32),
    "opo": lambda: presets.opo(minibatch_size=128),
    "pass_at_k": lambda: presets.pass_at_k(k=4, minibatch_size=128),
    "clip_cov": lambda: presets.clip_cov(minibatch_size=32),
    "kl_cov": lambda: presets.kl_cov(minibatch_size=32),
    "reinforce_plus_plus_baseline": lambda: presets.reinforce_plus_plus_baseline(
        minibatch_size=128),
    "sapo": lambda: presets.sapo(minibatch_size=32),
    "gmpo": lambda: presets.gmpo(minibatch_size=32),
    "two_sided_clip": lambda: presets.two_sided_clip(delta=4.0, minibatch_size=32),
    "luspo": lambda: presets.luspo(minibatch_size=32),
    "cispo_wide": lambda: presets.cispo(max_weight=5.0, minibatch_size=32),
    "max_rl": lambda: presets.max_rl(minibatch_size=128),
    "max_rl_g": lambda: presets.max_rl(order="G", minibatch_size=128),
    "masked_sequences": lambda: presets.masked_sequences(minibatch_size=32),
    "deepseek_v3_2": lambda: presets.deepseek_v3_2(minibatch_size=32, kl_coef=0.01),
    "top_entropy": lambda: presets.top_entropy(minibatch_size=32),
    "gdpo": lambda: presets.gdpo(minibatch_size=128),
    "dppo_tv": lambda: presets.dppo(minibatch_size=32),
    "dppo_kl": lambda: presets.dppo(divergence="kl", minibatch_size=32),
    "vespo": lambda: presets.vespo(minibatch_size=32),
    "ttrl": lambda: presets.grpo(minibatch_size=128, kl_coef=0.01),
    "rlpr": lambda: presets.rlpr(minibatch_size=128)}
STAGES = {
    "gdpo": dict(rewards=dict(verifier=dict(weight=1.0), format=dict(weight=0.5))),
    # The verifier is only logged.
    "ttrl": dict(rewards=dict(majority=dict(weight=1.0), verifier=dict(weight=0.0))),
    "rlpr": dict(answer_template="\\boxed{ {answer} }", rewards=dict(
        format=dict(weight=0.1 / 0.9), verifier=dict(weight=0.0)))}

RUNS = {  # those that were run on this test bed
    "cispo": "CISPO", "opo": "OPO", "pass_at_k": "pass@4", "clip_cov": "Clip-Cov",
    "kl_cov": "KL-Cov", "reinforce_plus_plus_baseline": "REINFORCE++-baseline"}


def get_config(argument="cispo"):
  name, _, start = argument.partition(",")
  if name not in PRESETS:
    raise ValueError(f"variants.py: got {name!r}, allowed: {', '.join(PRESETS)}")
  config = beds.chain(start)
  config.rl = beds.rl(PRESETS[name](), **STAGES.get(name, {}))
  if name in RUNS:
    bands.expect(config, RUNS[name], f"methods/variants:{name}", start)
  return config
