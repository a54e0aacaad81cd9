"""The accuracy of a classifier with the head that it has: a run's, or a downloaded one.

    python -m hpm_jax.main --config configs/evaluate.py --workdir runs/mae_b_evaluated \
        --config.init_from=mae_finetuned_vit_base.pth --config.data.source=folder \
        --config.data.path=/data/imagenet

`init_from` is the workdir of a fine-tuning run, its best/, a file of weights with a head (MAE, HPM,
VideoMAE, mae_st, timm; docs/weights.md), or a folder of timm or Hugging Face, which also tells mean
and std. Of the data only the test split is read; without one, all that the folder holds, so that
ImageNet-A, -R, -Sketch and the folders of -C are scored by naming them and, where they have some of
the classes alone, all the model's: --config.classes=/data/imagenet/val, a file of names, or a run's
classes.json. Then the classes of the folder are chosen among, unless --config.restrict=False.

Variants: views k400 (5 clips of 3 crops), ssv2 (2 of 3, one frame of each segment) or mae_st
(10 clips of 3 crops); without one a single view. Other sizes: --config.data.image_size="(384,384)".

Expected top-1 on ImageNet-1k: MAE's fine-tuned B 83.664, L 85.952, H 86.928 (its README). On
Kinetics-400: VideoMAE's 79.0 (S), 80.0 and 81.5 (B, 800 and 1600 epochs), 85.2 (L), 86.6 (H), and
mae_st's L 84.35 (their READMEs). Nobody has scored those files here.
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
    """`variant` is what stands behind the colon."""
    chosen = parse_variant(variant, VIEWS, views="one")
    config = defaults("evaluate")
    config.data.update(VIEWS[chosen["views"]])
    if chosen["views"] != "one":
        config.evaluation.batch_size = 8  # videos, each in all its views
    return config
