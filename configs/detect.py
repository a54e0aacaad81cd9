"""Object detection on images with COCO annotations, from a pre-trained encoder.

    python -m hpm_jax.main --config configs/detect.py --config.init_from=runs/hpm_b200 \
        --config.data.path=/data/bccd --config.model.masks=False --workdir runs/bccd

The folder holds annotations/<split>.json and <split>/*.jpg. Crops have the size that pixels=512
says; positions are resized to it. Variants: epochs=50, batch=16, pixels=512.

Protocol: ViTDet (Li et al. 2022, 2203.16527) with Mask R-CNN, large-scale jitter from 0.5 to 2, and
COCO's average precision. Needs the extra "coco". Expected: docs/detection.md.
"""

import ml_collections

from hpm_jax.config import defaults, parse_variant


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the options; `variant` is the text after the colon."""
    chosen = parse_variant(variant, (), epochs=50, batch=16, pixels=512)
    config = defaults("detect")
    config.data.update(image_size=(chosen["pixels"],) * 2, interpolation="bilinear")
    config.augment.scale = (0.5, 2.0)
    epochs = chosen["epochs"]
    config.optimizer.update(
        epochs=epochs, batch_size=chosen["batch"], warmup_epochs=0.02 * epochs, decay="cosine"
    )
    config.evaluation.every_epochs = max(1.0, 0.1 * epochs)
    return config
