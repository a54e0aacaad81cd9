#!/usr/bin/env bash
#SBATCH --job-name=hpm_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=%x_%j.log
#
# A run on a SLURM cluster, from the checkout, on a folder that all nodes share:
#
#   sbatch --nodes=2 --ntasks-per-node=8 --gres=gpu:8 launch/slurm.sh \
#     --config configs/hpm_in1k.py:L --workdir /shared/runs/hpm_l
#
# sbatch's own options (also --time, --partition) stand before the script's name, the run's behind
# it. PYTHON is the interpreter (else `python`); sbatch takes the environment along.
#
# One process for each GPU, so that each has its own cores for decoding and its own Python. Ask for
# GPUs by --gres, not by --gpus-per-task: jax picks the GPU of a process by its SLURM_LOCALID and so
# must see all of the node's, and NCCL needs them for direct copies.
#
# Two minutes before the time limit SLURM sends SIGTERM to the processes: the run saves, ends with
# 143, and is queued again, to go on from there. The same where SLURM preempts a job with notice.
#
# Forgotten: the job ends with the run. Until then `scancel JOB` gives the GPUs back; it does not
# queue the job again.

set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 1
}

[[ -n ${SLURM_JOB_ID:-} ]] || fail "start this with sbatch, as its first lines show"
[[ -f hpm_jax/main.py ]] || fail "$PWD is not the checkout: start sbatch there"
(($# > 0)) || fail "the arguments of hpm_jax.main are missing, as in:" \
  "sbatch launch/slurm.sh --config configs/hpm_in1k.py:L --workdir /shared/runs/hpm_l"
gpus=${SLURM_GPUS_ON_NODE:-$SLURM_NTASKS_PER_NODE} # unset where there are none
((gpus == SLURM_NTASKS_PER_NODE)) || fail "$SLURM_NTASKS_PER_NODE processes for $gpus GPUs on a" \
  "node: give sbatch --ntasks-per-node=$gpus, or another --gres"

# srun does not take --cpus-per-task from sbatch. A process that ends leaves the others two minutes:
# the first may still be writing the checkpoint.
code=0
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 --wait=120 \
  "${PYTHON:-python}" -m hpm_jax.main "$@" || code=$?

# A job that somebody cancelled is COMPLETING by now, and is left alone.
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
if ((code == 143)) && [[ $state == RUNNING ]]; then
  echo "saved; the job is queued again and will go on from here"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
