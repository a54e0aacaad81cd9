"""A state dict of any known origin to `Weights`, every shape checked, and back."""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from hpm_jax.convert import hugging_face, mae_st, official, video_mae
from hpm_jax.convert.names import State
from hpm_jax.convert.sizes import Hints, few
from hpm_jax.convert.weights import (
    Architecture,
    Weights,
    WeightsError,
    check_positions,
    without_decoder,
)
from hpm_jax.step.state import Params

# What wrappers put before a name; `vit.` and `videomae.` before Hugging Face's are its own.
_WRAPPERS = ("module", "model", "backbone", "encoder", "_orig_mod")
_HUGGING_FACE = r"(?:(?:vit|videomae)\.)?embeddings\."
_ANCHOR = re.compile(
    rf"((?:(?:{'|'.join(_WRAPPERS)})\.)*)"
    rf"(?:(?:{_HUGGING_FACE})?cls_token|patch_embed\.proj\.weight"
    rf"|{_HUGGING_FACE}patch_embeddings\.projection\.weight)"
)


class Family(Protocol):
    """Checkpoints of one layout, which share their names: what its module has."""

    def architecture(self, state: State, hints: Hints) -> Architecture: ...
    def shapes(self, a: Architecture) -> dict[str, tuple[int, ...]]: ...
    def constants(self, a: Architecture) -> dict[str, np.ndarray]: ...
    def to_params(self, state: State) -> Params: ...
    def to_official(self, params: Params, a: Architecture) -> dict[str, np.ndarray]: ...


FAMILIES: dict[str, Family] = {"mae": official, "videomae": video_mae, "mae_st": mae_st}
OWN_NAMES = {"mae": "timm", "videomae": "videomae", "mae_st": "mae_st"}
NAMINGS = (*OWN_NAMES.values(), "hpm")


def from_state_dict(
    state: State,
    heads: int | None = None,
    decoder_heads: int | None = None,
    grid: tuple[int, int] | None = None,
    drop: Sequence[str] = (),
    frames: int | None = None,
    target_values: int | None = None,
) -> Weights:
    """Weights from arrays under the names of MAE, HPM, timm, VideoMAE, mae_st or Hugging Face.

    Sizes are read from the shapes. Heads are not in the shapes: those of the known sizes go by the
    width (`hpm_jax/models/sizes.py`), and others have 64 values each. Nor is the size of the clips
    of VideoMAE, whose positions are no parameters: they are 16 frames of 224 pixels.

    Args:
        state: float arrays of any precision, by name; wrappers' prefixes may stand before it.
        heads: of the encoder, where the rule does not hold.
        decoder_heads: of the decoder, likewise; without it, an unknown decoder stays without.
        grid: rows and columns of patches, where they are not a square.
        drop: beginnings of names to leave out.
        frames: of a clip, where VideoMAE's has not 16.
        target_values: of a decoder that does not rebuild pixels.

    Raises:
        WeightsError: names the keys, what they have and what was expected.
    """
    state = _strip_wrappers(state)
    if hugging_face.is_hugging_face(state):
        state = hugging_face.to_official_names(state)
    if mae_st.is_mae_st(state):
        state = mae_st.to_mae_names(state)
    state = {name: value for name, value in state.items() if not name.startswith(tuple(drop))}
    family = FAMILIES[_layout(state)]
    hints = Hints(heads, decoder_heads, grid, frames, target_values)
    architecture = family.architecture(state, hints)
    constants = family.constants(architecture)
    expected = family.shapes(architecture)
    expected |= {name: table.shape for name, table in constants.items()}
    _check_names(state, expected)
    for name, shape in expected.items():
        _check_array(name, state[name], shape, expected)
    state = {name: np.asarray(state[name], np.float32) for name in expected}
    for name, value in state.items():
        if not np.isfinite(value).all():
            count = np.size(value) - np.isfinite(value).sum()
            raise WeightsError(f"{name} has {count} values that are infinite or not a number")
    for name, table in constants.items():
        otherwise = "take the encoder alone (--drop decoder mask_token)"
        check_positions(name, state.pop(name), table, otherwise)
    return Weights(architecture, family.to_params(state))


def to_state_dict(weights: Weights, names: str | None = None) -> dict[str, np.ndarray]:
    """Official names and float32 arrays.

    Args:
        weights: from `from_state_dict`, `read_weights`, or made by hand.
        names: a name in `NAMINGS`; see `part_of`.

    Raises:
        WeightsError: where the weights cannot go under these names.
    """
    part = part_of(weights.architecture, names)
    return FAMILIES[part.layout].to_official(weights.params, part)


def part_of(a: Architecture, names: str | None = None) -> Architecture:
    """What goes out under `names`.

    Args:
        names: "timm" is the encoder, with the head where there is one, as a strict
            `timm.models.vision_transformer.VisionTransformer` wants it. "videomae" and "mae_st" are
            what those projects load for videos: with a decoder the pre-training model, without a
            loss predictor, and else the encoder or the classifier. "hpm" is the whole pre-training
            model, positions included. None is one of the first three, by the layout.

    Raises:
        WeightsError: for names of another layout, and for "hpm" without a decoder.
    """
    own = OWN_NAMES[a.layout]
    names = names or own
    if names not in NAMINGS:
        raise WeightsError(f"names {names!r} do not exist: choose from {', '.join(NAMINGS)}")
    if names not in (own, "hpm"):
        raise WeightsError(
            f"names {names!r} do not fit the layout {a.layout!r} of these weights: use {own!r}, or "
            '"hpm" for a whole pre-training model'
        )
    if a.layout == "mae" and a.tubelet > 1:
        raise WeightsError(
            f"patches have {a.tubelet} frames, and names {names!r} are for images in this layout: "
            "pre-train with config.model.layout = videomae or mae_st for weights that go out"
        )
    if names == "timm":
        return without_decoder(a)
    if names == "hpm" and not a.decoder_width:
        raise WeightsError(
            'names "hpm" are for a whole pre-training model, and these weights have no decoder: '
            f'use "{own}"'
        )
    return a if names == "hpm" else dataclasses.replace(a, loss_predictor=False)


def _layout(state: State) -> str:
    if mae_st.is_mae_st(state):
        return "mae_st"
    return "mae" if "cls_token" in state else "videomae"


def _strip_wrappers(state: State) -> State:
    """Names without what a wrapper put before them.

    The cls token shows what that is; where there is none, the patches of a video do.
    """
    anchors = [name for name in state if re.search(r"(^|\.)cls_token$", name)]
    anchors = anchors or [name for name, value in state.items() if np.ndim(value) == 5]
    found = [match for name in anchors if (match := _ANCHOR.fullmatch(name))]
    if len(found) != 1:
        decoder = [name for name in state if name.startswith("decoder")]
        if decoder and len(decoder) == len(state):
            raise WeightsError(
                f"a decoder without an encoder ({few(decoder)}): "
                "expected cls_token, patch_embed.proj.weight and blocks.*"
            )
        raise WeightsError(
            f"expected one cls_token, with nothing but {', '.join(_WRAPPERS)} before it, or the "
            "patch_embed.proj.weight (width, channels, frames, p, p) of a video; "
            f"found {few(anchors) or 'none'} among {few(state) or 'no names'}"
        )
    # VideoMAE's decoder stands beside `encoder.`, in the same wrapper
    prefixes = re.findall(r"\w+\.", found[0].group(1))
    stripped = {_without(prefixes, name): value for name, value in state.items()}
    if len(stripped) < len(state):
        prefix = found[0].group(1)
        twice = [name for name in state if prefix + name in state]
        raise WeightsError(f"{few(twice)} is there twice, with and without {prefix!r} before it")
    return stripped


def _without(prefixes: list[str], name: str) -> str:
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    return name


def _check_names(state: State, expected: Collection[str]) -> None:
    if missing := [name for name in expected if name not in state]:
        raise WeightsError(f"{few(missing)} is missing")
    if unknown := [name for name in state if name not in expected]:
        raise WeightsError(
            f"{few(unknown)} is no part of a plain vision transformer: where the weights are "
            "whole without it, leave it out (--drop NAME ...)"
        )


def _check_array(
    name: str, value: np.ndarray, shape: tuple[int, ...], expected: Mapping[str, tuple[int, ...]]
) -> None:
    if value.shape != shape:
        decoder = (
            "encoder_to_decoder" if "encoder_to_decoder.weight" in expected else "decoder_embed"
        )
        by = decoder if name.startswith("decoder") else "patch_embed.proj"
        raise WeightsError(
            f"{name} has shape {value.shape}, expected {shape}, by the width of {by}.weight"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise WeightsError(f"{name} holds {value.dtype}, expected floats")
