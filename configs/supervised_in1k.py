"""Supervised training and masked modelling together on ImageNet-1k (Chen et al. 2023).

    python -m hpm_jax.main --config configs/supervised_in1k.py:B --workdir runs/supervised_b300 \
        --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default) or L; epochs=300; masks=random (the default) or hpm, with
HPM's masks and loss.

Paper: Improve Supervised Representation Learning with Masked Image Modeling (arXiv 2312.00950): the
encoder classifies the clean image, and a shallow decoder rebuilds a masked copy. What differs: the
target is normalised pixels, and not codes of a trained tokenizer; mask ratio, decoder and optimizer
are ours, the optimizer after MAE's training from scratch (its table 11); images are cropped and
flipped alone, without RandAugment and mixing.
Expected, from the abstract: ViT-B/14 81.72, and 79.71 without the masked copy. This config has not
been run here yet.
"""

import ml_collections

from hpm_jax.config import check_choice, parse_variant
from hpm_jax.config.recipes import imagenet


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, "SBL", size="B", epochs=300, masks="random")
    masks = check_choice("masks", chosen["masks"], ("random", "hpm"))
    config = imagenet(chosen["size"])
    config.model.update(patch_size=14, decoder_depth=2)
    config.target = "normalized_pixels"
    config.mask.update(strategy="random", ratio=0.75)
    config.losses = ("supervised(classes=1000, label_smoothing=0.1)",)
    config.teacher = "none"
    if masks == "hpm":
        config.mask.strategy = "hard(start=0.0, end=0.5)"
        config.losses = ("ranking", *config.losses)
        config.teacher = "moving_average"
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=4096,
        base_learning_rate=1e-4,
        warmup_epochs=20.0,
        weight_decay=0.3,
        b2=0.95,
    )
    return config
