"""CAPI on ImageNet-1k: clusters of the teacher's features, found while training, as target.

    python -m hpm_jax.main --config configs/capi_in1k.py:L --workdir runs/capi_l \
        --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B or L (the default); epochs=400; masks=inverse_block (the default) or hpm,
with HPM's masks and loss.

Paper: Cluster and Predict Latent Patches for Improved Masked Image Modeling (Darcet et al. 2025,
arXiv 2502.08769). What differs: the student's head is linear, without weight norm; the epochs and
the batch are ours, where the paper has 500,000 steps of 16,384 images; the decay of the teacher
rises once; there is no stochastic depth, and one learning rate for all layers of the student.
Expected: ViT-L 83.8 with an attentive probe, by the abstract. Not yet run here.
"""

import ml_collections

from hpm_jax.config import check_choice, parse_variant
from hpm_jax.config.recipes import imagenet


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, "SBL", size="L", epochs=400, masks="inverse_block")
    masks = check_choice("masks", chosen["masks"], ("inverse_block", "hpm"))
    config = imagenet(chosen["size"])
    config.data.crop_scale = (0.6, 1.0)
    config.model.update(patch_size=14)
    config.model.update(registers=16, encoder_positions="none", rotary_base=100.0)
    config.model.update(decoder_width=config.model.width, decoder_depth=12)
    config.model.decoder_heads = config.model.heads
    config.decoder = "cross_attention(share=0.05)"
    config.target = "online_clusters(clusters=16384, temperature=0.06, iterations=3)"
    config.objective = "cross_entropy(temperature=0.12)"
    config.teacher = "moving_average(start=0.999, end=1.0)"
    config.mask.update(strategy="inverse_block", ratio=0.65)
    config.losses = ("clustering(temperature=0.12)",)
    if masks == "hpm":
        config.mask.strategy = "hard(start=0.0, end=0.5)"
        config.losses = ("ranking", *config.losses)
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=2048,
        base_learning_rate=1e-3 / 8,
        warmup_epochs=40.0,
        weight_decay=0.1,
        b2=0.95,
        clip_norm=0.0,
    )
    return config
