"""Scores a trained segmenter on another split, or by several scales and mirrored images.

    python -m hpm_jax.main --config configs/segment_evaluate.py --config.init_from=runs/camvid \
        --config.data.test_split=test --workdir runs/camvid_test

`init_from` is the workdir of a run of configs/segment.py, or its folder best. Without
config.data.path and config.data.test_split the data is that of the run. Variants: flip=1 adds
mirrored images, scales=many adds 0.5, 0.75, 1.25, 1.5 and 1.75 of the size (as MMSegmentation).

Expected: docs/segmentation.md.
"""

import ml_collections

from hpm_jax.config import check_choice, defaults, parse_variant

SCALES = {"one": (1.0,), "many": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the options; `variant` is the text after the colon."""
    chosen = parse_variant(variant, (), scales="one", flip=0)
    config = defaults("segment_evaluate")
    config.evaluation.scales = SCALES[check_choice("scales", chosen["scales"], SCALES)]
    config.evaluation.flip = bool(chosen["flip"])
    return config
