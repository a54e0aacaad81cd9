"""Saves evidence of a diverged step: its batch, image names, and statistics of every tensor."""

import io
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.data.records import Records
from hpm_jax.run.processes import is_main
from hpm_jax.storage import write


def keep_evidence(
    workdir: Path,
    step: int,
    numbers: dict[str, float],
    batch: dict[str, np.ndarray],
    records: Records,
    tensors: Any,
) -> Path:
    """Writes `diverged/<step>/`, with the information for finding the cause.

    - `what_<process>.json`: the numbers of the step, and the names of its images, in the order
      of the batch;
    - `batch_<process>.npz`: the arrays of the batch, as used in the step;
    - `tensors.json`: for every array of the state after the step its norm, its largest absolute
      value, and the number of values that are not finite.

    Args:
        step: number of the step, from 1.
        numbers: metrics and schedule of the step.
        batch: the rows that this process has loaded, with `index` of each image.
        records: the training images, which provide the names.
        tensors: from `describe_tensors`.
    """
    folder = workdir / "diverged" / f"step_{step:07d}"
    folder.mkdir(parents=True, exist_ok=True)
    names = [records.name(int(index)) for index in batch["index"]]
    what = {"step": step, "numbers": _readable(numbers), "images": names}
    packed = io.BytesIO()
    np.savez_compressed(packed, **batch)  # type: ignore[arg-type]
    process = jax.process_index()
    write(folder / f"batch_{process}.npz", packed.getvalue())
    write(folder / f"what_{process}.json", json.dumps(what, indent=2) + "\n")
    if is_main():
        write(folder / "tensors.json", json.dumps(tensors, indent=2) + "\n")
    return folder


class Tensor(NamedTuple):
    """Statistics of the finite values of one array: scalars."""

    norm: Any
    largest: Any
    not_finite: Any  # number of values left out


def describe_tensors(state: Any) -> dict[str, dict[str, Any]]:
    """Returns norm, largest absolute value and non-finite count of every array, by path."""

    @jax.jit
    def measure(state):
        def of(x):
            x = x.astype(np.float32)
            whole = jnp.isfinite(x)
            finite = jnp.where(whole, x, 0.0)
            return Tensor(
                norm=jnp.sqrt(jnp.sum(finite**2)),
                largest=jnp.max(jnp.abs(finite), initial=0.0),
                not_finite=jnp.sum(~whole),
            )

        return jax.tree.map(of, state)

    found = jax.device_get(measure(state))
    leaves = jax.tree_util.tree_leaves_with_path(found, is_leaf=lambda x: isinstance(x, Tensor))
    return {
        jax.tree_util.keystr(path): _readable({k: v.item() for k, v in tensor._asdict().items()})
        for path, tensor in leaves
    }


def _readable(numbers: dict[str, Any]) -> dict[str, Any]:
    """Converts values that JSON cannot represent to words."""
    return {name: x if math.isfinite(x) else str(x) for name, x in numbers.items()}
