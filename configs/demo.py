"""The small model that ships with the package and that `python -m hpm_jax.demo` shows.

    python -m hpm_jax.main --config configs/demo.py --workdir runs/demo \
        --config.data.path=/data/photographs

The shipped weights were trained on 96 photographs, four copies of each, and 468 street scenes of
CamVid, all scaled to 208 pixels on the shorter side; docs/demo.md has the numbers. The target is
raw pixels, so that the picture contains no information from hidden patches.

Paper: HPM (CVPR 2023), in a model of 0.96 million parameters.
"""

import ml_collections

from hpm_jax.config import defaults, parse_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config; `variant` is the text after the colon, such as epochs=300."""
    chosen = parse_variant(variant, (), epochs=300)
    config = defaults()
    config.data.source = "folder"
    config.data.holdout = 0.05
    config.data.image_size = (64, 64)
    config.data.crop_scale = (0.15, 1.0)
    config.model.patch_size = 8
    config.model.update(width=128, depth=4, heads=4, unroll=0)
    config.model.update(decoder_width=64, decoder_depth=1, decoder_heads=4)
    config.target = "pixels"

    config.optimizer.epochs = chosen["epochs"]
    config.optimizer.batch_size = 64
    config.optimizer.base_learning_rate = 4e-3
    config.optimizer.warmup_epochs = 0.05 * chosen["epochs"]
    ramp = max(1, chosen["epochs"] // 2)
    config.teacher = f"moving_average(start=0.98, end=0.998, ramp_epochs={ramp})"
    config.evaluation.every_epochs = chosen["epochs"] / 10
    config.run.checkpoint_every_epochs = chosen["epochs"] / 50
    return config
