"""Hybrid Distillation on ImageNet-1k: relations of a MAE's tokens, and features of CLIP.

    MAE=/data/mae_pretrain_vit_base.pth CLIP=/data/clip_vit_base
    python -m hpm_jax.main --config configs/hybrid_distill_in1k.py:B,mae=$MAE,clip=$CLIP \
        --workdir runs/hybrid_b300 \
        --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default) or L; mae and clip, files that `hpm_jax.convert` reads, where
clip may be any other teacher of features; parts=0, see `token_relations`; epochs=300. For CLIP's
images an error names the numbers to normalise by (`mean`, `std` of the term).

Paper: Hybrid Distillation: Connecting Masked Autoencoders with Contrastive Learners (Shi et al.
2023, arXiv 2306.15876). What differs: student and teachers see the same random seven tenths of the
patches, where the paper masks redundant tokens in stages; the decoder is idle, since nothing is
rebuilt; weights of the terms, optimizer and epochs are ours.
Expected: the abstract has no numbers. This config has not been run here yet.
"""

import ml_collections

from hpm_jax.config import parse_variant
from hpm_jax.config.recipes import imagenet

CLIP = "mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)"


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, "SBL", size="B", mae="", clip="", parts=0, epochs=300)
    config = imagenet(chosen["size"])
    config.model.update(decoder_depth=1)
    config.mask.update(strategy="random", ratio=0.3)
    relations = f"path={chosen['mae']!r}, parts={chosen['parts']}, dtype='bfloat16'"
    features = f"path={chosen['clip']!r}, normalize='none', beta=1.0, dtype='bfloat16', {CLIP}"
    config.losses = (
        "reconstruction(weight=0.0)",
        f"token_relations({relations})",
        f"distillation({features})",
    )
    config.teacher = "none"
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=2048,
        base_learning_rate=1.5e-4,
        warmup_epochs=10.0,
        weight_decay=0.05,
        b2=0.98,
        clip_norm=3.0,
    )
    return config
