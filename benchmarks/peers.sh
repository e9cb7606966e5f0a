#!/usr/bin/env bash
# Makes the environments of the programs that the benchmarks compare with, each by itself:
#   .peers/tunix   google-tunix 0.1.7 (with jax 0.10.2)      for rl_step.py
#   .peers/torch   PyTorch 2.13.0 on the CPU, transformers   for sampling.py
#   .peers/trl     TRL 1.16.0 with the same PyTorch          for grpo_smollm2.py
# Run once: bash benchmarks/peers.sh   (PYTHON names another interpreter than python3)
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

make_environment() {  # NAME PACKAGES... ; the first package is installed before the others
  local name=$1 folder=.peers/$1
  shift
  [ -e "$folder/ready.stamp" ] && { echo "$folder is there"; return; }
  echo "making $folder"
  rm -rf "$folder"
  "$PYTHON" -m venv "$folder"
  local pip=("$folder/bin/python" -m pip -qq --disable-pip-version-check install)
  "${pip[@]}" "$1"
  "${pip[@]}" "$@"
  touch "$folder/ready.stamp"
}

make_environment torch torch==2.13.0 transformers==5.23.0
make_environment tunix jax==0.10.2 google-tunix==0.1.7
make_environment trl torch==2.13.0 trl==1.16.0 transformers==5.23.0
