"""SimMIM on ImageNet-1k: mask tokens in the encoder, and a linear head that predicts pixels.

    python -m hpm_jax.main --config configs/simmim_in1k.py:B,epochs=800 \
        --workdir runs/simmim_b800 --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default) or L; epochs; masks=simmim (the default: cells of 32 pixels at
random) or hpm, with HPM's masks of single patches and its loss.

Paper: SimMIM: A Simple Framework for Masked Image Modeling (CVPR 2022, arXiv 2111.09886).
Hardware: the official README's command is for 16 GPUs (Swin-B).
Expected, after fine-tuning, from the official README: B 83.8 at 800 epochs. This config has not
been run here to its end.
What differs: positions are fixed sines and cosines, not a shared relative bias; there are no layer
scales and no stochastic depth; the learning rate follows a cosine, not a step at epoch 700.
"""

import ml_collections

from hpm_jax.config import check_choice, parse_variant
from hpm_jax.config.methods import set_method
from hpm_jax.config.recipes import imagenet


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, ("S", "B", "L"), size="B", epochs=800, masks="simmim")
    masks = check_choice("masks", chosen["masks"], ("simmim", "hpm"))
    config = imagenet(chosen["size"])
    config.data.crop_scale = (0.67, 1.0)
    config.target, config.objective, config.decoder = "pixels", "absolute_error", "linear"
    set_method(
        config,
        "hpm" if masks == "hpm" else "mae",
        "moving_average(start=0.999, end=0.9999, ramp_epochs=100)",
    )
    config.mask.ratio = 0.61  # 120 of 196 patches: 30 of 49 cells, as 0.6 of them rounded up
    if masks == "simmim":
        config.mask.strategy = "simmim(cell=2)"
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=2048,
        base_learning_rate=5e-5,  # 1e-4 for 512 images there
        warmup_epochs=10.0,
        weight_decay=0.05,
        b2=0.999,
        clip_norm=5.0,
    )
    return config
