"""Frozen patch tokens on folders of images and label maps: logistic regression and kNN.

    python -m hpm_jax.main --config configs/segment_probe.py --config.init_from=runs/hpm_b200 \
        --config.data.path=/data/camvid --workdir runs/camvid_probe

The data is as in configs/segment.py; 11 is left out (config.data.ignore_index). One table compares
the encoder with random weights and with raw pixels. Variants: block=9, bank=50000.

Protocol: after CAPI's frozen evaluation (Darcet et al. 2025, 2502.08769); docs/segmentation.md has
what is done here. Expected: docs/segmentation.md.
"""

import ml_collections

from hpm_jax.config import defaults, parse_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the options; `variant` is the text after the colon."""
    chosen = parse_variant(variant, (), block=-1, bank=50_000)
    config = defaults("segment_probe")
    config.data.ignore_index = 11
    config.features.block = chosen["block"]
    config.probes.bank = chosen["bank"]
    return config
