"""The parameter names of VideoMAE (Tong et al. 2022), and ours; its positions are constants.

In pre-training the names of the encoder begin with `encoder.`, which is off here until they go
out. The loss predictor, which VideoMAE does not have, is called `decoder_losspred`.
"""

import numpy as np

from hpm_jax.convert.names import (
    ENCODER,
    Names,
    Path,
    State,
    block_names,
    from_names,
    to_names,
)
from hpm_jax.convert.sizes import (
    Hints,
    clip_patch,
    decoder_heads,
    encoder_heads,
    require,
    target_values,
)
from hpm_jax.convert.variant import options_of
from hpm_jax.convert.weights import Architecture, WeightsError, model_shapes
from hpm_jax.models.sizes import VIDEO_SIZES
from hpm_jax.step.state import Params

FRAMES, SIDE = 16, 224  # of a clip, in frames and pixels, where nobody says
OUTSIDE = ("decoder", "encoder_to_decoder", "mask_token")  # how names outside the encoder begin


def _decoder(name: str, stack: str, kernel: Path, bias: Path) -> dict[str, Path]:
    return {
        f"{name}.norm.weight": (stack, "transformer", "norm", "scale"),
        f"{name}.norm.bias": (stack, "transformer", "norm", "bias"),
        f"{name}.head.weight": (stack, *kernel),
        f"{name}.head.bias": (stack, *bias),
    }


TABLE = Names(
    stacks={
        "blocks": "encoder",
        "decoder.blocks": "reconstructor",
        "decoder_losspred.blocks": "predictor",
    },
    block=block_names(
        {
            "attn.q_bias": ("attention", "query_value_bias", 0),
            "attn.v_bias": ("attention", "query_value_bias", 1),
        }
    ),
    rest=ENCODER
    | {
        "mask_token": ("decoder_input", "mask_token"),
        "encoder_to_decoder.weight": ("decoder_input", "embedding", "kernel"),
    }
    | _decoder("decoder", "reconstructor", ("head", "kernel"), ("head", "bias"))
    | _decoder("decoder_losspred", "predictor", ("head_kernel",), ("head_bias",)),
)


def architecture(state: State, hints: Hints) -> Architecture:
    """The sizes that a few tensors show; the length and size of the clips is in none of them."""
    needed = ["patch_embed.proj.weight", "blocks.0.attn.qkv.weight"]
    has_decoder = any(name.startswith(OUTSIDE) for name in state)
    if has_decoder:
        needed += ["encoder_to_decoder.weight", "decoder.head.weight"]
        needed += ["decoder.blocks.0.attn.qkv.weight"]
    require(state, needed)
    width, channels, tubelet, patch_size = clip_patch(state)
    decoder_width, rebuilt = 0, 0
    if has_decoder:
        decoder_width = len(state["encoder_to_decoder.weight"])
        values = channels * tubelet * patch_size**2
        rebuilt = target_values(state, "decoder.head.weight", tubelet, values, hints)
    head = state.get("head.weight")
    return Architecture(
        grid=_grid(tubelet, patch_size, hints),
        patch_size=patch_size,
        channels=channels,
        width=width,
        depth=TABLE.depth(state, "blocks"),
        heads=encoder_heads(width, hints.heads),
        decoder_width=decoder_width,
        decoder_depth=TABLE.depth(state, "decoder.blocks"),
        decoder_heads=decoder_heads(decoder_width, hints.decoder_heads, VIDEO_SIZES),
        loss_predictor=TABLE.depth(state, "decoder_losspred.blocks") > 0,
        classes=0 if head is None else len(head),
        pool="mean" if "fc_norm.weight" in state else "cls",
        tubelet=tubelet,
        layout="videomae",
        target_values=rebuilt,
        **options_of(state, hints.options or {}),
    )


def _grid(tubelet: int, patch_size: int, hints: Hints) -> tuple[int, int, int]:
    """The grid of the clips that a person or a config tells of, else of VideoMAE's own."""
    frames = hints.frames or FRAMES
    if frames % tubelet:
        raise WeightsError(
            f"{frames} frames do not split into patches of {tubelet}, as patch_embed.proj.weight "
            "has them: give the frames of a clip (--frames N)"
        )
    if hints.grid is None and SIDE % patch_size:
        raise WeightsError(
            f"patch_embed.proj.weight has patches of {patch_size} pixels, which do not fill clips "
            f"of {SIDE}: give the grid of a frame (--grid ROWS COLUMNS)"
        )
    side = SIDE // patch_size
    return (frames // tubelet, *(hints.grid or (side, side)))


def shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """Every name of a model, with its shape."""
    return TABLE.shapes(model_shapes(a), (a.channels, *a.patch))


def constants(a: Architecture) -> dict[str, np.ndarray]:
    """Frozen positions in a file: there are none."""
    return {}


def to_params(state: State) -> Params:
    """VideoMAE's names to our nested parameters, float32; see `from_names`."""
    return from_names(state, TABLE)


def to_official(params: Params, a: Architecture) -> dict[str, np.ndarray]:
    """The inverse of `to_params`; with a decoder, `encoder.` stands before the encoder's names."""
    state = to_names(params, TABLE, shapes(a))
    if not a.decoder_width:
        return state
    return {name if name.startswith(OUTSIDE) else f"encoder.{name}": v for name, v in state.items()}
