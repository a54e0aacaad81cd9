"""LocalMIM on ImageNet-1k: gradients of four scales, each from a block of the encoder of its own.

    python -m hpm_jax.main --config configs/localmim_in1k.py:B,epochs=1600 \
        --workdir runs/localmim_b1600 --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default) or L; epochs=1600; method=mae (the default: random masks) or
hpm, with HPM's masks and loss, whose ranking is that of the scale of the patches.

Paper: Masked Image Modeling with Local Multi-Scale Reconstruction (CVPR 2023, arXiv 2303.05251).
Blocks 2, 4, depth - 2 and depth predict histograms of oriented gradients in cells of 4, 8, 16 and
32 pixels, each by a decoder of one block. Sizes and numbers are those of the official README; 18
bins for L, whose base learning rate is 1.5e-4.
Hardware: the official README's runs took 8 V100.
Expected, after fine-tuning, from the official README: B 84.0 (1600 epochs), L 85.8 (800). This
config has not been run here yet.
What differs: the official convolution that finds the gradients of L has a random bias.
"""

import ml_collections

from hpm_jax.config import check_choice, parse_variant
from hpm_jax.config.methods import set_method
from hpm_jax.config.recipes import imagenet


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, "SBL", size="B", epochs=1600, method="mae")
    config, large = imagenet(chosen["size"]), chosen["size"] == "L"
    config.model.update(decoder_width=256, decoder_depth=1, decoder_heads=8)
    depth, bins = config.model.depth, 18 if large else 9
    config.decoder = f"self_attention(block={depth - 2})"
    config.target = f"hog(bins={bins}, cell=16, window=0)"
    config.mask.ratio = 0.75
    set_method(
        config,
        check_choice("method", chosen["method"], ("mae", "hpm")),
        "moving_average(start=0.999, end=0.9999, ramp_epochs=100)",
    )
    scales = f"multi_scale(blocks=(2, 4, {depth}), cells=(4, 8, 32), bins={bins})"
    config.losses = (*config.losses, scales)
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=2048,
        base_learning_rate=1.5e-4 if large else 2e-4,
        warmup_epochs=40.0,
        floor=1e-6,
        weight_decay=0.05,
        b2=0.95,
        clip_norm=0.0,
    )
    return config
