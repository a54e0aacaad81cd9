"""Semantic segmentation on ADE20K with the numbers of MAE's and HPM's recipe.

    python -m hpm_jax.main --config configs/segment_ade20k.py:decoder=upernet \
        --config.init_from=runs/hpm_b800 --config.data.path=/data/ADEChallengeData2016 \
        --workdir runs/hpm_b800_ade20k

The folder is that of the scene parsing challenge: images/training, annotations/training and so on,
and objectInfo150.txt. Variants: decoder=upernet is the paper's, decoder=linear (the default) one
layer; L sets the decoder and the rates for ViT-L; frozen=1 trains the decoder alone, epochs=127,
pixels=512. The encoder has the sizes of config.init_from.

Paper: HPM (CVPR 2023) points to MMSegmentation's configs/mae, of which these numbers are: crops of
512, batch 16, 160,000 steps (127 epochs), AdamW 1e-4, betas 0.9 and 0.999, weight decay 0.05, layer
decay 0.65, drop path 0.1, linear decay after a warm-up of 1,500 steps, short side 512 times 0.5 to
2, windows of 512 every 341 pixels (later versions: 256); with UPerNet also LayerScale from 1,
relative positions from 0, blocks 4, 6, 8 and 12 without a last norm, 768 channels, and an
auxiliary head of weight 0.4 and 256 channels with synchronised batch normalisation. Not as there:
images are resized with antialiasing, the warm-up starts at 0, tables of relative positions do not
decay, and running variances are those of batches without the factor n / (n - 1). There is no recipe
of ViT-L for MAE or HPM: L has blocks 8, 12, 16 and 24 and 1024 channels as BEiT's, and drop path
0.2, which is ours. The linear decoder is that of Kerssies et al. 2024 (2404.12172).
Hardware: the recipe took 8 GPUs of 2 images. Use --config.optimizer.accumulation on fewer; batch
normalisation then has the statistics of each part.
Expected: HPM B 48.5 mIoU after 800 epochs of pre-training and 42.1 after 200, MAE B 48.1 after
1600, HPM L 54.6, MAE L 53.6, all with UPerNet (official READMEs); MMSegmentation: MAE B 48.13, and
48.70 with several scales and mirrored images. A linear decoder is below. Not yet run here.
"""

import ml_collections

from hpm_jax.config import check_choice, defaults, parse_variant

IMAGES = 20_210  # of the training split
CHANNELS, DROP_PATH = {"B": 768, "L": 1024}, {"B": 0.1, "L": 0.2}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(
        variant, CHANNELS, size="B", epochs=127, pixels=512, frozen=0, decoder="linear"
    )
    decoder = check_choice("decoder", chosen["decoder"], ("linear", "upernet"))
    size, pixels, frozen = chosen["size"], chosen["pixels"], bool(chosen["frozen"])
    config = defaults("segment")
    config.data.update(image_size=(pixels, pixels), short_side=pixels, classes=150)
    config.data.update(reduce_zero_label=True, interpolation="bilinear")
    config.model.update(dtype="bfloat16", drop_path=DROP_PATH[size], frozen=frozen)
    if decoder == "upernet":
        config.decoder = f"upernet(channels={CHANNELS[size]})"
        config.model.relative_positions = not frozen
        if not frozen:
            config.model.layer_scale = 1.0
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
