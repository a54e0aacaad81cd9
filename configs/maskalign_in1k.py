"""MaskAlign on ImageNet-1k: visible patches align with CLIP's or DINO's blocks, without a decoder.

    TEACHER=/data/dino_vitbase16_pretrain.pth
    python -m hpm_jax.main --config configs/maskalign_in1k.py:B,teacher=$TEACHER \
        --workdir runs/maskalign_b200 \
        --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default) or L; teacher, a file that `hpm_jax.convert` reads; layers=5,
the number of the teacher's last blocks that are aligned; epochs=200. CLIP's images are normalised
by other numbers, which --config.teacher then gives; the error names them.

Paper: Stare at What You See: Masked Image Modeling without Reconstruction (CVPR 2023, arXiv
2211.08887). 70 % of the patches are hidden; visible ones are drawn in proportion to the attention
of the teacher's cls token. The student's blocks are mixed with learned weights, and smooth L1
compares linear heads with the teacher's last blocks, standardised for each patch. The numbers are
those of the official README.
Hardware: the official README's command is for 8 GPUs.
Expected, after fine-tuning, from the official model card: B 85.4, L 86.5 with CLIP-B/16 (200
epochs). This config has not been run here yet.
What differs: the cls token is not compared; there is no stochastic depth in pre-training (the
official is 0.1 for B); with a teacher of another depth than the student's, the mixture starts at
the block as far from the end.
"""

import ml_collections

from hpm_jax.config import parse_variant
from hpm_jax.config.recipes import imagenet


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, "SBL", size="B", teacher="", layers=5, epochs=200)
    config = imagenet(chosen["size"])
    config.decoder = "no_decoder"
    config.teacher = f"frozen(path={chosen['teacher']!r}, dtype='bfloat16')"
    config.mask.update(strategy="attention(high=False, noise=1.0)", ratio=0.7)
    blocks = tuple(range(1, config.model.depth + 1))
    config.losses = (f"dynamic_alignment(layers={chosen['layers']}, blocks={blocks})",)
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=1024,
        base_learning_rate=1.5e-4,
        warmup_epochs=20.0,
        floor=1e-5,
        weight_decay=0.05,
        b2=0.95,
        clip_norm=0.0,
    )
    return config
