"""Infers the options of an encoder from the names and shapes of a state dict, and what is told."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hpm_jax.convert.names import State
from hpm_jax.convert.weights import WeightsError
from hpm_jax.models.mlp import hidden_width

Options = Mapping[str, Any]  # options of an `EncoderVariant`, by name


def options_of(state: State, told: Options) -> dict[str, Any]:
    """Returns the options of the encoder with timm's names.

    The activation and the epsilon of the norms are in no array: they are told, or those of the
    published family with such names.

    Raises:
        WeightsError: if the activation is not told, and families with such names differ in it.
    """
    pre_norm = "norm_pre.weight" in state
    found: dict[str, Any] = {
        "registers": _registers(state),
        "pre_norm": pre_norm,
        "patch_bias": not pre_norm or "patch_embed.proj.bias" in state,
        "layer_scale": 1e-5 if _has_layer_scale(state) else 0.0,
        "norm_eps": 1e-5 if pre_norm else 1e-6,
        "qk_norm": "blocks.0.attn.q_norm.weight" in state,
    }
    found |= _mlp(state, told, ambiguous=pre_norm or without_cls(state, told))
    if told.get("rotary_base") and "pos_embed" not in state:
        found["encoder_positions"] = "none"
    return found | {name: told[name] for name in told if name not in ("mlp", "mlp_width")}


def _mlp(state: State, told: Options, ambiguous: bool) -> dict[str, Any]:
    """Returns the feed-forward layer of the first block, whose shapes the others must have."""
    first, second = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    if first is None or second is None or first.ndim != 2 or second.ndim != 2:
        return {}  # what is missing or misshapen is reported with the other names
    (inner, width), hidden = first.shape, second.shape[1]
    kind = told.get("mlp")
    if kind is None:
        gated = inner == 2 * hidden
        if ambiguous and not gated:
            raise WeightsError(
                "neither names nor shapes tell the activation of this encoder: give it once, by "
                "python -m hpm_jax.convert FILE vit.safetensors --mlp quick_gelu (OpenAI's CLIP), "
                "gelu_tanh (SigLIP) or gelu (most of open_clip and of timm), and use that file"
            )
        kind = "swiglu" if gated else "gelu"
    return {"mlp": kind, "mlp_width": 0 if hidden == hidden_width(kind, width) else hidden}


def without_cls(state: State, told: Options) -> bool:
    """Whether an encoder of images has no cls token: as is told, or by the number of positions."""
    if "cls_token" in state:
        return False
    if "cls_token" in told:
        return not told["cls_token"]
    positions = state.get("pos_embed")
    return positions is not None and positions.ndim == 3 and _is_square(positions.shape[1])


def with_cls_position(state: State, grid: tuple[int, int] | None) -> dict[str, np.ndarray]:
    """Returns the state with a position for the cls token, zero where the file has none.

    timm's models with registers and DeiT III have positions for patches alone.
    """
    found = state.get("pos_embed")
    if found is None or "cls_token" not in state or found.ndim != 3:
        return dict(state)
    length = found.shape[1]
    such = "reg_token" in state or _has_layer_scale(state)
    if grid:
        patches_alone = such and length == grid[0] * grid[1]
    else:
        patches_alone = such and _is_square(length) and not _is_square(length - 1)
    if not patches_alone:
        return dict(state)
    return {**state, "pos_embed": np.pad(found, ((0, 0), (1, 0), (0, 0)))}


def _registers(state: State) -> int:
    found = state.get("reg_token")
    return 0 if found is None or found.ndim != 3 else found.shape[1]


def _has_layer_scale(state: State) -> bool:
    return all(f"blocks.0.ls{branch}.gamma" in state for branch in (1, 2))


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count
