"""A state dict of any known origin to `Weights`, every shape checked, and back."""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from hpm_jax.convert import hugging_face
from hpm_jax.convert.official import STACKS, shapes, to_official, to_params
from hpm_jax.convert.weights import (
    Architecture,
    Weights,
    WeightsError,
    check_positions,
    constant_positions,
)
from hpm_jax.models import SIZES

State = Mapping[str, np.ndarray]

# What wrappers put before a name; `vit.` before Hugging Face's is its own.
_WRAPPERS = ("module", "model", "backbone", "encoder", "_orig_mod")
_ANCHOR = re.compile(rf"((?:(?:{'|'.join(_WRAPPERS)})\.)*)(?:(?:vit\.)?embeddings\.)?cls_token")
NAMES = ("timm", "hpm")


def from_state_dict(
    state: State,
    heads: int | None = None,
    decoder_heads: int | None = None,
    grid: tuple[int, int] | None = None,
    drop: Sequence[str] = (),
) -> Weights:
    """Weights from arrays under the names of MAE, HPM, timm or Hugging Face.

    Sizes are read from the shapes. Heads are not in the shapes: those of the known sizes go by the
    width (`hpm_jax/models/sizes.py`), and others have 64 values each.

    Args:
        state: float arrays of any precision, by name; wrappers' prefixes may stand before it.
        heads: of the encoder, where the rule does not hold.
        decoder_heads: of the decoder, likewise; without it, an unknown decoder stays without.
        grid: rows and columns of patches, where they are not a square.
        drop: beginnings of names to leave out.

    Raises:
        WeightsError: names the keys, what they have and what was expected.
    """
    state = _strip_wrappers(state)
    if hugging_face.is_hugging_face(state):
        state = hugging_face.to_official_names(state)
    state = {name: value for name, value in state.items() if not name.startswith(tuple(drop))}
    architecture = _architecture(state, heads, decoder_heads, grid)
    expected = shapes(architecture)
    if architecture.decoder_width:
        length = 1 + architecture.patches
        expected["decoder_pos_embed"] = (1, length, architecture.decoder_width)
    _check_names(state, expected)
    for name, shape in expected.items():
        _check_array(name, state[name], shape)
    state = {name: np.asarray(state[name], np.float32) for name in expected}
    for name, value in state.items():
        if not np.isfinite(value).all():
            count = np.size(value) - np.isfinite(value).sum()
            raise WeightsError(f"{name} has {count} values that are infinite or not a number")
    if architecture.decoder_width:
        check_positions(
            "decoder_pos_embed",
            state.pop("decoder_pos_embed"),
            constant_positions(architecture.decoder_width, architecture.grid),
            "take the encoder alone (--drop decoder mask_token)",
        )
    return Weights(architecture, to_params(state))


def to_state_dict(weights: Weights, names: str) -> dict[str, np.ndarray]:
    """Official names and float32 arrays.

    Args:
        weights: from `from_state_dict`, `read_weights`, or made by hand.
        names: "timm" is the encoder, with the head where there is one, as a strict
            `timm.models.vision_transformer.VisionTransformer` wants it; "hpm" is the whole
            pre-training model, positions included.

    Raises:
        WeightsError: where "hpm" is asked of weights without a decoder.
    """
    architecture, params = weights
    if names not in NAMES:
        raise WeightsError(f"names {names!r} do not exist: choose from {', '.join(NAMES)}")
    if names == "timm":
        return to_official(params, without_decoder(architecture))
    if not architecture.decoder_width:
        raise WeightsError(
            'names "hpm" are for a whole pre-training model, and these weights have no decoder: '
            'use "timm"'
        )
    positions = constant_positions(architecture.decoder_width, architecture.grid)
    return to_official(params, architecture) | {"decoder_pos_embed": positions}


def without_decoder(a: Architecture) -> Architecture:
    """The architecture of the encoder, with the classifier's head where there is one."""
    return dataclasses.replace(
        a, decoder_width=0, decoder_depth=0, decoder_heads=0, loss_predictor=False
    )


def _strip_wrappers(state: State) -> State:
    """Names without what a wrapper put before them; the cls token shows what that is."""
    anchors = [name for name in state if re.search(r"(^|\.)cls_token$", name)]
    found = [match for name in anchors if (match := _ANCHOR.fullmatch(name))]
    if len(found) != 1:
        decoder = [name for name in state if name.startswith("decoder")]
        if not anchors and decoder:
            raise WeightsError(
                f"a decoder without an encoder ({_few(decoder)}): "
                "expected cls_token, patch_embed.proj.weight and blocks.*"
            )
        raise WeightsError(
            f"expected one cls_token, with nothing but {', '.join(_WRAPPERS)} before it; "
            f"found {_few(anchors) or 'none'} among {_few(state) or 'no names'}"
        )
    prefix = found[0].group(1)
    stripped = {name.removeprefix(prefix): value for name, value in state.items()}
    if len(stripped) < len(state):
        twice = [name for name in state if prefix + name in state]
        raise WeightsError(f"{_few(twice)} is there twice, with and without {prefix!r} before it")
    return stripped


def _architecture(
    state: State, heads: int | None, decoder_heads: int | None, grid: tuple[int, int] | None
) -> Architecture:
    """The sizes that a few tensors show; the others are checked against them."""
    needed = ["patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight"]
    has_decoder = any(name.startswith(("decoder_", "mask_token")) for name in state)
    if has_decoder:
        needed += ["decoder_embed.weight", "decoder_blocks.0.attn.qkv.weight"]
    if missing := [name for name in needed if name not in state]:
        raise WeightsError(f"{_few(missing)} is missing; the names found are {_few(state)}")
    patch, positions = state["patch_embed.proj.weight"].shape, state["pos_embed"].shape
    if len(patch) != 4 or patch[2] != patch[3]:
        raise WeightsError(
            f"patch_embed.proj.weight has shape {patch}: expected (width, channels, p, p), a "
            "convolution over square patches of one image"
        )
    if len(positions) != 3:
        raise WeightsError(f"pos_embed has shape {positions}: expected (1, 1 + patches, width)")
    width, channels, patch_size, _ = patch
    decoder_width = state["decoder_embed.weight"].shape[0] if has_decoder else 0
    depths = {ours: _depth(state, blocks) for blocks, ours in STACKS.items()}
    head = state.get("head.weight")
    return Architecture(
        grid=(1, *_grid(positions[1] - 1, grid)),
        patch_size=patch_size,
        channels=channels,
        width=width,
        depth=depths["encoder"],
        heads=_heads(width, heads),
        decoder_width=decoder_width,
        decoder_depth=depths["reconstructor"],
        decoder_heads=_decoder_heads(decoder_width, decoder_heads),
        loss_predictor=depths["predictor"] > 0,
        classes=0 if head is None else len(head),
        pool="mean" if "fc_norm.weight" in state else "cls",
    )


def _depth(state: State, blocks: str) -> int:
    layers = [name.split(".")[1] for name in state if name.startswith(f"{blocks}.")]
    return 1 + max((int(layer) for layer in layers if layer.isdecimal()), default=-1)


def _grid(length: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    side = math.isqrt(max(length, 0))
    if grid is None and side**2 != length:
        raise WeightsError(
            f"pos_embed has {length} positions after that of the cls token, which is no square: "
            "give the grid (--grid ROWS COLUMNS), if these are the patches of an oblong image"
        )
    rows, columns = grid or (side, side)
    if rows * columns != length:
        raise WeightsError(
            f"pos_embed has {length} positions after that of the cls token, "
            f"expected {rows} x {columns} = {rows * columns}"
        )
    return rows, columns


def _heads(width: int, heads: int | None) -> int:
    known = {size["width"]: size["heads"] for size in SIZES.values()}
    heads = heads or known.get(width) or (width // 64 if width % 64 == 0 else None)
    if not heads:
        raise WeightsError(
            f"the width is {width}, of no known size, and the number of heads is not in the "
            "shapes: give it (--heads N)"
        )
    return _check_heads(width, heads)


def _decoder_heads(width: int, heads: int | None) -> int:
    known = {size["decoder_width"]: size["decoder_heads"] for size in SIZES.values()}
    return _check_heads(width, heads or known.get(width, 0)) if width else 0


def _check_heads(width: int, heads: int) -> int:
    if heads and (heads < 0 or width % heads):
        raise WeightsError(f"width {width} does not split into {heads} heads")
    return heads


def _check_names(state: State, expected: Collection[str]) -> None:
    if missing := [name for name in expected if name not in state]:
        raise WeightsError(f"{_few(missing)} is missing")
    if unknown := [name for name in state if name not in expected]:
        raise WeightsError(
            f"{_few(unknown)} is no part of a plain vision transformer: where the weights are "
            "whole without it, leave it out (--drop NAME ...)"
        )


def _check_array(name: str, value: np.ndarray, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise WeightsError(
            f"{name} has shape {value.shape}, expected {shape}, by the width of "
            f"{'decoder_embed' if name.startswith('decoder') else 'patch_embed.proj'}.weight"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise WeightsError(f"{name} holds {value.dtype}, expected floats")


def _few(names: Collection[str], count: int = 6) -> str:
    """The first names, and how many more there are."""
    listed = ", ".join(list(names)[:count])
    return listed + (f" and {len(names) - count} more" if len(names) > count else "")
