"""The options of the two models: the masked autoencoder, and the classifier."""

import dataclasses

from hpm_jax.fields import option, positive
from hpm_jax.models.layouts import LAYOUTS, EncoderVariant
from hpm_jax.models.scaled_dot_product import ATTENTIONS
from hpm_jax.models.stack import REMAT_POLICIES


@dataclasses.dataclass(frozen=True)
class EncoderSizes:
    """Sizes and computation of an encoder; `hpm_jax/models/sizes.py` lists the usual sizes."""

    patch_size: int = positive(16, "side of a patch in pixels", high=2**15)
    tubelet: int = positive(1, "number of frames of a patch", high=2**15)
    width: int = option(768, "width of the encoder", low=4, high=2**16)
    depth: int = option(12, "number of blocks of the encoder", low=1, high=1024)
    heads: int = positive(12, "number of attention heads of the encoder", high=2**16)
    layout: str = option(
        "mae", "variant of the model; see hpm_jax/models/layouts.py", choices=LAYOUTS
    )
    dtype: str = option("float32", "dtype of matrix products", choices=("float32", "bfloat16"))
    remat: str = option(
        "none",
        "rematerialisation: which products the backward pass recomputes",
        choices=REMAT_POLICIES,
        changes_result=False,
    )
    unroll: int = option(
        1,
        "number of blocks unrolled per scan; 0 unrolls all",
        low=0,
        high=1024,
        changes_result=False,
    )
    attention: str = option(
        "xla",
        "attention kernel: xla, cudnn (fused, NVIDIA GPUs in bfloat16), pallas (fused, TPUs), or "
        "auto: cudnn if it runs",
        choices=ATTENTIONS,
        changes_result=False,
    )


@dataclasses.dataclass(frozen=True)
class EncoderOptions(EncoderVariant, EncoderSizes):
    """The vision transformer of every model."""


@dataclasses.dataclass(frozen=True)
class Model(EncoderOptions):
    """The masked autoencoder."""

    decoder_width: int = option(512, "width of each decoder", low=4, high=2**16)
    decoder_depth: int = option(8, "number of blocks of each decoder", low=1, high=1024)
    decoder_heads: int = positive(16, "number of attention heads of each decoder", high=2**16)


@dataclasses.dataclass(frozen=True)
class ClassifierModel(EncoderOptions):
    """The classifier of fine-tuning; its encoder has the sizes of the pre-trained one."""

    pool: str = option(
        "mean",
        "input of the head: the normalised 'mean' of the patches, or 'cls'",
        choices=("cls", "mean"),
    )
    keep_norm: bool = option(
        False, "whether the norm of 'mean' starts as the encoder's last norm (mae_st)"
    )
    drop_path: float = option(
        0.1, "stochastic depth rate of the last block; it grows linearly from 0", low=0, below=1
    )
    head_dropout: float = option(0.0, "dropout rate before the head", low=0, below=1)
    head_std: float = option(
        2e-5, "standard deviation of the head's initial weights", above=0, high=1e3
    )
