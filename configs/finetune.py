"""Fine-tunes a pre-trained encoder, on its pre-training data or on other images.

    python -m hpm_jax.main --config configs/finetune.py --config.init_from=runs/quickstart \
        --workdir runs/quickstart_finetuned

`init_from` is the workdir of a run, or a weights file (docs/weights.md). Sizes, image size,
channels, mean and std are as in pre-training, and so is the data, unless `config.data.source` and
its options are given. Variants: epochs=20, batch=256.

Paper: the recipe of MAE's and HPM's fine-tuning (CVPR 2022, CVPR 2023), shortened for small data.
Expected: docs/results.md has the results on CIFAR-10 after short pre-training.
"""

import ml_collections

from hpm_jax.config import parse_variant
from hpm_jax.config.recipes import finetune_small


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Augmented and mixed from 30 epochs on; `variant` is the text after the colon."""
    chosen = parse_variant(variant, (), epochs=20, batch=256)
    return finetune_small(chosen["epochs"], chosen["batch"], base_learning_rate=1e-3)
