#!/usr/bin/env bash
# Makes .peers/formulas, the environment of the released functions that formulas.py compares with:
# TRL whole, and of verl, OpenRLHF, AReaL, Tunix, RLax and SkyRL the packages without the engines, clusters
# and kernels that they list as requirements and that these functions do not touch.
# Run once: bash benchmarks/formula_peers.sh   (PYTHON names another interpreter than python3; of
# 3.11 or 3.12, for which OpenRLHF has wheels; SkyRL asks for 3.12, but not in what is used here)
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
FOLDER=.peers/formulas

[ -e "$FOLDER/ready.stamp" ] && { echo "$FOLDER is there"; exit; }
echo "making $FOLDER"
rm -rf "$FOLDER"
"$PYTHON" -m venv "$FOLDER"
PIP=("$FOLDER/bin/python" -m pip -qq --disable-pip-version-check install)
"${PIP[@]}" torch==2.13.0
"${PIP[@]}" trl==1.16.0 transformers==5.23.0 tensordict==0.10.0 hydra-core==1.3.8 codetiming \
  jax==0.10.2 flax==0.12.8 chex==0.1.92 jaxtyping==0.3.11
"${PIP[@]}" --no-deps verl==0.9.1 openrlhf==0.11.2 areal==1.0.4 google-tunix==0.1.7 rlax==0.1.9
"${PIP[@]}" --no-deps --ignore-requires-python skyrl==0.4.0
touch "$FOLDER/ready.stamp"
