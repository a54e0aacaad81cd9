"""DMJD on ImageNet-1k: two masks that hide what the other shows, and a loss on visible patches.

    python -m hpm_jax.main --config configs/dmjd_in1k.py:B --workdir runs/dmjd_b800 \
        --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default) or L; epochs=800.

Paper: Disjoint Masking with Joint Distillation for Efficient Masked Image Modeling (arXiv
2301.00230). The target is HOG; hidden patches are compared by squared error, visible ones by smooth
L1 through a head of three layers. What differs: patches are hidden one by one (the paper's are
blocks of 2 x 2), and the encoder is MAE's.
Expected, from the authors' README: 3.4 points above MaskFeat. This config has not been run here
yet.
"""

import ml_collections

from hpm_jax.config import parse_variant
from hpm_jax.config.recipes import imagenet


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, "SBL", size="B", epochs=800)
    config = imagenet(chosen["size"])
    config.target = "hog"
    config.mask.update(strategy="disjoint", views=2, ratio=0.6)
    config.losses = ("visible(power=0.0, beta=2.0, layers=3)",)
    config.teacher = "none"
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=1024,
        base_learning_rate=6e-4 / 0.6,
        warmup_epochs=40.0,
        weight_decay=0.05,
        b2=0.95,
        clip_norm=0.0,
    )
    return config
