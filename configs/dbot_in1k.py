"""dBOT on ImageNet-1k: the student of one stage teaches the next, from a random first teacher.

    python -m hpm_jax.main --config configs/dbot_in1k.py:B --workdir runs/dbot_b1600 \
        --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default), L or H; epochs=1600; stage=800, the epochs of each stage.

Paper: Exploring Target Representations for Masked Autoencoders (ICLR 2024, arXiv 2209.03917).
The target is the last block of the teacher before its norm, standardised for each patch, compared
by smooth L1. What differs: there is no stochastic depth in pre-training (the paper's is 0.2), and
the cls token is no target.
Expected, after fine-tuning, from the official README: B 84.5, L 86.6, H 87.4; B reaches 49.5 mIoU
on ADE20k. This config has not been run here yet.
"""

import ml_collections

from hpm_jax.config import parse_variant
from hpm_jax.config.recipes import imagenet
from hpm_jax.models.sizes import LARGE_IMAGE_SIZES


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, LARGE_IMAGE_SIZES, size="B", epochs=1600, stage=800)
    config = imagenet(chosen["size"])
    config.target = f"teacher_features(block={config.model.depth}, normalize='layer_norm')"
    config.objective = "smooth_l1(beta=2.0)"
    config.mask.update(strategy="random", ratio=0.75)
    config.losses = ()
    config.teacher = f"staged(epochs={tuple(range(0, chosen['epochs'], chosen['stage']))})"
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=4096,
        base_learning_rate=1.5e-4,
        warmup_epochs=40.0,
        weight_decay=0.05,
        b2=0.95,
        clip_norm=3.0,
    )
    return config
