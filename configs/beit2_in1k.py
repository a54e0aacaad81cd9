"""BEiT v2's objective on ImageNet-1k: codes of hidden patches, from clusters of a trained encoder.

    TEACHER=/data/dino_vitbase16_pretrain.pth
    python -m hpm_jax.targets codes codes.npz --of "frozen_features(path='$TEACHER')" \
        --config configs/hpm_in1k.py:B --codes 8192 \
        --config.data.source=folder --config.data.path=/data/imagenet
    python -m hpm_jax.main --config configs/beit2_in1k.py:B,teacher=$TEACHER,codes=codes.npz \
        --workdir runs/beit2_b300 \
        --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default) or L; teacher, a file that `hpm_jax.convert` reads; codes, the
codebook of its features; epochs=300.

Paper: BEiT v2: Masked Image Modeling with Vector-Quantized Visual Tokenizers (arXiv 2208.06366).
What differs: the codes are clusters of the teacher's features (k-means), and not of a tokenizer
that is trained to rebuild CLIP's features; the student encodes visible patches and has MAE's
decoder; there is no second cross-entropy for the cls token, no layer scale, no stochastic depth.
Expected, after fine-tuning, from the abstract: B 85.5, L 87.3 with the paper's tokenizer. This
config has not been run here yet.
"""

import ml_collections

from hpm_jax.config import parse_variant
from hpm_jax.config.recipes import imagenet


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, "SBL", size="B", teacher="", codes="", epochs=300)
    config = imagenet(chosen["size"])
    of = f"frozen_features(path={chosen['teacher']!r})"
    config.target = f"codes(path={chosen['codes']!r}, of={of!r})"
    config.objective = "cross_entropy"
    config.mask.update(strategy="beit_block", ratio=0.4)
    config.losses = ()
    config.teacher = "none"
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=2048,
        base_learning_rate=1.5e-3 / 8,
        warmup_epochs=10.0,
        weight_decay=0.05,
        b2=0.98,
        clip_norm=3.0,
    )
    return config
