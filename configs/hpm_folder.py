"""HPM on your own images: a folder, with or without labels.

    python -m hpm_jax.main --config configs/hpm_folder.py --workdir runs/mine \
        --config.data.path=/data/my_images

The folder holds train/<class>/* and test/<class>/*, or <class>/*, or only images. Without a test
folder, a tenth of the images is held out. Without classes, there is no kNN accuracy; the rest of
the evaluation is unchanged.

At its start, the run inspects the data and the machine, and chooses the size of images, patches
and model, batch, epochs, workers and dtype (hpm_jax/data/suggest.py). It prints its choice as
command-line options, and keeps it when it resumes, on any machine.

Variants, which take precedence: the size S, B, L or H for images of about 224 pixels, tiny or micro
for images of about 32; epochs=400; pixels=224, the side that images are resized to. Other sources
of images work as well, such as --config.data.source=webdataset (docs/data.md).

Paper: HPM (CVPR 2023). For data sets of thousands to hundreds of thousands of images; the recipe is
ImageNet's with smaller batches, a shorter warm-up and a teacher with a lower decay. It has not been
tuned on a benchmark.
"""

import ml_collections

from hpm_jax.config import defaults, parse_variant
from hpm_jax.models.sizes import SIZES, SMALL_IMAGE_SIZES

# Chosen at the start of the run, for every variant.
FOUND = (
    "data.channels",
    "data.mean",
    "data.std",
    "data.value_range",
    "model.dtype",
    "optimizer.batch_size",
    "optimizer.accumulation",
    "optimizer.warmup_epochs",
    "teacher",
    "evaluation.every_epochs",
    "run.workers",
)


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config; `variant` is the text after the colon."""
    chosen = parse_variant(variant, SIZES, size="", epochs=0, pixels=0)
    config = defaults()
    config.automatic = FOUND
    if not chosen["size"]:
        config.automatic += tuple(f"model.{name}" for name in SIZES["S"])
        config.automatic += ("optimizer.base_learning_rate",)
        if not chosen["pixels"]:
            config.automatic += ("data.image_size",)
    if not chosen["epochs"]:
        config.automatic += ("optimizer.epochs",)

    # used if nothing is chosen, as in python -m hpm_jax.plan, which has no data
    chosen["size"], chosen["epochs"] = chosen["size"] or "S", chosen["epochs"] or 400
    small = chosen["size"] in SMALL_IMAGE_SIZES
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
