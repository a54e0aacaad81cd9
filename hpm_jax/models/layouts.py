"""The architectural differences between published vision transformers, as options."""

import dataclasses
from typing import Any

from hpm_jax.fields import option
from hpm_jax.models.mlp import MLPS

ENCODER_POSITIONS = ("layout", "learned", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderVariant:
    """The options in which encoders of one layout differ; the defaults are MAE's encoder.

    They apply to the encoder alone: decoders are MAE's. See docs/encoders.md.
    """

    cls_token: bool = option(
        True, "whether a cls token precedes the patches, in a layout that has one"
    )
    registers: int = option(
        0, "number of register tokens between the cls token and the patches", low=0, high=1024
    )
    encoder_positions: str = option(
        "layout",
        "positions of the encoder: those of the layout, learned ones, or none",
        choices=ENCODER_POSITIONS,
    )
    rotary_base: float = option(
        0.0,
        "base of axial rotary positions in attention (DINOv3: 100); 0 for none",
        low=0,
        high=1e9,
    )
    pre_norm: bool = option(False, "whether a norm precedes the first block (CLIP)")
    patch_bias: bool = option(True, "whether the patch embedding has a bias (CLIP: none)")
    mlp: str = option("gelu", "feed-forward layer of the encoder's blocks", choices=MLPS)
    mlp_width: int = option(
        0,
        "hidden width of the feed-forward layer; 0 for 4 times the width, or 8/3 in swiglu",
        low=0,
        high=2**20,
    )
    layer_scale: float = option(
        0.0, "initial value of layer scale (DINOv2: 1e-5); 0 for no layer scale", low=0, high=1e3
    )
    norm_eps: float = option(
        1e-6, "epsilon of the encoder's layer norms (CLIP: 1e-5)", above=0, high=1
    )
    qk_norm: bool = option(
        False, "whether a layer norm of each head precedes queries and keys (ViT-22B)"
    )


VARIANT = tuple(field.name for field in dataclasses.fields(EncoderVariant))
DEFAULT_VARIANT = EncoderVariant()


@dataclasses.dataclass(frozen=True)
class Layout(EncoderVariant):
    """The choices, besides sizes, in which vision transformers differ."""

    positions: str = "sincos"  # patch positions of the encoder; see `hpm_jax/models/positions.py`
    classifier_positions: str = "learned"  # patch positions in fine-tuning
    decoder_positions: str = "sincos"  # patch positions in the decoders
    key_bias: bool = True  # softmax is invariant to it; VideoMAE has none
    decoder_bias: bool = True  # of the linear map from the encoder to the decoder
    decoder_cls_token: bool = False  # the decoder replaces the encoder's cls token by its own
    pytorch_init: bool = False  # whether patch and decoder embeddings use PyTorch's default
    # names of the parameters to which weight decay applies
    decayed: tuple[str, ...] = ("kernel", "head_kernel", "cls_token", "registers", "mask_token")

    @property
    def extra_tokens(self) -> int:
        """Number of tokens before the patch tokens in the encoder: cls token and registers."""
        return self.decoder_tokens + self.registers

    @property
    def decoder_tokens(self) -> int:
        """Number of tokens before the patch tokens in a decoder, without registers: 1 or 0."""
        return int(self.cls_token)


LAYOUTS = {
    "mae": Layout(),
    "videomae": Layout(
        cls_token=False,
        positions="sinusoid",
        classifier_positions="sinusoid",
        decoder_positions="sinusoid",
        key_bias=False,
        decoder_bias=False,
        pytorch_init=True,
        decayed=("kernel", "head_kernel"),
    ),
    "mae_st": Layout(
        positions="separable",
        classifier_positions="separable",
        decoder_positions="separable",
        decoder_cls_token=True,
        decayed=(
            *Layout().decayed,
            "positions_space",
            "positions_time",
        ),
    ),
}


def layout_of(name: str, variant: Any = DEFAULT_VARIANT) -> Layout:
    """Returns the layout of a name in `LAYOUTS`, with the options of an encoder.

    Args:
        name: a name in `LAYOUTS`.
        variant: an `EncoderVariant`, such as the model section of a config.
    """
    layout = LAYOUTS[name]
    options = {option: getattr(variant, option) for option in VARIANT}
    options["cls_token"] = layout.cls_token and variant.cls_token
    if variant.encoder_positions != "layout":
        options["positions"] = options["classifier_positions"] = variant.encoder_positions
    return dataclasses.replace(layout, **options)


def changed_options(variant: EncoderVariant) -> dict[str, Any]:
    """Returns the options of an encoder that differ from MAE's."""
    values = {name: getattr(variant, name) for name in VARIANT}
    return {name: x for name, x in values.items() if x != getattr(DEFAULT_VARIANT, name)}
