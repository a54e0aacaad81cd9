"""Semantic segmentation on ADE20K with the numbers of MAE's and HPM's recipe.

    python -m hpm_jax.main --config configs/segment_ade20k.py --config.init_from=runs/hpm_b800 \
        --config.data.path=/data/ADEChallengeData2016 --workdir runs/hpm_b800_ade20k

The folder is that of the scene parsing challenge: images/training, annotations/training and so on,
and objectInfo150.txt. Variants: frozen=1 trains the decoder alone, epochs=127, pixels=512.

Paper: HPM (CVPR 2023) points to MMSegmentation's configs/mae, of which these numbers are: crops of
512, batch 16, 160,000 steps (127 epochs), AdamW 1e-4, betas 0.9 and 0.999, weight decay 0.05, layer
decay 0.65, drop path 0.1, linear decay after a warm-up of 1,500 steps, short side 512 times 0.5 to
2, windows of 512 every 341 pixels. Not as there: the decoder is linear (Kerssies et al. 2024,
2404.12172) where HPM has UPerNet with an auxiliary head, the warm-up starts at 0, and blocks have
neither relative positions nor LayerScale.
Hardware: the recipe took 8 GPUs of 2 images. Use --config.optimizer.accumulation on fewer.
Expected: HPM B 48.5 mIoU after 800 epochs of pre-training and 42.1 after 200, MAE B 48.1 after
1600, all with UPerNet (official READMEs); a linear decoder is below. Not yet run here.
"""

import ml_collections

from hpm_jax.config import defaults, parse_variant

IMAGES = 20_210  # of the training split


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, (), epochs=127, pixels=512, frozen=0)
    config = defaults("segment")
    pixels = chosen["pixels"]
    config.data.update(image_size=(pixels, pixels), short_side=pixels, classes=150)
    config.data.update(reduce_zero_label=True, interpolation="bilinear")
    config.model.update(dtype="bfloat16", drop_path=0.1, frozen=bool(chosen["frozen"]))
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=16,
        absolute_learning_rate=1e-4,
        decay="linear",
        floor=0.0,
        warmup_epochs=1500 * 16 / IMAGES,
        weight_decay=0.05,
        b2=0.999,
        layer_decay=0.65,
    )
    config.evaluation.update(every_epochs=12.7, batch_size=16)
    config.run.update(workers=16, log_every_steps=50)
    return config
