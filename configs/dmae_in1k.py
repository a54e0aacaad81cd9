"""DMAE on ImageNet-1k: MAE, and features of a larger MAE that sees the same visible patches.

    TEACHER=/data/mae_pretrain_vit_large.pth
    python -m hpm_jax.main --config configs/dmae_in1k.py:B,teacher=$TEACHER \
        --workdir runs/dmae_b100 \
        --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default) or L; teacher, a file that `hpm_jax.convert` reads; block=18,
the block of the teacher (three quarters of a ViT-L); epochs=100.

Paper: Masked Autoencoders Enable Efficient Knowledge Distillers (CVPR 2023, arXiv 2208.12256). The
teacher encodes the visible quarter alone. The student's features are those at three quarters of its
depth. What differs: the teacher's last norm follows its block, and the cls token is not compared.
Expected, after fine-tuning, from the abstract: 84.0 (ViT-L to ViT-B, 100 epochs). This config has
not been run here yet.
"""

import ml_collections

from hpm_jax.config import parse_variant
from hpm_jax.config.recipes import imagenet


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, "SBL", size="B", teacher="", block=18, epochs=100)
    config = imagenet(chosen["size"])
    config.target = "normalized_pixels"
    config.mask.update(strategy="random", ratio=0.75)
    teacher = f"path={chosen['teacher']!r}, block={chosen['block']}, dtype='bfloat16'"
    teacher += f", student_block={config.model.depth * 3 // 4}"
    config.losses = (f"distillation({teacher})",)
    config.teacher = "none"
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=4096,
        base_learning_rate=1.5e-4,
        warmup_epochs=10.0,
        weight_decay=0.05,
        b2=0.95,
        clip_norm=0.0,
    )
    return config
