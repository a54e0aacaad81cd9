#!/usr/bin/env bash
# A spot TPU slice from the queue, that comes back by itself after a preemption and goes on.
#
#   export NAME=hpm ZONE=us-west4-a ACCELERATOR_TYPE=v5litepod-16 WORKDIR=gs://bucket/runs/hpm_l
#   launch/tpu_queued.sh create -- --config configs/hpm_in1k.py:L
#   launch/tpu_queued.sh watch
#   launch/tpu_queued.sh logs
#   launch/tpu_queued.sh delete
#
# create  Copies the code and the command into $WORKDIR/launch, and asks for a slice. Every worker
#         installs that code and runs `python -m hpm_jax.main` with what follows -- and --workdir.
# watch   Looks every INTERVAL seconds (60). A slice that was preempted, or that never came, is
#         asked for again; it goes on from the newest checkpoint. Ends, and deletes the slice, when
#         the run has. Keep it alive (tmux, or a small VM); started again it goes on watching.
# logs    Follows worker 0, or WORKER=3, or WORKER=all.
# delete  Ends the request, the slice and the bill. What $WORKDIR holds stays.
#
# Further arguments of create (before --) and of watch go to gcloud: --service-account=...
# Optional: PROJECT, RUNTIME_VERSION, REPOSITORY and BRANCH (else this checkout is copied).
#
# Forgotten: every chip is billed by the hour while the slice is there, at work or not. A watch that
# is left alone deletes it at the end of the run; without watch, nothing does.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/tpu.sh"

queue=(gcloud compute tpus queued-resources)

say() {
  echo "$(date +%T) $*"
}

need_workdir() {
  need WORKDIR=gs://bucket/runs/hpm_l
  [[ $WORKDIR == gs://?* ]] ||
    fail "WORKDIR is '$WORKDIR'; a run that comes back on other machines needs a gs:// path"
  files=${WORKDIR%/}/launch
}

# ABSENT, or a state such as WAITING_FOR_RESOURCES, ACTIVE or SUSPENDED.
state() {
  local states
  states=$("${queue[@]}" list "${place[@]}" --format='value(name.basename(), state.state)') ||
    return
  awk -v wanted="$NAME" '$1 == wanted { found = $2 } END { print found ? found : "ABSENT" }' \
    <<< "$states"
}

# What every worker does when it boots, as root: install, run, and leave word of how it ended.
startup_script() {
  cat << END
#!/bin/bash
export HOME=/root PATH=\$PATH:/snap/bin
cd /root && exec >> hpm_jax.log 2>&1

run() {
  rm -rf hpm_jax && mkdir hpm_jax &&
    gcloud storage cp $(printf %q "$files/code.tar.gz") hpm_jax.tar.gz &&
    tar -xzf hpm_jax.tar.gz -C hpm_jax &&
    bash hpm_jax/launch/install.sh tpu hpm_jax_venv &&
    (cd hpm_jax && exec ../hpm_jax_venv/bin/python -m hpm_jax.main $(printf '%q ' "$@"))
}

for attempt in 1 2 3; do
  run
  code=\$?
  # 143: the machine is told to go; where it stays after all, so does the run
  while ((code == 143)); do sleep 30; run; code=\$?; done
  ((code == 0)) && break
  echo "attempt \$attempt ended with exit code \$code"
  sleep 30
done
attributes=http://metadata.google.internal/computeMetadata/v1/instance/attributes
worker=\$(curl -s -H 'Metadata-Flavor: Google' \$attributes/agent-worker-number)
gcloud storage cp hpm_jax.log $(printf %q "$files")/log_\$worker.txt
((worker == 0)) && echo "\$code" | gcloud storage cp - $(printf %q "$files/exit_code")
END
}

ask() {
  "${queue[@]}" create "$NAME" "${place[@]}" --node-id="$NAME" --spot \
    --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$(runtime_version)" \
    --metadata-from-file=startup-script="$temporary/startup.sh" "$@"
}

create() {
  need ACCELERATOR_TYPE=v5litepod-16
  need_workdir
  local options=()
  while (($# > 0)) && [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  (($# > 1)) || fail "create needs the arguments of hpm_jax.main after --," \
    "as in: launch/tpu_queued.sh create -- --config configs/hpm_in1k.py:L"
  shift
  local now
  now=$(state)
  [[ $now == ABSENT ]] || fail "$NAME is there already, $now: watch it, or delete it"

  pack "$temporary/code.tar.gz"
  startup_script "$@" --workdir="$WORKDIR" > "$temporary/startup.sh"
  gcloud storage cp "$temporary/code.tar.gz" "$temporary/startup.sh" "$files/"
  gcloud storage rm "$files/exit_code" 2> /dev/null || true
  ask ${options[@]+"${options[@]}"}
  echo "$NAME is billed by the chip and hour once it is there; now: launch/tpu_queued.sh watch"
}

replace() {
  delete && ask "$@"
}

watch() {
  need ACCELERATOR_TYPE=v5litepod-16
  need_workdir
  gcloud storage cp "$files/startup.sh" "$temporary/" ||
    fail "$files/startup.sh cannot be read; launch/tpu_queued.sh create makes it"
  local code now last=""
  while true; do
    if code=$(gcloud storage cat "$files/exit_code" 2> /dev/null); then
      [[ $(state) == ABSENT ]] || delete
      say "the run has ended with exit code $code, and $NAME is deleted"
      ((code == 0)) || fail "its log is in $files/log_*.txt"
      exit 0
    fi
    now=$(state) || now="out of reach"
    [[ $now == "$last" ]] || say "$NAME: $now"
    last=$now
    case $now in
      SUSPENDED | FAILED) replace "$@" || say "that failed, and will be tried again" ;;
      ABSENT) ask "$@" || say "that failed, and will be tried again" ;;
    esac
    sleep "${INTERVAL:-60}"
  done
}

logs() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --worker="${WORKER:-0}" \
    --command="sudo tail -n 100 -F /var/log/hpm_jax.log"
}

delete() {
  "${queue[@]}" delete "$NAME" "${place[@]}" --force --quiet
}

case $1 in
  create | watch | logs | delete) "$@" ;;
  *) fail "there is no '$1'; expected create, watch, logs or delete" ;;
esac
