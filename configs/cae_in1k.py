"""CAE on ImageNet-1k: features of hidden patches are regressed, aligned and decoded to pixels.

    python -m hpm_jax.main --config configs/cae_in1k.py:B,epochs=1600 \
        --workdir runs/cae_b1600 --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default) or L; epochs=800; masks=block (the default: BEiT's blocks, 98
of 196 patches) or hpm, with HPM's masks and loss.

Paper: Context Autoencoder for Self-Supervised Representation Learning (arXiv 2202.03026). A
regressor of 4 blocks predicts the encoder's output at hidden patches from visible ones, by cross
attention; a decoder of 4 blocks sees these predictions alone. Twice the squared error between them
and the output of the encoder for the hidden patches is added. Sizes and numbers are those of the
official README.
Hardware: the official README's command is for 32 GPUs.
Expected, after fine-tuning, from the official README: B 83.9 at 1600 epochs with DALL-E's codes as
target. This config has not been run here yet.
What differs: the target is normalised pixels by default, not DALL-E's codes (--config.target and
--config.objective of configs/beit2_in1k.py give codes of another encoder); there is no layer scale
and no stochastic depth; in the regressor keys and values have one norm, and positions are added
once.
"""

import ml_collections

from hpm_jax.config import check_choice, parse_variant
from hpm_jax.config.methods import set_method
from hpm_jax.config.recipes import imagenet


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, "SBL", size="B", epochs=800, masks="block")
    masks = check_choice("masks", chosen["masks"], ("block", "hpm"))
    config = imagenet(chosen["size"])
    config.model.update(decoder_width=config.model.width, decoder_depth=4)
    config.model.decoder_heads = config.model.heads
    config.target, config.decoder = "normalized_pixels", "latent_regressor(depth=4)"
    set_method(
        config,
        "hpm" if masks == "hpm" else "mae",
        "moving_average(start=0.999, end=0.9999, ramp_epochs=100)",
    )
    config.losses = (*config.losses, "latent_alignment(weight=2.0)")
    config.mask.ratio = 0.5  # 98 of 196 patches
    if masks == "block":
        config.mask.strategy = "beit_block"
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=2048,
        base_learning_rate=1.5e-3 / 8,
        warmup_epochs=20.0,
        weight_decay=0.05,
        b2=0.999,
        clip_norm=3.0,
    )
    return config
