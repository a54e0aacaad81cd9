"""HPM on your own images: a folder, with or without labels.

    python -m hpm_jax.main --config configs/hpm_folder.py --workdir runs/mine \
        --config.data.path=/data/my_images

The folder holds train/<class>/* and test/<class>/*, or <class>/*, or just images. What is missing
is made up for: without a test folder a tenth of the images is held out, without classes there is no
kNN accuracy and the rest of the evaluation stays.

Variants: the size S (the default), B, L or H for images of about 224 pixels, tiny or micro for
images of about 32; epochs=400; pixels=224, the side that images are resized to (tiny, micro: 32).

Paper: HPM (CVPR 2023). For data sets of some thousands to some hundred thousands of images; the
recipe is ImageNet's with smaller batches, a shorter warm-up and a teacher that forgets sooner.
Nobody has tuned it on a benchmark.
"""

import ml_collections

from hpm_jax.config import defaults, parse_variant
from hpm_jax.models.sizes import SIZES, SMALL_IMAGE_SIZES


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """`variant` is what stands behind the colon."""
    chosen = parse_variant(variant, SIZES, size="S", epochs=400, pixels=0)
    small = chosen["size"] in SMALL_IMAGE_SIZES
    config = defaults()
    config.data.source = "folder"
    pixels = chosen["pixels"] or (32 if small else 224)
    config.data.image_size = (pixels, pixels)
    config.model.update(SIZES[chosen["size"]])
    config.target = "normalized_pixels"

    config.optimizer.epochs = chosen["epochs"]
    config.optimizer.batch_size = 256
    config.optimizer.base_learning_rate = 1e-3 if small else 1.5e-4
    config.optimizer.warmup_epochs = 0.05 * chosen["epochs"]
    ramp = chosen["epochs"] // 2
    config.teacher = f"moving_average(start=0.99, end=0.999, ramp_epochs={ramp})"
    config.evaluation.every_epochs = max(1.0, chosen["epochs"] / 20)
    config.run.workers = 2
    return config
