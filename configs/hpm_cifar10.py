"""HPM, MAE, and intermediate methods on CIFAR-10, with the same budget.

    python -m hpm_jax.main --config configs/hpm_cifar10.py:hpm --workdir runs/cifar10_hpm \
        --config.data.source=folder --config.data.path=/data/cifar10

The folder holds train/<class>/*.png and test/<class>/*.png. Without the two options in the second
line CIFAR-10 comes from tensorflow-datasets: `tfds build cifar10 --file_format=array_record`.

Variants: the method hpm (the default), mae, random (loss prediction with random masks), and the
ablations absolute, random_absolute, easy, always_hard, hard_to_easy, grid and block;
size=tiny (the default; width 192, 12 blocks) or size=micro (width 128, 6 blocks), which two CPU
cores can train; epochs=400; target=features (features of the teacher in place of normalised pixels,
as in the paper's table 1; not yet run here).

Papers: HPM (CVPR 2023) and MAE (CVPR 2022); neither reports CIFAR-10.
Expected: docs/results.md has the results of size=micro,epochs=10 on two CPU cores, for each method.
size=tiny has not been run to its end.
"""

import ml_collections

from hpm_jax.config import check_choice, defaults, parse_variant
from hpm_jax.config.methods import METHODS, set_method, set_target
from hpm_jax.models.sizes import SIZES, SMALL_IMAGE_SIZES


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The same budget for every method; `variant` is the text after the colon."""
    chosen = parse_variant(variant, METHODS, method="hpm", size="tiny", epochs=400, target="pixels")
    config = defaults()
    config.data.update(source="tfds", name="cifar10", image_size=(32, 32))
    config.data.mean, config.data.std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    config.data.test_crop = 1.0
    config.model.update(SIZES[check_choice("size", chosen["size"], SMALL_IMAGE_SIZES)], unroll=0)
    config.target = "normalized_pixels"
    # the teacher averages over a few epochs of this small data set
    ramp = chosen["epochs"] // 2
    teacher = f"moving_average(start=0.99, end=0.999, ramp_epochs={ramp})"
    set_method(config, chosen["method"], teacher)
    set_target(config, chosen["target"], teacher)

    short = chosen["epochs"] < 50
    config.optimizer.epochs = chosen["epochs"]
    config.optimizer.batch_size = 256 if short else 512
    config.optimizer.base_learning_rate = 1e-3 if short else 3e-4
    config.optimizer.warmup_epochs = 0.05 * chosen["epochs"]
    config.evaluation.every_epochs = 1.0 if short else 10.0
    config.evaluation.update(bank_images=5000, test_images=2000)
    return config
