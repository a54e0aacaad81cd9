"""Propagates the objects of a clip's first frame by frozen patch tokens, on DAVIS.

    python -m hpm_jax.main --config configs/track.py --config.init_from=runs/hpm_b200 \
        --config.data.path=/data/DAVIS --workdir runs/davis

The folder holds JPEGImages/480p/<clip>/*.jpg and Annotations/480p/<clip>/*.png. One table compares
the encoder with random weights, raw pixels and a copy of the first frame. Variants: block=9,
height=480 and width=848 (frames are resized to that; multiples of the patch size), frames=7,
radius=12, neighbors=5.

Protocol: that of DINO's evaluation (Caron et al. 2021, 2104.14294); docs/segmentation.md has what
differs. Expected: not yet run on DAVIS here.
"""

import ml_collections

from hpm_jax.config import defaults, parse_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the options; `variant` is the text after the colon."""
    chosen = parse_variant(
        variant, (), block=-1, height=480, width=848, frames=7, radius=12, neighbors=5
    )
    config = defaults("track")
    config.features.block = chosen["block"]
    config.data.image_size = (chosen["height"], chosen["width"])
    for name in ("frames", "radius", "neighbors"):
        config.propagation[name] = chosen[name]
    return config
