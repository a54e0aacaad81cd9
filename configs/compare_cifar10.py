"""Compares nine pre-training methods on CIFAR-10: effects of loss prediction and of hard masks.

    python -m hpm_jax.compare --config configs/compare_cifar10.py --workdir runs/compare \
        --config.base.data.source=folder --config.base.data.path=/data/cifar10

The folder holds train/<class>/*.png and test/<class>/*.png. Cells are read from and written to
results/compare_cifar10; --config.results= keeps them in the workdir instead. A cell that is there
is not run again, so several machines can share the work: --config.seeds="(3, 4)" on one of them,
or --config.only="('hpm',)".

The setting is small: on two CPU cores a cell takes minutes. docs/results.md has the results, and
the settings that were tried before this one was chosen.

Papers: HPM (CVPR 2023), MAE (CVPR 2022), ColorMAE (ECCV 2024).
"""

import ml_collections

from hpm_jax.config import defaults

STUDENT_ALONE = "none"
TEACHER = "moving_average(start=0.99, end=0.99)"  # averages over about a hundred of these steps

# masks, losses beside reconstruction, and the network that predicts losses
ARMS = {
    "mae": ("random", (), STUDENT_ALONE),
    "random": ("random", ("ranking",), STUDENT_ALONE),
    "random_absolute": ("random", ("absolute",), STUDENT_ALONE),
    "hpm": ("hard(start=0.0, end=0.5, schedule='step')", ("ranking",), TEACHER),
    "hpm_absolute": ("hard(start=0.0, end=0.5, schedule='step')", ("absolute",), TEACHER),
    "always_hard": ("hard(start=0.5, end=0.5)", ("ranking",), TEACHER),
    "easy": ("easy(start=0.0, end=0.5, schedule='step')", ("ranking",), TEACHER),
    "block": ("block", ("ranking",), STUDENT_ALONE),
    "green": ("green", ("ranking",), STUDENT_ALONE),
}

CONTRASTS = (
    "random > mae: predicting losses helps even with random masks",
    "hpm > random: hard patches beat random ones",
    "hpm > hpm_absolute: ranking beats regression",
    "hpm > always_hard: easy to hard beats always hard",
    "hpm > green: learned masks beat filtered noise",
    "random > block: the positive control, ten points for a linear probe in MAE's table 1f",
)


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the comparison; it has no variants."""
    del variant
    config = defaults("compare")
    base = config.base
    base.data.update(source="tfds", name="cifar10", image_size=(32, 32))
    base.data.mean, base.data.std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    base.data.test_crop = 1.0
    base.model.update(width=96, depth=4, heads=3, patch_size=4, unroll=0)
    base.model.update(decoder_width=48, decoder_depth=1, decoder_heads=2)
    base.target = "normalized_pixels"
    base.optimizer.update(epochs=1, batch_size=64, base_learning_rate=4e-3, warmup_epochs=0.1)

    config.arms = {
        name: {"mask": {"strategy": strategy}, "losses": losses, "teacher": teacher}
        for name, (strategy, losses, teacher) in ARMS.items()
    }
    config.order = tuple(ARMS)
    config.contrasts = CONTRASTS
    # encoding all 50,000 at three checkpoints would take three times as long as training
    config.bank_images = 10_000
    config.checkpoints = (0.9, 1.0)
    config.results = "results/compare_cifar10"
    return config
