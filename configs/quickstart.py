"""HPM on the handwritten digits of scikit-learn: the whole method in minutes on a laptop.

    python -m hpm_jax.main --config configs/quickstart.py --workdir runs/quickstart

Paper: Hard Patches Mining for Masked Image Modeling (CVPR 2023), on toy data.
"""

import ml_collections

from hpm_jax.config import defaults


def get_config() -> ml_collections.ConfigDict:
    """Returns the config: 1,497 images of 28 x 28 in 49 patches, a transformer of 4 blocks."""
    config = defaults()
    config.data.source = "digits"
    config.data.holdout = 1 / 6
    config.data.image_size = (28, 28)
    config.data.channels = 1
    config.data.mean, config.data.std = (0.5,), (0.5,)
    config.data.crop_scale = (0.5, 1.0)
    config.data.flip = 0.0  # mirrored digits are not digits
    config.data.test_crop = 1.0

    config.model.patch_size = 4
    config.model.update(width=64, depth=4, heads=4, unroll=0)
    config.model.update(decoder_width=48, decoder_depth=1, decoder_heads=4)
    config.target = "normalized_pixels"

    config.optimizer.epochs = 50
    config.optimizer.batch_size = 64
    config.optimizer.base_learning_rate = 8e-3
    config.optimizer.warmup_epochs = 4.0
    # a short run needs a teacher with a lower decay than ImageNet's
    config.teacher = "moving_average(start=0.95, end=0.99, ramp_epochs=30)"

    config.evaluation.every_epochs = 5.0
    config.run.checkpoint_every_epochs = 10.0
    return config
