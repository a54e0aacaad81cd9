"""Converts a state dict of any known origin to `Weights`, with checked shapes, and back."""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from hpm_jax.convert import hugging_face, mae_st, official, video_mae
from hpm_jax.convert.names import State
from hpm_jax.convert.sizes import Hints, few
from hpm_jax.convert.towers import from_meta, tower_of
from hpm_jax.convert.variant import with_cls_position, without_cls
from hpm_jax.convert.weights import (
    Architecture,
    Weights,
    WeightsError,
    check_positions,
    without_decoder,
)
from hpm_jax.models.decoders import SelfAttention
from hpm_jax.step.state import Params

# Prefixes of wrappers; `vit.`, `beit.`, `videomae.` are Hugging Face's own.
_WRAPPERS = ("module", "model", "backbone", "encoder", "_orig_mod")
_HUGGING_FACE = r"(?:(?:vit|beit|videomae)\.)?embeddings\."
_ANCHOR = re.compile(
    rf"((?:(?:{'|'.join(_WRAPPERS)})\.)*)"
    rf"(?:(?:{_HUGGING_FACE})?cls_token|patch_embed\.proj\.weight"
    rf"|{_HUGGING_FACE}patch_embeddings\.projection\.weight)"
)


class Family(Protocol):
    """The interface of a module for checkpoints of one layout, which share their names."""

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
    options: Mapping[str, Any] | None = None,
) -> Weights:
    """Returns weights from arrays with names of MAE, HPM, timm, VideoMAE, mae_st or Hugging Face.

    Those of DINOv2, DINOv3, CLIP and SigLIP are read as well, see `hpm_jax/convert/towers.py`.

    Sizes are read from the shapes. Shapes do not determine the heads: those of known sizes follow
    from the width (`hpm_jax/models/sizes.py`), others have 64 values each. Shapes also do not
    determine the clip size of VideoMAE, whose positions are not parameters: the default is 16
    frames of 224 pixels.

    Args:
        state: float arrays of any precision by name, possibly with prefixes of wrappers.
        heads: number of heads of the encoder, if the rule does not hold.
        decoder_heads: number of heads of the decoder, if the rule does not hold; None: unknown.
        grid: rows and columns of patches, if not a square.
        drop: prefixes of names to leave out.
        frames: number of frames of a VideoMAE clip, if not 16.
        target_values: number of values per patch of a decoder that does not predict pixels.
        options: options of the encoder that are not in its names, such as `mlp`; see
            `EncoderVariant`.

    Raises:
        WeightsError: for wrong names or shapes; the message has the keys and what was expected.
    """
    told = dict(options or {})
    if tower := tower_of(state):
        state, told, heads = tower.state, tower.options | told, heads or tower.heads
    else:
        state, meta = from_meta(_strip_wrappers(state, told))
        told = meta | told
    if hugging_face.is_hugging_face(state):
        state = hugging_face.to_official_names(state)
    if mae_st.is_mae_st(state):
        state = mae_st.to_mae_names(state)
    state = {name: value for name, value in state.items() if not name.startswith(tuple(drop))}
    state = with_cls_position(state, grid)
    family = FAMILIES[_layout(state, told)]
    hints = Hints(heads, decoder_heads, grid, frames, target_values, told)
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
    """Returns float32 arrays by official name.

    Args:
        weights: from `from_state_dict`, `read_weights`, or made by hand.
        names: a name in `NAMINGS`; see `part_of`.

    Raises:
        WeightsError: if the weights cannot be exported with these names.
    """
    part = part_of(weights.architecture, names)
    return FAMILIES[part.layout].to_official(weights.params, part)


def part_of(a: Architecture, names: str | None = None) -> Architecture:
    """Returns the architecture that is exported with `names`.

    Args:
        names: "timm" is the encoder, with the head where there is one, as a strict
            `timm.models.vision_transformer.VisionTransformer` wants it. "videomae" and "mae_st" are
            what those projects load for videos: with MAE's decoder the pre-training model, without
            a loss predictor, and else the encoder or the classifier. "hpm" is the whole
            pre-training model, positions included. None is one of the first three, by the layout.

    Raises:
        WeightsError: for names of another layout, and for "hpm" without MAE's decoder.
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
    if a.decoder != SelfAttention.name:
        if names == "hpm":
            raise WeightsError(
                f'names "hpm" are for MAE\'s decoder, and this model was pre-trained with '
                f'config.decoder = {a.decoder!r}: write the encoder alone, with names "{own}"'
            )
        return without_decoder(a)
    return a if names == "hpm" else dataclasses.replace(a, loss_predictor=False)


def _layout(state: State, told: Mapping[str, Any]) -> str:
    if mae_st.is_mae_st(state):
        return "mae_st"
    return "mae" if "cls_token" in state or _is_image(state, told) else "videomae"


def _is_image(state: State, told: Mapping[str, Any]) -> bool:
    """Whether an encoder without a cls token is of images."""
    kernel = state.get("patch_embed.proj.weight")
    return kernel is not None and kernel.ndim == 4 and without_cls(state, told)


def _strip_wrappers(state: State, told: Mapping[str, Any]) -> State:
    """Removes the prefixes of wrappers from names.

    The name of the cls token reveals the prefix; without one, that of the video patch embedding.
    Encoders of images without a cls token have no wrapper.
    """
    if _is_image(state, told):
        return state
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
