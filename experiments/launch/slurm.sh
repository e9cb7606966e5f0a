#!/bin/bash
# A run on the GPUs of a SLURM cluster, one process for each GPU, that is requeued when it is
# preempted or reaches its time limit.
#
#   sbatch --nodes=4 experiments/launch/slurm.sh --config=grpo_math --workdir=/shared/runs/a
#
# The workdir is on a file system that all nodes share. Two minutes before the limit, and at a
# preemption, SLURM sends SIGTERM to the processes: they save, end with 143, and the job is queued
# again; it resumes where it stopped.
#SBATCH --job-name=rlreason
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
srun --kill-on-bad-exit=0 rlreason train --coordinator=auto "$@"
code=$?
if [ "$code" = 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
