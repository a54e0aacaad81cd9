"""Measures the accuracy of a classifier with its own head: a run's, or a downloaded one.

    python -m hpm_jax.main --config configs/evaluate.py --workdir runs/mae_b_evaluated \
        --config.init_from=mae_finetuned_vit_base.pth --config.data.source=folder \
        --config.data.path=/data/imagenet

`init_from` is the workdir of a fine-tuning run, its best/, a weights file with a head (MAE, HPM,
VideoMAE, mae_st, timm; docs/weights.md), or a folder of timm or Hugging Face, which also has mean
and std. Only the test split of the data is read, or the whole folder if it has no splits. So
ImageNet-A, -R, -Sketch and the folders of -C are scored by their path. If they have only some of
the model's classes, name all of these: --config.classes=/data/imagenet/val, a file of names, or a
run's classes.json. Predictions are then limited to the classes of the folder, unless
--config.restrict=False.

Variants: views k400 (5 clips of 3 crops), ssv2 (2 of 3, one frame of each segment) or mae_st
(10 clips of 3 crops); without one a single view. Other sizes: --config.data.image_size="(384,384)".

Expected top-1 on ImageNet-1k: MAE's fine-tuned B 83.664, L 85.952, H 86.928 (its README). On
Kinetics-400: VideoMAE's 79.0 (S), 80.0 and 81.5 (B, 800 and 1600 epochs), 85.2 (L), 86.6 (H), and
mae_st's L 84.35 (their READMEs). These files have not been scored here.
"""

import ml_collections

from hpm_jax.config import defaults, parse_variant

VIEWS = {
    "one": {},
    "k400": {"sampling": "dense", "frame_stride": 4, "test_clips": 5, "test_crops": 3},
    "ssv2": {"sampling": "segments", "test_clips": 2, "test_crops": 3},
    "mae_st": {"sampling": "dense", "frame_stride": 4, "test_clips": 10, "test_crops": 3},
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config; `variant` is the text after the colon."""
    chosen = parse_variant(variant, VIEWS, views="one")
    config = defaults("evaluate")
    config.data.update(VIEWS[chosen["views"]])
    if chosen["views"] != "one":
        config.evaluation.batch_size = 8  # videos, each in all its views
    return config
