#!/usr/bin/env bash
# A TPU VM slice, from its creation to its end; every worker runs the same command.
#
#   export NAME=hpm ZONE=us-west4-a ACCELERATOR_TYPE=v5litepod-16
#   launch/tpu_vm.sh up -- --config configs/hpm_in1k.py:L --workdir gs://bucket/runs/hpm_l
#
# or one by one:
#
#   launch/tpu_vm.sh create
#   launch/tpu_vm.sh install
#   launch/tpu_vm.sh run -- --config configs/hpm_in1k.py:L --workdir gs://bucket/runs/hpm_l
#   launch/tpu_vm.sh logs
#   launch/tpu_vm.sh stop
#   launch/tpu_vm.sh delete
#
# up       create (unless the slice is there), install and run in one.
# create   Further arguments go to gcloud: create --spot --service-account=...
# install  Copies the code and installs it; again after a change.
# run      Starts `python -m hpm_jax.main` with what follows --, detached from this terminal. Where
#          the workdir holds a checkpoint the run goes on from there.
# logs     Follows worker 0, or WORKER=3, or WORKER=all.
# stop     SIGTERM: the run saves and ends. The slice stays.
# delete   Ends the bill.
#
# Optional: PROJECT, RUNTIME_VERSION, REPOSITORY and BRANCH (else this checkout is copied).
#
# Forgotten: every chip is billed by the hour from create to delete, at work or not.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"

# on WORKER COMMAND
on() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker="$1" --command="$2"
}

# The lock is held by the run itself, so it goes when the run goes, however that ends.
refuse_while_running() {
  on all "flock --nonblock hpm_jax.lock true || { echo 'a run is going on here' >&2; exit 1; }" ||
    fail "$NAME is busy or out of reach; launch/tpu_vm.sh stop ends a run"
}

create() {
  need ACCELERATOR_TYPE=v5litepod-16
  gcloud compute tpus tpu-vm create "$NAME" "${place[@]}" \
    --accelerator-type="$ACCELERATOR_TYPE" --version="$(runtime_version)" "$@"
  echo "$NAME is billed by the chip and hour from now on, until: launch/tpu_vm.sh delete"
}

install() {
  refuse_while_running
  pack "$temporary/hpm_jax.tar.gz"
  gcloud compute tpus tpu-vm scp "$temporary/hpm_jax.tar.gz" "$NAME:" "${place[@]}" --worker=all
  on all "rm -rf hpm_jax && mkdir hpm_jax && tar -xzf hpm_jax.tar.gz -C hpm_jax &&
    bash hpm_jax/launch/install.sh tpu hpm_jax_venv"
}

run() {
  [[ ${1:-} == -- && $# -gt 1 ]] || fail "run needs the arguments of hpm_jax.main after --," \
    "as in: launch/tpu_vm.sh run -- --config configs/hpm_in1k.py:L --workdir gs://bucket/runs/hpm_l"
  shift
  refuse_while_running
  on all "cd hpm_jax || exit; setsid flock --nonblock --no-fork ../hpm_jax.lock \
    ../hpm_jax_venv/bin/python -m hpm_jax.main $(printf '%q ' "$@") \
    >> ../hpm_jax.log 2>&1 < /dev/null & echo \$! > ../hpm_jax.pid"
  echo "started on all workers of $NAME; follow it with: launch/tpu_vm.sh logs"
}

# What stands before -- goes to gcloud, what stands behind it to the run.
up() {
  local options=()
  while [[ $# -gt 0 && $1 != -- ]]; do options+=("$1") && shift; done
  if ! gcloud compute tpus tpu-vm describe "$NAME" "${place[@]}" > "$temporary/slice" 2>&1; then
    create "${options[@]}"
  fi
  install
  run "$@"
}

logs() {
  on "${WORKER:-0}" "tail -n 100 -F hpm_jax.log"
}

stop() {
  on all "if flock --nonblock hpm_jax.lock true; then echo 'no run is going on here'
    else xargs kill -TERM < hpm_jax.pid; fi"
}

delete() {
  gcloud compute tpus tpu-vm delete "$NAME" "${place[@]}" --quiet
}

case $1 in
  up | create | install | run | logs | stop | delete) "$@" ;;
  *) fail "there is no '$1'; expected up, create, install, run, logs, stop or delete" ;;
esac
