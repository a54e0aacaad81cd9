"""Weights out: files that timm, detectron2, mmsegmentation and the official code load."""

import dataclasses
from pathlib import Path

from hpm_jax.convert.files import write_file
from hpm_jax.convert.state_dict import to_state_dict, without_decoder
from hpm_jax.convert.weights import Weights


def write_weights(path: str | Path, weights: Weights, names: str = "timm") -> None:
    """Writes `.safetensors`, `.npz`, or `.pth` (needs torch) with `{"model": state dict}`.

    Each carries the architecture beside the weights, so that reading it again asks for nothing.

    Args:
        names: "timm", the encoder or classifier; "hpm", the whole pre-training model.

    Raises:
        WeightsError: for another ending, and for "hpm" without a decoder.
    """
    state = to_state_dict(weights, names)
    architecture = weights.architecture
    if names == "timm":
        architecture = without_decoder(architecture)
    write_file(Path(path), state, dataclasses.asdict(architecture))
