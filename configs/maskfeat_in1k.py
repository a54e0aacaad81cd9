"""MaskFeat on ImageNet-1k: mask tokens in the encoder, and a linear head that predicts HOG.

    python -m hpm_jax.main --config configs/maskfeat_in1k.py:B,epochs=300 \
        --workdir runs/maskfeat_b300 --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default) or L; epochs; masks=block (the default: BEiT's blocks, 78 of
196 patches) or hpm, with HPM's masks and loss.

Paper: Masked Feature Prediction for Self-Supervised Visual Pre-Training (CVPR 2022, arXiv
2112.09133). The recipe is that of mmpretrain (configs/maskfeat).
Hardware: mmpretrain's run took 8 A100.
Expected, after fine-tuning, from mmpretrain's re-run: B 83.4 at 300 epochs. This config has not
been run here to its end.
What differs: positions are fixed sines and cosines, not learned.
"""

import ml_collections

from hpm_jax.config import check_choice, parse_variant
from hpm_jax.config.methods import set_method
from hpm_jax.config.recipes import imagenet


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, ("S", "B", "L"), size="B", epochs=300, masks="block")
    masks = check_choice("masks", chosen["masks"], ("block", "hpm"))
    config = imagenet(chosen["size"])
    config.data.crop_scale = (0.5, 1.0)
    config.target, config.decoder = "hog(bins=9, cell=8, window=16)", "linear"
    set_method(
        config,
        "hpm" if masks == "hpm" else "mae",
        "moving_average(start=0.999, end=0.9999, ramp_epochs=100)",
    )
    config.mask.ratio = 0.397  # 78 of 196 patches
    if masks == "block":
        config.mask.strategy = f"beit_block(smallest={15 / 196:.4f})"
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=2048,
        base_learning_rate=2e-4,
        warmup_epochs=30.0,
        weight_decay=0.05,
        b2=0.999,
        clip_norm=0.02,
    )
    return config
