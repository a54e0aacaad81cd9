"""HPM on Something-Something v2: VideoMAE's recipe with hard tubes.

    python -m hpm_jax.main --config configs/hpm_ssv2.py:B,epochs=801 --workdir runs/hpm_ssv2_b \
        --config.data.path=/data/ssv2

The folder holds train.csv and val.csv, a line "path label" for each video (docs/data.md).
Variants: the size S, B (the default), L or H; epochs=801 or 2401; method=hpm (the default) or
method=videomae, the baseline with random tubes.

Papers: VideoMAE (NeurIPS 2022), scripts/ssv2; HPM (TPAMI 2024), see configs/hpm_k400.py.
Expected top-1 of the baseline after fine-tuning, from VideoMAE's README: B 69.6 at 800 epochs and
70.8 at 2400, S 66.8 at 2400. This config has not been run here to its end.
"""

import ml_collections

from hpm_jax.config import check_choice, parse_variant
from hpm_jax.config.recipes import hpm_on_video, videomae
from hpm_jax.models.sizes import LARGE_IMAGE_SIZES


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, LARGE_IMAGE_SIZES, size="B", epochs=801, method="hpm")
    check_choice("method", chosen["method"], ("hpm", "videomae"))
    config = videomae(chosen["size"], chosen["epochs"], "ssv2")
    return hpm_on_video(config) if chosen["method"] == "hpm" else config
