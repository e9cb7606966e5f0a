#!/bin/bash
# Runs `rlreason train` in several processes of this machine, one for each GPU, or to try a cluster's
# launch on a CPU.
#
#   experiments/launch/local.sh 2 --config=grpo_gsm8k --workdir=runs/a
#
# With GPUs, process i gets GPU i. SIGTERM and Ctrl-C go to all, which save and end together.
set -u
count=${1:?usage: local.sh COUNT FLAGS OF rlreason train}; shift
port=${PORT:-$((20000 + RANDOM % 10000))}
processes=()
for ((i = 0; i < count; i++)); do
  if [ -e /dev/nvidia0 ]; then export CUDA_VISIBLE_DEVICES=$i; fi
  rlreason train "$@" --coordinator="127.0.0.1:$port" --num-processes="$count" --process="$i" &
  processes+=($!)
done
trap 'kill -TERM "${processes[@]}" 2>/dev/null' TERM INT
code=0
for process in "${processes[@]}"; do
  while wait "$process"; ended=$?; kill -0 "$process" 2>/dev/null; do :; done  # a trap ends a wait
  if [ "$ended" != 0 ]; then code=$ended; fi
done
exit "$code"
