"""The parameter names of the official PyTorch HPM and MAE, which timm shares, and ours."""

import numpy as np

from hpm_jax.convert.names import (
    ENCODER,
    Names,
    State,
    block_names,
    from_names,
    to_names,
)
from hpm_jax.convert.sizes import (
    Hints,
    decoder_heads,
    encoder_heads,
    require,
    rows_and_columns,
)
from hpm_jax.convert.towers import WIDE_HEADS
from hpm_jax.convert.variant import options_of, without_cls
from hpm_jax.convert.weights import Architecture, WeightsError, constant_positions, model_shapes
from hpm_jax.step.state import Params

# everything in a decoder and in a loss predictor but their blocks
DECODER = {
    "mask_token": ("decoder_input", "mask_token"),
    "decoder_embed.weight": ("decoder_input", "embedding", "kernel"),
    "decoder_embed.bias": ("decoder_input", "embedding", "bias"),
    "decoder_norm.weight": ("reconstructor", "transformer", "norm", "scale"),
    "decoder_norm.bias": ("reconstructor", "transformer", "norm", "bias"),
    "decoder_pred.weight": ("reconstructor", "head", "kernel"),
    "decoder_pred.bias": ("reconstructor", "head", "bias"),
    "decoder_norm_losspred.weight": ("predictor", "transformer", "norm", "scale"),
    "decoder_norm_losspred.bias": ("predictor", "transformer", "norm", "bias"),
    "decoder_pred_losspred.weight": ("predictor", "head_kernel"),
    "decoder_pred_losspred.bias": ("predictor", "head_bias"),
}
TABLE = Names(
    stacks={
        "blocks": "encoder",
        "decoder_blocks": "reconstructor",
        "decoder_blocks_losspred": "predictor",
    },
    block=block_names({"attn.qkv.bias": ("attention", "qkv", "bias")}),
    rest=ENCODER
    | DECODER
    | {"cls_token": ("encoder", "cls_token"), "pos_embed": ("encoder", "positions")},
)


def architecture(state: State, hints: Hints) -> Architecture:
    """The sizes that a few tensors show; the others are checked against them."""
    told = hints.options or {}
    rotary = bool(told.get("rotary_base"))
    needed = ["patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight"]
    if rotary and told.get("encoder_positions", "none") == "none":
        needed.remove("pos_embed")
    has_decoder = any(name.startswith(("decoder_", "mask_token")) for name in state)
    if has_decoder:
        needed += ["decoder_embed.weight", "decoder_blocks.0.attn.qkv.weight"]
    require(state, needed)
    patch = state["patch_embed.proj.weight"].shape
    if len(patch) != 4 or patch[2] != patch[3]:
        raise WeightsError(
            f"patch_embed.proj.weight has shape {patch}: expected (width, channels, p, p), a "
            "convolution over square patches of one image"
        )
    width, channels, patch_size, _ = patch
    options = options_of(state, told)
    options["cls_token"] = not without_cls(state, told)
    is_tower = options["pre_norm"] or not options["cls_token"]
    wide = WIDE_HEADS.get(width) if is_tower else None
    decoder_width = state["decoder_embed.weight"].shape[0] if has_decoder else 0
    head = state.get("head.weight")
    return Architecture(
        grid=(1, *_grid(state, options["cls_token"], patch_size, hints)),
        patch_size=patch_size,
        channels=channels,
        width=width,
        depth=TABLE.depth(state, "blocks"),
        heads=encoder_heads(width, hints.heads or wide),
        decoder_width=decoder_width,
        decoder_depth=TABLE.depth(state, "decoder_blocks"),
        decoder_heads=decoder_heads(decoder_width, hints.decoder_heads),
        loss_predictor=TABLE.depth(state, "decoder_blocks_losspred") > 0,
        target_values=(hints.target_values or 0) if has_decoder else 0,
        classes=0 if head is None else len(head),
        pool="mean" if "fc_norm.weight" in state else "cls",
        **options,
    )


def _grid(state: State, cls_token: bool, patch_size: int, hints: Hints) -> tuple[int, int]:
    """The grid by the number of positions; without positions the one told, or of 224 pixels."""
    if "pos_embed" not in state:
        return hints.grid or (max(224 // patch_size, 1),) * 2
    positions = state["pos_embed"].shape
    if len(positions) != 3:
        raise WeightsError(f"pos_embed has shape {positions}: expected (1, 1 + patches, width)")
    length = positions[1] - cls_token
    after = " after that of the cls token" if cls_token else ""
    return rows_and_columns(length, f"pos_embed has {length} positions{after}", hints.grid)


def shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """Every official name of a model, with its shape, but those of `constants`."""
    return TABLE.shapes(model_shapes(a), (a.channels, *a.patch[1:]))


def constants(a: Architecture) -> dict[str, np.ndarray]:
    """Frozen positions that a file has and our parameters have not."""
    if not a.decoder_width:
        return {}
    first = a.token_layout.decoder_tokens
    return {"decoder_pos_embed": constant_positions(a.decoder_width, a.grid, first)}


def to_params(state: State) -> Params:
    """Official names to our nested parameters, float32; see `from_names`."""
    return from_names(state, TABLE)


def to_official(params: Params, a: Architecture) -> dict[str, np.ndarray]:
    """The inverse of `to_params`: the arrays that `shapes(a)` names, and `constants(a)`."""
    return to_names(params, TABLE, shapes(a)) | constants(a)


def from_official(weights: State) -> Params:
    """The parameters of a masked autoencoder, unchecked; its positions are left out."""
    return to_params({name: v for name, v in weights.items() if not name.endswith("pos_embed")})
