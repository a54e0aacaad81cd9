"""N-JEPA on ImageNet-1k: features of the teacher, predicted at noisy positions.

    python -m hpm_jax.main --config configs/njepa_in1k.py:B --workdir runs/njepa_b300 \
        --config.data.source=folder --config.data.path=/data/imagenet

Variants: the size S, B (the default), L or H; epochs=300; masks=block (the default: BEiT's blocks,
half of the patches) or hpm, with HPM's masks and loss.

Paper: Improving Joint Embedding Predictive Architecture with Diffusion Noise (arXiv 2507.15216),
which adds noise to the positions of I-JEPA's mask tokens (Assran et al. 2023, arXiv 2301.08243).
The target is the teacher's features, standardised for each patch, compared by squared error.
Expected: the abstract has no number, and the code is not published. This config has not been run
here yet.
What differs: masks are BEiT's blocks, not four blocks and a context of their own; one predictor
sees clean and noisy positions, in four levels of ours; numbers are those of I-JEPA's ViT-H config,
with a constant weight decay.
"""

import ml_collections

from hpm_jax.config import check_choice, parse_variant
from hpm_jax.config.recipes import imagenet
from hpm_jax.models.sizes import LARGE_IMAGE_SIZES


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the full recipe; `variant` is the text after the colon."""
    chosen = parse_variant(variant, LARGE_IMAGE_SIZES, size="B", epochs=300, masks="block")
    masks = check_choice("masks", chosen["masks"], ("block", "hpm"))
    config = imagenet(chosen["size"])
    config.data.update(crop_scale=(0.3, 1.0), flip=0.0)
    config.model.update(decoder_width=384, decoder_heads=config.model.heads)
    config.model.decoder_depth = 12 if config.model.depth > 12 else 6
    config.target = "teacher_features(normalize='layer_norm')"
    config.decoder = "noisy_positions(levels=(0, 100, 200, 300))"
    config.teacher = f"moving_average(start=0.996, end=1.0, ramp_epochs={chosen['epochs']})"
    config.losses = ("ranking",) if masks == "hpm" else ()
    strategy = "hard(start=0.0, end=0.5)" if masks == "hpm" else "beit_block"
    config.mask.update(strategy=strategy, ratio=0.5)
    config.optimizer.update(
        epochs=chosen["epochs"],
        batch_size=2048,
        base_learning_rate=1e-3 / 8,
        warmup_epochs=40.0,
        floor=1e-6,
        weight_decay=0.04,
        b2=0.999,
        clip_norm=0.0,
    )
    return config
