"""The encoder for detectron2's ViTDet: weights under its names, and options that describe it."""

import dataclasses
from pathlib import Path

import numpy as np

from hpm_jax.convert.about import About
from hpm_jax.convert.files import write_file
from hpm_jax.convert.state_dict import part_of, to_state_dict
from hpm_jax.convert.weights import Architecture, Weights, WeightsError, check_plain
from hpm_jax.models.mlp import inner_width
from hpm_jax.models.windows import global_indices
from hpm_jax.storage import write

PREFIX = "backbone.net."  # of the vision transformer in detectron2's models
UNUSED = ("cls_token", "norm.", "fc_norm.", "head.")
FILES = ("model.pth", "overrides.txt")
WINDOW, GLOBAL_BLOCKS = 14, 4  # of ViTDet's recipes
IMAGE = 1024  # side of their crops


def detectron2_state(weights: Weights) -> dict[str, np.ndarray]:
    """Returns float32 arrays by the names of `detectron2.modeling.ViT` in a detector.

    ViTDet has neither cls token nor last norm; its positions keep the row of the cls token, where
    there is one. Relative positions are not among them: detectron2 starts them at zero.

    Raises:
        WeightsError: for encoders of videos, of grids that are not square, or with options that
            detectron2's transformer does not have.
    """
    a = weights.architecture
    plain = dataclasses.replace(a, cls_token=True)
    advice = "take a plain vision transformer"
    check_plain(plain, "detectron2", advice)
    if a.layout != "mae" or a.tubelet > 1 or a.grid[0] > 1:
        raise WeightsError(f"detectron2 has no encoders of videos ({a.layout}): {advice}")
    if a.grid[1] != a.grid[2]:
        raise WeightsError(
            f"detectron2 resizes positions of a square, and these are of {a.grid[1]} x {a.grid[2]} "
            f"patches: {advice} of square images"
        )
    state = to_state_dict(weights, "timm")
    # a row of zeros for a cls token that is not there
    state["pos_embed"] = state["pos_embed"][:, -a.patches - a.cls_token :]
    return {PREFIX + name: value for name, value in state.items() if not name.startswith(UNUSED)}


def overrides(a: Architecture, known: About) -> list[str]:
    """Returns options for the command line of a lazy config such as ViTDet's, one in a line."""
    over_image = global_indices(a.depth, GLOBAL_BLOCKS)
    windowed = [index for index in range(a.depth) if index not in over_image]
    options = {
        "img_size": IMAGE,
        "patch_size": a.patch_size,
        "in_chans": a.channels,
        "embed_dim": a.width,
        "depth": a.depth,
        "num_heads": a.heads,
        "mlp_ratio": f"{inner_width(a.mlp, a.width, a.mlp_width) / a.width:g}",
        "window_size": WINDOW,
        "window_block_indexes": _list(windowed),
        "pretrain_img_size": a.grid[1] * a.patch_size,
        "pretrain_use_cls_token": a.cls_token,
    }
    lines = [f"model.backbone.net.{name}={value}" for name, value in options.items()]
    return [
        *lines,
        f"model.pixel_mean={_list([round(255 * x, 3) for x in known.mean])}",
        f"model.pixel_std={_list([round(255 * x, 3) for x in known.std])}",
    ]


def write_detectron2(path: Path, weights: Weights, known: About) -> list[str]:
    """Writes `model.pth` and `overrides.txt`; returns notes on what is not exported.

    Raises:
        WeightsError: see `detectron2_state`; and without torch.
    """
    state = detectron2_state(weights)
    part = part_of(weights.architecture, "timm")
    write_file(path / FILES[0], state, part.note)
    lines = [*overrides(part, known), f"train.init_checkpoint={path / FILES[0]}"]
    write(path / FILES[1], "\n".join(lines) + "\n")
    return ["cls token, last norm and heads are left out: ViTDet has none of them"]


def _list(values: list) -> str:
    return f"[{','.join(map(str, values))}]"
