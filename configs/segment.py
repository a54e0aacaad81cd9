"""Semantic segmentation on folders of images and label maps, from a pre-trained encoder.

    python -m hpm_jax.main --config configs/segment.py --config.init_from=runs/hpm_b200 \
        --config.data.path=/data/camvid --workdir runs/camvid

The folder holds images/<split>/*.jpg, labels/<split>/*.png of class indices, and classes.txt with a
name in each line. The numbers are CamVid's: 11 is left out (config.data.ignore_index). Crops have
the size of pre-training, unless config.data.image_size is given; positions are resized to it.
Variants: frozen=1 trains the decoder alone, epochs=100, batch=16.

Protocol: a linear decoder, end to end (Kerssies et al. 2024, 2404.12172); augmentation and sliding
windows of MMSegmentation. Expected: docs/segmentation.md.
"""

import ml_collections

from hpm_jax.config import defaults, parse_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the options; `variant` is the text after the colon."""
    chosen = parse_variant(variant, (), epochs=100, batch=16, frozen=0)
    config = defaults("segment")
    config.data.ignore_index = 11
    epochs = chosen["epochs"]
    config.optimizer.update(epochs=epochs, batch_size=chosen["batch"], warmup_epochs=0.05 * epochs)
    config.evaluation.every_epochs = max(1.0, 0.1 * epochs)
    config.model.unroll = 0
    if chosen["frozen"]:
        config.model.frozen = True
        config.optimizer.update(absolute_learning_rate=1e-3, weight_decay=0.0)
    return config
