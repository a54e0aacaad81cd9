"""Scores a trained detector on another split or folder.

    python -m hpm_jax.main --config configs/detect_evaluate.py --config.init_from=runs/bccd \
        --config.data.test_split=test --workdir runs/bccd_test

`init_from` is the workdir of a run of configs/detect.py, or its folder best. Without
config.data.path and config.data.test_split the data is that of the run. It has no variants.

Needs the extra "coco". Expected: docs/detection.md.
"""

import ml_collections

from hpm_jax.config import defaults, parse_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the options; `variant` is the text after the colon."""
    parse_variant(variant, ())
    return defaults("detect_evaluate")
