# shellcheck shell=bash
# What tpu_vm.sh and tpu_queued.sh share; they read it with `source`.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

fail() {
  echo "error: $*" >&2
  exit 1
}

# need NAME=example ...: ends where one of these environment variables is not set.
need() {
  local item variable
  for item; do
    variable=${item%%=*}
    [[ -n ${!variable:-} ]] || fail "$variable is not set; for example: export $item"
  done
}

# The image that a slice boots, by its kind; RUNTIME_VERSION overrides it.
runtime_version() {
  case $ACCELERATOR_TYPE in
    v5litepod-*) echo "${RUNTIME_VERSION:-v2-alpha-tpuv5-lite}" ;;
    v5p-*) echo "${RUNTIME_VERSION:-v2-alpha-tpuv5}" ;;
    v6e-*) echo "${RUNTIME_VERSION:-v2-alpha-tpuv6e}" ;;
    *) echo "${RUNTIME_VERSION:-tpu-ubuntu2204-base}" ;;
  esac
}

# pack FILE: the code that will run, of REPOSITORY (and its BRANCH) or else of this checkout.
pack() {
  local folder=$checkout
  if [[ -n ${REPOSITORY:-} ]]; then
    folder=$temporary/clone
    git clone --quiet --depth 1 ${BRANCH:+--branch "$BRANCH"} "$REPOSITORY" "$folder"
  fi
  COPYFILE_DISABLE=1 tar -czf "$1" --exclude __pycache__ -C "$folder" \
    hpm_jax configs launch requirements.txt
}

if (($# == 0)); then
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0" # the comment at the top of the script
  exit 2
fi
need NAME=hpm ZONE=us-west4-a
place=(--zone "$ZONE")
[[ -z ${PROJECT:-} ]] || place+=(--project "$PROJECT")
