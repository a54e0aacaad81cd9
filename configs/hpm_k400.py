"""HPM on Kinetics-400: VideoMAE's recipe with hard tubes.

    python -m hpm_jax.main --config configs/hpm_k400.py:B,epochs=801 --workdir runs/hpm_k400_b \
        --config.data.path=/data/k400

The folder holds train.csv and val.csv, a line "path label" for each video (docs/data.md).
Variants: the size S, B (the default), L or H; epochs=801; masks=tube (the default) or masks=free,
which hides space-time tokens independently.

Paper: Hard Patches Mining (TPAMI 2024 extends it to videos; its video code was never released). The
recipe is VideoMAE's (NeurIPS 2022), the rest is a proposal of this package: tubes are ranked by
their mean loss over time, and the teacher sees every second frame of the grid (docs/video.md).
Hardware: by analytic count a step costs 2.5 of VideoMAE's (python -m hpm_jax.benchmark).
Expected: this config has not been run to its end; the paper's video numbers are not public.
"""

import ml_collections

from hpm_jax.config import check_choice, parse_variant
from hpm_jax.config.recipes import hpm_on_video, videomae
from hpm_jax.models.sizes import LARGE_IMAGE_SIZES

MASKS = {"tube": "tube", "free": "patch"}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, LARGE_IMAGE_SIZES, size="B", epochs=801, masks="tube")
    config = hpm_on_video(videomae(chosen["size"], chosen["epochs"]))
    config.mask.unit = MASKS[check_choice("masks", chosen["masks"], MASKS)]
    if chosen["masks"] == "free":
        # all pairs of 1,408 hidden tokens are a million per clip
        config.losses = ("ranking(pairs='sampled')",)
    return config
