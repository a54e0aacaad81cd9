"""HPM on UCF101: VideoMAE's recipe for a small data set, with hard tubes.

    python -m hpm_jax.main --config configs/hpm_ucf101.py:hpm --workdir runs/hpm_ucf101_b \
        --config.data.path=/data/ucf101

The folder holds train.csv and val.csv, a line "path label" for each video (docs/data.md).
Variants: the method hpm (the default) or videomae, the baseline with random tubes; epochs=3201.
The model is ViT-B.

Papers: VideoMAE (NeurIPS 2022), scripts/ucf101; HPM (TPAMI 2024), see configs/hpm_k400.py.
Hardware: VideoMAE's script is for 8 GPUs.
Expected top-1 of the baseline after fine-tuning, from VideoMAE's README: 91.3. This config has not
been run here to its end.
"""

import ml_collections

from hpm_jax.config import parse_variant
from hpm_jax.config.recipes import hpm_on_video, videomae


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, ("hpm", "videomae"), method="hpm", epochs=3201)
    config = videomae("B", chosen["epochs"], "ucf101")
    return hpm_on_video(config) if chosen["method"] == "hpm" else config
