"""Object detection and instance segmentation on COCO with the numbers of ViTDet's recipe.

    python -m hpm_jax.main --config configs/detect_coco.py --config.init_from=runs/hpm_b800 \
        --config.data.path=/data/coco --workdir runs/hpm_b800_coco

The folder holds annotations/instances_train2017.json, train2017 and so on. Variants: size B or L;
recipe vitdet (100 epochs, batch 64) or hpm (12 epochs, batch 16); pixels=1024.

Paper: HPM (CVPR 2023) takes detectron2's projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py
with max_iter 88,750 at batch 16, which is 12 epochs. Its numbers: crops of 1024, large-scale
jitter from 0.1 to 2, AdamW 1e-4, betas 0.9 and 0.999, weight decay 0.1, layer decay 0.7 (L 0.8),
drop path 0.1 (L 0.4), rate divided by ten after 88.9 % and 96.3 %, warm-up of 250 steps, windows of
14 patches, 4 blocks of attention over the image, relative positions. Not as there: biases and
relative positions do not decay, the warm-up starts at 0, RoIAlign takes 2 x 2 samples, and masks of
objects are arrays of 112 x 112 over their boxes. The learning rate of 12 epochs is not known to
have been scaled.
Hardware: ViTDet took 64 GPUs of one image. Use --config.optimizer.accumulation on fewer.
Expected: ViTDet with MAE B 51.6 box AP and 45.9 mask AP, L 55.5 and 49.2 (100 epochs). Not yet run
here.
"""

import ml_collections

from hpm_jax.config import check_choice, defaults, parse_variant

IMAGES = 118_287  # of train2017
SIZES = {"B": (0.7, 0.1), "L": (0.8, 0.4)}  # layer decay, drop path
RECIPES = {"vitdet": (100, 64), "hpm": (12, 16)}  # epochs, batch size


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, SIZES, size="B", recipe="vitdet", pixels=1024)
    epochs, batch = RECIPES[check_choice("recipe", chosen["recipe"], RECIPES)]
    layer_decay, drop_path = SIZES[chosen["size"]]
    config = defaults("detect")
    config.data.update(train_split="train2017", test_split="val2017", interpolation="bilinear")
    config.data.update(image_size=(chosen["pixels"],) * 2, skip_invalid=True)
    config.model.update(dtype="bfloat16", drop_path=drop_path, window=14, global_blocks=4)
    config.model.relative_positions = True
    config.optimizer.update(
        epochs=epochs,
        batch_size=batch,
        absolute_learning_rate=1e-4,
        decay="steps",
        milestones=(8 / 9, 26 / 27),
        warmup_epochs=250 * batch / IMAGES,
        weight_decay=0.1,
        b2=0.999,
        layer_decay=layer_decay,
    )
    config.evaluation.update(every_epochs=epochs / 10, batch_size=16)
    config.run.update(workers=16, log_every_steps=50)
    return config
