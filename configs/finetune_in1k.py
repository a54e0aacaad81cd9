"""Fine-tuning on ImageNet-1k: HPM's recipe, and MAE's for contrast.

    python -m hpm_jax.main --config configs/finetune_in1k.py:B --config.init_from=runs/hpm_b200 \
        --workdir runs/hpm_b200_finetuned --config.data.source=folder \
        --config.data.path=/data/imagenet

Variants: the size B (the default), L or H, recipe=hpm (the default) or recipe=mae, epochs=100
(without it the recipe's own: 100 for B, 50 for L and H), pixels=224. Set pixels= rather than
image_size: above 224 both codes test on whole short sides, below on crops of 0.875.

Papers: HPM (CVPR 2023; scripts/finetune_*.sh) and MAE (CVPR 2022; FINETUNE.md).
Hardware: HPM's scripts took 8 GPUs. Use --config.optimizer.accumulation=4 on fewer.
Expected top-1: HPM B 83.0 after 200 epochs of pre-training and 84.2 after 800, L 85.8 after 800
(official README); MAE B 83.6 and L 85.9 after 1600. This config has not been run here to its end.
"""

import ml_collections

from hpm_jax.config import check_choice, defaults, parse_variant
from hpm_jax.config.recipes import mae_test_crop

SIZES = ("B", "L", "H")
RECIPES = {
    # base learning rate, layer decay, drop path, batch size, devices (each mixes its own batch)
    "hpm": {
        "B": (5e-4, 0.8, 0.1, 384, 8),
        "L": (5e-4, 0.8, 0.1, 512, 8),
        "H": (5e-4, 0.8, 0.1, 512, 8),  # not published: as L
    },
    "mae": {
        "B": (5e-4, 0.65, 0.1, 1024, 32),
        "L": (1e-3, 0.75, 0.2, 1024, 32),
        "H": (1e-3, 0.75, 0.3, 1024, 64),
    },
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, SIZES, size="B", recipe="hpm", epochs=0, pixels=224)
    recipe = RECIPES[check_choice("recipe", chosen["recipe"], RECIPES)]
    rate, layer_decay, drop_path, batch_size, devices = recipe[chosen["size"]]
    config = defaults("finetune")
    config.data.update(source="tfds", name="imagenet2012", test_split="validation")
    pixels = chosen["pixels"]
    config.data.update(image_size=(pixels, pixels), test_crop=mae_test_crop(pixels))
    config.model.update(dtype="bfloat16", pool="mean", drop_path=drop_path)
    config.augment.policy = "rand-m9-mstd0.5-inc1"
    config.augment.update(erase=0.25, mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    config.augment.mix_groups = devices
    config.optimizer.update(
        epochs=chosen["epochs"] or {"B": 100, "L": 50, "H": 50}[chosen["size"]],
        batch_size=batch_size,
        base_learning_rate=rate,
        floor=1e-6,
        warmup_epochs=5.0,
        weight_decay=0.05,
        b2=0.999,
        clip_norm=0.0,
        layer_decay=layer_decay,
    )
    config.run.update(workers=16, log_every_steps=50)
    return config
