"""Writes weights to files for timm, detectron2, mmsegmentation and the official codes."""

from pathlib import Path

from hpm_jax.convert.files import write_file
from hpm_jax.convert.state_dict import part_of, to_state_dict
from hpm_jax.convert.weights import Weights


def write_weights(path: str | Path, weights: Weights, names: str | None = None) -> None:
    """Writes `.safetensors`, `.npz`, or `.pth` (needs torch) with `{"model": state dict}`.

    Each file also has the architecture, so that it can be read without further arguments.

    Args:
        names: "timm" for images, "videomae" or "mae_st" for videos, "hpm" for a whole pre-training
            model, see `part_of`; None goes by the layout.

    Raises:
        WeightsError: for another ending, and for names that do not fit.
    """
    state = to_state_dict(weights, names)
    write_file(Path(path), state, part_of(weights.architecture, names).note)
