"""MaskDistill on ImageNet-1k: features of a trained encoder, such as CLIP's or DINO's, as target.

    TEACHER=/data/dino_vitbase16_pretrain.pth
    python -m hpm_jax.main --config configs/maskdistill_in1k.py:B,teacher=$TEACHER \
        --workdir runs/maskdistill_b300 \
        --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default), L or H (whose patches are of 14 pixels, as the teacher's have
to be then); teacher, a file that `hpm_jax.convert` reads; epochs=300.

Paper: A Unified View of Masked Image Modeling (TMLR 2023, arXiv 2210.10615). The target is the
teacher's features after a layer norm without scale and shift, compared by smooth L1, under blocks
that hide 40 %. What differs: the student here encodes visible patches and has MAE's decoder; the
paper's is BEiT's, with mask tokens in the encoder and a linear head.
Expected, after fine-tuning, with CLIP-B as teacher, from the abstract: H 88.3 at 300 epochs. This
config has not been run here yet.
"""

import ml_collections

from hpm_jax.config import parse_variant
from hpm_jax.config.recipes import imagenet
from hpm_jax.models.sizes import LARGE_IMAGE_SIZES


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, LARGE_IMAGE_SIZES, size="B", teacher="", epochs=300)
    config = imagenet(chosen["size"])
    config.target = f"frozen_features(path={chosen['teacher']!r}, normalize='layer_norm')"
    config.objective = "smooth_l1"
    config.mask.update(strategy="beit_block", ratio=0.4)
    config.losses = ()
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
