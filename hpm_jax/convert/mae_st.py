"""The parameter names of mae_st (Feichtenhofer et al. 2022), and ours.

They equal MAE's with three exceptions: query, key and value are three layers, positions are learned
separately for places and times, and the norm after mean pooling is also called `norm`. On import
the position of the cls token is added to the token; on export it is zero.
"""

import re

import numpy as np

from hpm_jax.convert import official
from hpm_jax.convert.names import (
    ENCODER,
    State,
    from_names,
    fuse_attention,
    to_names,
)
from hpm_jax.convert.sizes import (
    Hints,
    clip_patch,
    decoder_heads,
    encoder_heads,
    require,
    rows_and_columns,
    target_values,
)
from hpm_jax.convert.variant import options_of
from hpm_jax.convert.weights import Architecture, WeightsError, model_shapes
from hpm_jax.step.state import Params

_PARTS = {"": "encoder", "decoder_": "decoder_input"}
_POSITIONS = {"pos_embed_temporal": "positions_time", "pos_embed_spatial": "positions_space"}
TABLE = official.TABLE._replace(
    rest=ENCODER
    | official.DECODER
    | {f"{start}cls_token": (part, "cls_token") for start, part in _PARTS.items()}
    | {
        start + theirs: (part, ours)
        for start, part in _PARTS.items()
        for theirs, ours in _POSITIONS.items()
    }
)


def is_mae_st(names: State) -> bool:
    """Whether these are names of mae_st, with its separate positions."""
    return "pos_embed_spatial" in names


def to_mae_names(state: State) -> dict[str, np.ndarray]:
    """Attention in one, cls tokens with their positions, the norm after pooling `fc_norm`.

    Raises:
        WeightsError: where query, key and value do not fit together.
    """
    state = fuse_attention(state)
    for start in _PARTS:
        token, position = f"{start}cls_token", f"{start}pos_embed_class"
        if token in state and position in state:
            state[token] = state[token] + state.pop(position)
    if "head.weight" in state:
        state = {re.sub(r"^norm\.", "fc_norm.", name): value for name, value in state.items()}
    return state


def architecture(state: State, hints: Hints) -> Architecture:
    """The sizes that a few tensors show; the others are checked against them."""
    needed = ["patch_embed.proj.weight", "pos_embed_spatial", "pos_embed_temporal"]
    needed += ["blocks.0.attn.qkv.weight"]
    has_decoder = any(name.startswith(("decoder_", "mask_token")) for name in state)
    if has_decoder:
        needed += ["decoder_embed.weight", "decoder_pred.weight"]
        needed += ["decoder_blocks.0.attn.qkv.weight"]
    require(state, needed)
    width, channels, tubelet, patch_size = clip_patch(state)
    for name in ("pos_embed_spatial", "pos_embed_temporal"):
        if state[name].ndim != 3:
            raise WeightsError(f"{name} has shape {state[name].shape}: expected (1, count, width)")
    length = state["pos_embed_spatial"].shape[1]
    found = f"pos_embed_spatial has {length} positions"
    decoder_width, rebuilt = 0, 0
    if has_decoder:
        decoder_width = len(state["decoder_embed.weight"])
        values = channels * tubelet * patch_size**2
        rebuilt = target_values(state, "decoder_pred.weight", tubelet, values, hints)
    head = state.get("head.weight")
    return Architecture(
        grid=(
            state["pos_embed_temporal"].shape[1],
            *rows_and_columns(length, found, hints.grid),
        ),
        patch_size=patch_size,
        channels=channels,
        width=width,
        depth=TABLE.depth(state, "blocks"),
        heads=encoder_heads(width, hints.heads),
        decoder_width=decoder_width,
        decoder_depth=TABLE.depth(state, "decoder_blocks"),
        decoder_heads=decoder_heads(decoder_width, hints.decoder_heads),
        loss_predictor=TABLE.depth(state, "decoder_blocks_losspred") > 0,
        classes=0 if head is None else len(head),
        pool="mean" if "fc_norm.weight" in state else "cls",
        tubelet=tubelet,
        layout="mae_st",
        target_values=rebuilt,
        **options_of(state, hints.options or {}),
    )


def shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """Every name of a model, as `to_mae_names` leaves them, with its shape."""
    found = TABLE.shapes(model_shapes(a), (a.channels, *a.patch))
    times = {name: shape for name, shape in found.items() if name.endswith("pos_embed_temporal")}
    return found | {name: (1, frames, width) for name, (frames, _, width) in times.items()}


def constants(a: Architecture) -> dict[str, np.ndarray]:
    """Frozen positions in a file: there are none."""
    return {}


def to_params(state: State) -> Params:
    """The names of `to_mae_names` to our nested parameters, float32; see `from_names`."""
    return from_names(_swap_times(state), TABLE)


def to_official(params: Params, a: Architecture) -> dict[str, np.ndarray]:
    """mae_st's own names.

    Raises:
        WeightsError: for a head that reads the cls token, which mae_st does not have.
    """
    if a.classes and a.pool == "cls":
        raise WeightsError(
            "the head reads the cls token, and mae_st's averages the patches: its names cannot "
            "tell one from the other, so a file would be read as another model"
        )
    state = {}
    for name, value in _swap_times(to_names(params, TABLE, shapes(a))).items():
        if ".attn.qkv." in name:
            for part, array in zip("qkv", np.split(value, 3), strict=True):
                state[name.replace(".qkv.", f".{part}.")] = np.ascontiguousarray(array)
        else:
            state[re.sub(r"^fc_norm\.", "norm.", name)] = value
    for name in [name for name in state if name.endswith("cls_token")]:
        state[name.replace("cls_token", "pos_embed_class")] = np.zeros_like(state[name])
    return state


def _swap_times(state: State) -> dict[str, np.ndarray]:
    """Positions of times `[1, t, D]` as `[t, 1, D]`, and back."""
    return {
        name: np.ascontiguousarray(np.swapaxes(value, 0, 1))
        if name.endswith("pos_embed_temporal")
        else value
        for name, value in state.items()
    }
