"""The options of the two models: the masked autoencoder, and the classifier."""

import dataclasses

from hpm_jax.fields import option, positive
from hpm_jax.models.attention import ATTENTIONS
from hpm_jax.models.layers import REMAT_POLICIES
from hpm_jax.models.layouts import LAYOUTS


@dataclasses.dataclass(frozen=True)
class EncoderOptions:
    """The vision transformer that every model has; `hpm_jax/models/sizes.py` has usual sizes."""

    patch_size: int = positive(16, "pixels of a side of a patch")
    tubelet: int = positive(1, "frames of a patch")
    width: int = option(768, "of the encoder", low=4, high=2**16)
    depth: int = option(12, "blocks of the encoder", low=1, high=1024)
    heads: int = positive(12, "of the encoder's attention")
    layout: str = option("mae", "see hpm_jax/models/layouts.py", choices=LAYOUTS)
    dtype: str = option("float32", "of matrix products", choices=("float32", "bfloat16"))
    remat: str = option(
        "none",
        "which products the backward pass computes again",
        choices=REMAT_POLICIES,
        changes_result=False,
    )
    unroll: int = option(
        1, "blocks unrolled in each scan; 0 unrolls all", low=0, changes_result=False
    )
    attention: str = option(
        "xla",
        "or cudnn: its fused kernel, on NVIDIA GPUs in bfloat16",
        choices=ATTENTIONS,
        changes_result=False,
    )


@dataclasses.dataclass(frozen=True)
class Model(EncoderOptions):
    """The masked autoencoder."""

    decoder_width: int = option(512, "of each decoder", low=4, high=2**16)
    decoder_depth: int = option(8, "blocks of each decoder", low=1, high=1024)
    decoder_heads: int = positive(16, "of the decoders' attention")


@dataclasses.dataclass(frozen=True)
class ClassifierModel(EncoderOptions):
    """The classifier of fine-tuning; the sizes of its encoder are those of the pre-trained one."""

    pool: str = option(
        "mean",
        "what the head reads: the 'mean' of the patches, with a norm, or 'cls'",
        choices=("cls", "mean"),
    )
    keep_norm: bool = option(False, "'mean': the norm starts as the pre-trained last one (mae_st)")
    drop_path: float = option(
        0.1, "stochastic depth in the last block; it grows from 0 in the first", low=0, below=1
    )
    head_dropout: float = option(0.0, "dropout before the head", low=0, below=1)
    head_std: float = option(2e-5, "of the head's first weights", above=0, high=1e3)
