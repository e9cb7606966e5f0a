#!/bin/bash
# A run on all hosts of a TPU slice, or on a single TPU VM, started from anywhere with gcloud.
#
#   experiments/launch/tpu_slice.sh NAME ZONE --config=rlsp_llama31_8b --workdir=/mnt/runs/a
#
# rlreason is installed on each host: `pip install 'rlreason[tpu]'`, or from a checkout
# `pip install -e '.[tpu]'`. The workdir, and the data and models, are on a file system that all hosts
# mount (Filestore, or a bucket through gcsfuse). The same command resumes a run.
set -eu
name=${1:?usage: tpu_slice.sh NAME ZONE FLAGS OF rlreason train}; zone=${2:?ZONE is missing}; shift 2
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="rlreason train --coordinator=auto $(printf '%q ' "$@")"
