"""MAE on ImageNet-1k: the baseline of HPM, by the same code.

    python -m hpm_jax.main --config configs/mae_in1k.py:B,epochs=800 --workdir runs/mae_b800 \
        --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default), L or H, and epochs=200, 400, 800 or 1600.

Paper: Masked Autoencoders Are Scalable Vision Learners (CVPR 2022, arXiv 2111.06377).
Hardware: the official README's ViT-L took 64 V100 about 42 hours for 800 epochs.
Expected, after fine-tuning: B 83.3 at 800 epochs (mmpretrain's re-run) and 83.6 at 1600, L 85.9 at
1600 (official README). This config has not been run here to its end.
To compare with HPM, give both the same target, batch size and clipping: the official HPM rebuilds
raw pixels, in batches of 2048, clipped at 5.
"""

import ml_collections

from hpm_jax.config import parse_variant
from hpm_jax.config.recipes import imagenet
from hpm_jax.models.sizes import LARGE_IMAGE_SIZES


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, LARGE_IMAGE_SIZES, size="B", epochs=800)
    config = imagenet(chosen["size"])
    config.target = "normalized_pixels"
    config.mask.update(strategy="random", ratio=0.75)
    config.losses = ()
    config.teacher = "none"
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
