"""VideoMAE on Kinetics-400, the baseline of HPM on video; and mae_st's recipe for contrast.

    python -m hpm_jax.main --config configs/videomae_k400.py:B,epochs=801 \
        --workdir runs/videomae_b --config.data.path=/data/k400

The folder holds train.csv and val.csv, a line "path label" for each video (docs/data.md).
Variants: the size S, B (the default), L or H; recipe=videomae (the default) or recipe=mae_st;
epochs=801 or 1601 (VideoMAE's 800 and 1600: its schedule spans one more) or, for mae_st, whose
epochs show every video four times, epochs=400. mae_st's H has patches of 14 pixels.

Papers: VideoMAE (NeurIPS 2022), scripts/kinetics; Masked Autoencoders As Spatiotemporal Learners
(NeurIPS 2022), mae_st.
Hardware: VideoMAE's scripts are for 64 GPUs.
Expected top-1 after fine-tuning, from the official READMEs: B 80.0 at 800 epochs and 81.5 at 1600,
L 85.2, H 86.6 and S 79.0 at 1600; mae_st L 84.35 at 400 epochs of four clips. This config has not
been run here to its end.
"""

import ml_collections

from hpm_jax.config import check_choice, parse_variant
from hpm_jax.config.recipes import videomae
from hpm_jax.models.sizes import LARGE_IMAGE_SIZES

EPOCHS = {"videomae": 801, "mae_st": 400}


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, LARGE_IMAGE_SIZES, size="B", recipe="videomae", epochs=0)
    recipe = check_choice("recipe", chosen["recipe"], EPOCHS)
    config = videomae(chosen["size"], chosen["epochs"] or EPOCHS[recipe])
    return config if recipe == "videomae" else mae_st(config, chosen["size"])


def mae_st(config: ml_collections.ConfigDict, size: str) -> ml_collections.ConfigDict:
    """Applies mae_st's recipe: free tokens, one of two frames predicted, four clips per video."""
    config.data.update(mean=(0.45,) * 3, std=(0.225,) * 3, flip=0.5, clips=4)
    config.data.update(sampling="mae_st", repeats="times")
    config.data.update(crop="resized", crop_scale=(0.5, 1.0))
    config.model.update(layout="mae_st", dtype="float32")
    config.model.update(decoder_width=512, decoder_depth=4, decoder_heads=16)
    if size == "H":
        config.model.patch_size = 14  # mae_vit_huge_patch14, models_mae.py
    config.target = "normalized_pixels(frames='one')"
    config.mask.unit = "patch"
    config.optimizer.update(batch_size=512, base_learning_rate=1.6e-3, floor=0.0)
    config.optimizer.update(warmup_epochs=5.0, clip_norm=0.02)
    return config
