"""DiffMAE on ImageNet-1k: hidden patches are rebuilt from their noised selves and visible patches.

    python -m hpm_jax.main --config configs/diffmae_in1k.py:L,epochs=1600 \
        --workdir runs/diffmae_l1600 --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default), L or H; epochs=1600; method=mae (the default: random masks)
or hpm, with HPM's masks and loss.

Paper: Diffusion Models as Masked Autoencoders (ICCV 2023, arXiv 2304.03283). A step of noise from 1
to 1000 is drawn for each image; the decoder has self-attention among noised patches and attention
to the encoder's blocks, from the last on. It predicts pixels, by squared error.
Expected, after fine-tuning, from the project's page: L 85.8, where MAE has 85.9. This config has
not been run here yet.
What differs: numbers of the optimizer and sizes of the decoder are those of MAE; the noise is that
of Ho et al. 2020, with beta from 1e-4 to 0.02, without the paper's exponent; there is no sampler
that rebuilds images in many steps.
"""

import ml_collections

from hpm_jax.config import check_choice, parse_variant
from hpm_jax.config.methods import set_method
from hpm_jax.config.recipes import imagenet
from hpm_jax.models.sizes import LARGE_IMAGE_SIZES


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, LARGE_IMAGE_SIZES, size="B", epochs=1600, method="mae")
    config = imagenet(chosen["size"])
    config.target, config.decoder = "pixels", "diffusion"
    config.mask.ratio = 0.75
    set_method(
        config,
        check_choice("method", chosen["method"], ("mae", "hpm")),
        "moving_average(start=0.999, end=0.9999, ramp_epochs=100)",
    )
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=4096,
        base_learning_rate=1.5e-4,
        warmup_epochs=40.0,
        weight_decay=0.05,
        b2=0.95,
        clip_norm=0.0,
    )
    return config
