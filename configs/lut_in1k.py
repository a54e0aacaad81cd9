"""LUT on ImageNet-1k: MAE, and a feature of the visible patches that predicts the whole image's.

    python -m hpm_jax.main --config configs/lut_in1k.py:B --workdir runs/lut_b1600 \
        --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default), L or H; epochs=1600.

Paper: Learning with Unmasked Tokens Drives Stronger Vision Learners (ECCV 2024, arXiv 2310.13593).
Each image has two masks that show disjoint quarters. What differs: the paper's two views are two
crops, the second with changed colours, and only the first is rebuilt; its heads have batch norm,
ours layer norm.
Expected, after fine-tuning, from the authors' repository: S 82.0, B 84.2, L 86.0 at 1600 epochs.
This config has not been run here yet.
"""

import ml_collections

from hpm_jax.config import parse_variant
from hpm_jax.config.recipes import imagenet
from hpm_jax.models.sizes import LARGE_IMAGE_SIZES


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, LARGE_IMAGE_SIZES, size="B", epochs=1600)
    config = imagenet(chosen["size"])
    config.target = "normalized_pixels"
    config.mask.update(strategy="disjoint", views=2, ratio=0.75)
    config.losses = ("global_consistency(weight=0.25)",)
    config.teacher = f"moving_average(start=0.996, end=1.0, ramp_epochs={chosen['epochs']})"
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
