"""Depth from frozen patch tokens by a linear head, on folders of images and depth maps (NYUv2).

    python -m hpm_jax.main --config configs/depth_probe.py --config.init_from=runs/hpm_b200 \
        --config.data.path=/data/nyuv2 --workdir runs/nyuv2_depth

The folder holds images/<split>/*.jpg and depth/<split>/*.png of 16 bits in millimetres, or
<split>/<scene>/rgb_*.jpg beside sync_depth_*.png. One table compares the encoder with random
weights, raw pixels and the mean depth. Variants: block=9, bank=50000, eigen=1 scores within Eigen's
crop.

Protocol: one linear map of single patches in closed form; docs/segmentation.md has what is done
here. Published protocols (DINOv2) train a head by gradients on several blocks, so compare encoders
by this table, not with theirs. Expected: not yet run on NYUv2 here.
"""

import ml_collections

from hpm_jax.config import defaults, parse_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the options; `variant` is the text after the colon."""
    chosen = parse_variant(variant, (), block=-1, bank=50_000, eigen=0)
    config = defaults("depth_probe")
    config.features.block = chosen["block"]
    config.head.bank = chosen["bank"]
    config.evaluation.eigen_crop = bool(chosen["eigen"])
    return config
