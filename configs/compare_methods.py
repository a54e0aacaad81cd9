"""Compares methods of masked modelling on CIFAR-10, or every mask with every target, with cost.

    python -m hpm_jax.compare --config configs/compare_methods.py --workdir runs/compare_methods \
        --config.base.data.source=folder --config.base.data.path=/data/cifar10

Variants: arms=methods (the default: published methods, each in the small form that docs/recipes.md
has at full size) or arms=grid (five masks with four targets, all with loss prediction).

The setting is that of configs/compare_cifar10.py, and so are measures and statistics. The table has
the cost of each arm; --config.budget=flops gives all arms the same. Cells are read from and written
to results/compare_methods; --config.results= keeps them in the workdir instead. Fine-tuning is no
measure here, as it costs as much as a cell; --config.measures names it beside the others.

Papers: HPM (CVPR 2023), MAE, SimMIM and MaskFeat (CVPR 2022), CrossMAE (2024), CAPI (2025), A2MIM
and MFM (2023), dBOT and CAE (2022), DiffMAE and LocalMIM (2023), LeJEPA and N-JEPA (2025).
docs/results.md has the results.
"""

import itertools

import ml_collections

from hpm_jax.config import defaults, parse_variant
from hpm_jax.config.compare import WITHOUT_FINETUNING

HARD = {"strategy": "hard(start=0.0, end=0.5, schedule='step')"}
TEACHER = "moving_average(start=0.99, end=0.99)"  # averages over about a hundred of these steps
FEATURES = {"target": "teacher_features", "objective": "cosine"}
MAE = {"mask": {"strategy": "random"}, "losses": (), "teacher": "none"}
HPM = {"mask": HARD, "losses": ("ranking",), "teacher": TEACHER}
HOG = {"target": "hog(cell=2, window=0)"}
THIRD = {"decoder": "cross_attention(share=0.3333)"}

METHODS = {
    "mae": MAE,
    "hpm": HPM,
    "crossmae": MAE | THIRD,
    "hpm_crossmae": HPM | THIRD,
    "simmim": MAE
    | {"mask": {"strategy": "simmim(cell=2)", "ratio": 0.6}, "decoder": "linear"}
    | {"target": "pixels", "objective": "l1"},
    "maskfeat": MAE | HOG | {"mask": {"strategy": "beit_block", "ratio": 0.4}, "decoder": "linear"},
    "hpm_hog": HPM | HOG,
    "features": MAE | FEATURES | {"teacher": TEACHER},
    "hpm_features": HPM | FEATURES,
    "hpm_features_sigreg": HPM | FEATURES | {"losses": ("ranking", "sigreg(weight=0.05)")},
    "random_teacher": MAE  # dBOT's first stage
    | {"target": "teacher_features(normalize='layer_norm')", "objective": "smooth_l1(beta=2.0)"}
    | {"teacher": "staged(epochs=(0,))"},
    "capi": MAE
    | {"mask": {"strategy": "inverse_block", "ratio": 0.65}, "decoder": "cross_attention"}
    | {"target": "online_clusters(clusters=512)", "objective": "cross_entropy(temperature=0.12)"}
    | {"losses": ("clustering",), "teacher": TEACHER},
    "a2mim": MAE | {"losses": ("fourier(weight=0.1)",)},
    "mfm": MAE | {"losses": ("masked_frequencies(radius=3.0)",), "decoder": "no_decoder"},
    "cae": MAE | {"decoder": "latent_regressor(depth=1)", "losses": ("latent_alignment",)},
    "njepa": MAE
    | {"target": "teacher_features(normalize='layer_norm')", "teacher": TEACHER}
    | {"mask": {"strategy": "beit_block", "ratio": 0.5}, "decoder": "noisy_positions"},
    "diffmae": MAE | {"decoder": "diffusion", "target": "pixels"},
    "localmim": MAE
    | {"decoder": "self_attention(block=3)", "target": "hog(cell=4, window=0)"}
    | {"losses": ("multi_scale(blocks=(1, 2, 4), cells=(1, 2, 8))",)},
    "intl": MAE
    | {"mask": {"strategy": "disjoint", "views": 2}, "losses": ("intl(width=96, values=32)",)}
    | FEATURES
    | {"teacher": TEACHER},
    "supervised": MAE | {"losses": ("supervised(classes=10)",)},  # with the labels of all images
}
METHOD_CONTRASTS = (
    "hpm > mae: hard patches and loss prediction help",
    "hpm_crossmae > crossmae: they help without self-attention in the decoder",
    "hpm_features > features: they help with features as target",
    "hpm_hog > maskfeat: they help with gradients as target",
    "a2mim > mae: a loss on frequencies helps",
)

GRID_MASKS = {
    "random": ("random", "none"),
    "block": ("block", "none"),
    "green": ("green", "none"),
    "attention": ("attention", TEACHER),
    "hard": (HARD["strategy"], TEACHER),
}
GRID_TARGETS = {
    "pixels": {"target": "pixels"},
    "normalized": {"target": "normalized_pixels"},
    "hog": HOG,
    "features": FEATURES,
}


def grid() -> dict:
    """Returns an arm for every mask with every target."""
    arms = {}
    pairs = itertools.product(GRID_MASKS.items(), GRID_TARGETS.items())
    for (mask, (strategy, teacher)), (target, options) in pairs:
        # features are those of a teacher, which then exists with every mask
        teacher = TEACHER if target == "features" else teacher
        arm = {"mask": {"strategy": strategy}, "losses": ("ranking",), "teacher": teacher}
        arms[f"{mask}_{target}"] = arm | options
    return arms


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the comparison; `variant` is the text after the colon."""
    chosen = parse_variant(variant, ("methods", "grid"), arms="methods")["arms"]
    methods = chosen == "methods"
    config = defaults("compare")
    base = config.base
    base.data.update(source="tfds", name="cifar10", image_size=(32, 32))
    base.data.mean, base.data.std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    base.data.test_crop = 1.0
    base.model.update(width=96, depth=4, heads=3, patch_size=4, unroll=0)
    base.model.update(decoder_width=48, decoder_depth=1, decoder_heads=2)
    base.target = "normalized_pixels"
    base.optimizer.update(epochs=1, batch_size=64, base_learning_rate=4e-3, warmup_epochs=0.1)

    arms = METHODS if methods else grid()
    config.arms, config.order = arms, tuple(arms)
    config.contrasts = (
        METHOD_CONTRASTS
        if methods
        else tuple(
            f"hard_{target} > random_{target}: hard patches beat random ones"
            for target in GRID_TARGETS
        )
    )
    config.measures = WITHOUT_FINETUNING
    config.bank_images = 10_000
    config.checkpoints = (0.9, 1.0)
    config.results = f"results/compare_{'methods' if methods else 'grid'}"
    return config
