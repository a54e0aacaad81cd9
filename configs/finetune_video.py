"""Fine-tuning on Kinetics-400 or Something-Something v2: VideoMAE's recipes.

    python -m hpm_jax.main --config configs/finetune_video.py:k400,size=B \
        --config.init_from=runs/hpm_k400_b --workdir runs/hpm_k400_b_finetuned

Variants: the data k400 (the default) or ssv2; size=S, B (the default), L or H, which chooses the
recipe; epochs=100. Without epochs= the recipe's own. Tested on 5 clips of 3 crops (k400) or 2 of 3
(ssv2), each video counted once.

Paper: VideoMAE (NeurIPS 2022), scripts/kinetics and scripts/ssv2.
Hardware: VideoMAE's ViT-B took 64 GPUs. Use --config.optimizer.accumulation on fewer.
Expected top-1 after 800 epochs of VideoMAE, from its README: B 80.0 on k400 and 69.6 on
ssv2. Nobody has run this config here to its end.
"""

import ml_collections

from hpm_jax.config import check_choice, defaults, parse_variant

RECIPES = {
    # base learning rate, batch size, clips of each video, epochs, by the epochs of pre-training
    "k400": {
        "S": (1e-3, 512, 1, 150),  # 1600 epochs
        "B": (1e-3, 512, 1, 100),  # 800
        "L": (2e-3, 128, 2, 35),  # 1600
        "H": (2e-3, 128, 2, 35),  # not published: as L
    },
    "ssv2": {
        "S": (1e-3, 512, 1, 40),  # 2400
        "B": (5e-4, 512, 1, 50),  # 800
        "L": (5e-4, 512, 1, 40),  # not published: as B, shorter
        "H": (5e-4, 512, 1, 40),
    },
}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The recipe in full; `variant` is what stands behind the colon."""
    chosen = parse_variant(variant, RECIPES, data="k400", size="B", epochs=0)
    recipes = RECIPES[chosen["data"]]
    size = check_choice("size", chosen["size"], recipes)
    rate, batch_size, clips, epochs = recipes[size]
    config = defaults("finetune")
    config.data.update(clips=clips, crop="resized", crop_scale=(0.08, 1.0), test_crops=3)
    if chosen["data"] == "k400":
        config.data.update(sampling="dense", flip=0.5, test_clips=5)
    else:
        # left and right are part of these labels
        config.data.update(sampling="segments", flip=0.0, test_clips=2)
    config.model.update(dtype="bfloat16", pool="mean", drop_path=0.1)
    config.augment.policy = "rand-m7-n4-mstd0.5-inc1"
    config.augment.update(erase=0.25, mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    config.optimizer.update(
        epochs=chosen["epochs"] or epochs,
        batch_size=batch_size,
        base_learning_rate=rate,
        floor=1e-6 * batch_size / 256,
        warmup_epochs=5.0,
        weight_decay=0.05,
        b2=0.999,
        clip_norm=0.0,
        layer_decay=0.75,
    )
    # a test batch of 8 videos in 15 views is 0.3 GB, and every worker holds one ready
    config.evaluation.update(every_epochs=5.0, batch_size=8)
    config.run.update(workers=16, prefetch=1, log_every_steps=50)
    return config
