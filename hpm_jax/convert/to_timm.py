"""The config beside timm's weights: `timm.create_model("local-dir:FOLDER", pretrained=True)`."""

from typing import Any

from hpm_jax.convert.about import About
from hpm_jax.convert.weights import Architecture

_ENTRY = "vit_base_patch16_224"  # any plain ViT of timm: model_args overrule its sizes


def timm_config(a: Architecture, known: About) -> dict[str, Any]:
    """config.json of the encoder, or of the classifier where there is a head."""
    size = [a.grid[1] * a.patch_size, a.grid[2] * a.patch_size]
    pool = "avg" if a.pool == "mean" else "token"
    config: dict[str, Any] = {
        "architecture": _ENTRY,
        "num_classes": a.classes,
        "num_features": a.width,
        "global_pool": pool,
        "model_args": {
            "img_size": size,
            "patch_size": a.patch_size,
            "in_chans": a.channels,
            "embed_dim": a.width,
            "depth": a.depth,
            "num_heads": a.heads,
            "num_classes": a.classes,
            "global_pool": pool,
        },
        "pretrained_cfg": {
            "input_size": [a.channels, *size],
            "fixed_input_size": True,
            "num_classes": a.classes,
            "mean": list(known.mean),
            "std": list(known.std),
            "interpolation": known.interpolation,
            "crop_pct": known.test_crop,
            "crop_mode": "center",
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    if known.classes:
        config["label_names"] = list(known.classes)
    return config
