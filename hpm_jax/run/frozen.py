"""What a run has of weights that are in no checkpoint: their digest, in `frozen.json`."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hpm_jax.errors import ConfigError
from hpm_jax.run.processes import is_main
from hpm_jax.storage import write
from hpm_jax.text_files import read_json


def check_frozen(workdir: Path, frozen: dict[str, Any]) -> None:
    """Writes `frozen.json`, or compares with what is there; without frozen weights neither.

    Args:
        frozen: by slot, from `load_frozen`.

    Raises:
        ConfigError: where the weights are not those that the run began with.
    """
    if not frozen:
        return
    there, now = workdir / "frozen.json", {slot: sha256(tree) for slot, tree in frozen.items()}
    if there.exists():
        before = read_json(there, ConfigError, "delete it to go on with the weights of today")
        for slot in now:
            if before.get(slot) != now[slot]:
                plugs = ("mask", "target", "objective", "teacher")
                name = f"config.{slot}" if slot in plugs else f"{slot} in config.losses"
                raise ConfigError(
                    f"the frozen weights of {name} are not those that the run in {workdir} "
                    f"began with (SHA-256 {now[slot]}, and then {before.get(slot)}): put the file "
                    "back, or start afresh with another --workdir"
                )
    if is_main():
        write(there, json.dumps(now, indent=2) + "\n")


def sha256(tree: Any) -> str:
    """The first 16 digits of a digest of all arrays of a tree, with their names and shapes."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]
