"""Fine-tunes a classifier of images with any number of classes, from lists (Zunair 2023).

    python -m hpm_jax.main --config configs/finetune_multi_label.py:pixels=448 \
        --config.init_from=runs/hpm_b200 --workdir runs/hpm_b200_coco \
        --config.data.path=/data/coco

`config.data.path` holds `train.csv` and `val.csv`, with a line "path,class;class" for each image.
Variants: epochs=40, batch=64, pixels=0 (the size of pre-training), branch=1 (the masked branch with
label consistency; 0 for none).

Paper: Learning to Recognize Occluded and Small Objects with Partial Inputs (Zunair and Ben Hamza
2023, arXiv 2310.18517). What differs: patches are left out where strokes of pixels are blackened
there; the optimizer is that of configs/finetune.py, and images are not mixed.
Expected: not yet run here; the abstract has no numbers. The accuracy is mean average precision.
"""

import ml_collections

from hpm_jax.config import parse_variant
from hpm_jax.config.recipes import finetune_small


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, (), epochs=40, batch=64, pixels=0, branch=1)
    config = finetune_small(chosen["epochs"], chosen["batch"], base_learning_rate=1e-3)
    config.labels = "many"
    config.data.source = "multi_label"
    if chosen["pixels"]:
        config.data.image_size = (chosen["pixels"], chosen["pixels"])
    config.augment.update(mixup=0.0, cutmix=0.0, label_smoothing=0.0)
    if chosen["branch"]:
        config.regularize.terms = ("label_consistency(ratio=0.5)",)
    return config
