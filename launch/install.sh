#!/usr/bin/env bash
# Makes a virtual environment for this checkout, on the machine that will run it; again is quick.
#
#   bash launch/install.sh tpu hpm_jax_venv    # or cuda13, cuda12, cpu: the kind of jax

set -euo pipefail
if (($# != 2)); then
  echo "error: expected the kind of jax (tpu, cuda13, cuda12, cpu) and a folder for the" \
    "environment, as in: bash launch/install.sh tpu hpm_jax_venv" >&2
  exit 2
fi
requirements=$(dirname "${BASH_SOURCE[0]}")/../requirements.txt

# uv brings its own Python: the images of TPU VMs have 3.10. A fixed version, from the package index
export PATH=$PATH:$HOME/.local/bin
command -v uv > /dev/null || python3 -m pip install --quiet --user uv==0.13.9
uv venv --quiet --allow-existing --python 3.12 "$2"
uv pip install --quiet --python "$2/bin/python" -r "$requirements" "jax[$1]"
