"""Reads heads, activation and norms of published encoders from their configs."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from hpm_jax.convert.sizes import Hints, whole_number
from hpm_jax.convert.weights import WeightsError

ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh"}


class _Defaults(NamedTuple):
    """The values of transformers' own config classes, which their files may leave out."""

    heads: int
    hidden_act: str
    norm_eps: float
    image_size: int
    patch_size: int


_CLIP = _Defaults(12, "quick_gelu", 1e-5, 224, 32)
_SIGLIP = _Defaults(12, "gelu_pytorch_tanh", 1e-6, 224, 16)
_DINOV2 = _Defaults(12, "gelu", 1e-6, 224, 14)
DEFAULTS = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "dinov3_vit": _Defaults(6, "gelu", 1e-5, 224, 16),
}


def tower_config(config: Mapping[str, Any]) -> Hints | None:
    """Returns what a config.json of transformers tells of these encoders; None for other models.

    Of CLIP and SigLIP with both towers it is the vision tower.

    Raises:
        WeightsError: for a value that no encoder here has.
    """
    kind = config["model_type"]
    if not isinstance(kind, str) or kind not in DEFAULTS:
        return None
    usual = DEFAULTS[kind]
    own = config.get("vision_config", {}) if kind in ("clip", "siglip") else config
    if not isinstance(own, Mapping):
        raise WeightsError(f"vision_config is a {type(own).__name__}, expected options by name")
    options: dict[str, Any] = {"norm_eps": _number(own, "layer_norm_eps", usual.norm_eps)}
    gated = bool(own.get("use_swiglu_ffn") or own.get("use_gated_mlp"))
    act = own.get("hidden_act", usual.hidden_act)
    # DINOv2's gates are silu, whatever hidden_act is
    if own.get("use_gated_mlp") and act != "silu":
        raise WeightsError(f"hidden_act is {act!r} with use_gated_mlp, expected 'silu'")
    if gated:
        options["mlp"] = "swiglu"
    elif act in ACTIVATIONS:
        options["mlp"] = ACTIVATIONS[act]
    else:
        raise WeightsError(f"hidden_act is {act!r}, expected {', '.join(ACTIVATIONS)}")
    grid = None
    if kind == "dinov3_vit":
        options["rotary_base"] = _number(own, "rope_theta", 100.0)
        size = _pair(own, "image_size", usual.image_size)
        patch = _pair(own, "patch_size", usual.patch_size)
        grid = (size[0] // patch[0], size[1] // patch[1])
    heads = whole_number("num_attention_heads", own.get("num_attention_heads", usual.heads), 1)
    return Hints(heads=heads, grid=grid, options=options)


def _number(config: Mapping[str, Any], name: str, usual: float) -> float:
    value = config.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise WeightsError(f"{name} is {value!r}, expected a number above 0")
    return float(value)


def _pair(config: Mapping[str, Any], name: str, usual: int) -> tuple[int, int]:
    value = config.get(name, usual)
    pair = value if isinstance(value, list) and len(value) == 2 else (value, value)
    return whole_number(name, pair[0], 1), whole_number(name, pair[1], 1)


# timm's models of SigLIP with GELU by tanh; the others have the exact one
_TANH = (
    r"base_patch32_siglip|so400m_patch16_siglip|giantopt_patch16_siglip|large_patch16_siglip_.*512"
)


def timm_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the config.json of timm tells by the name of its architecture."""
    name = str(config.get("architecture"))
    if "_clip_" in name:
        return {"mlp": "quick_gelu" if "quickgelu" in name else "gelu"}
    if "_siglip" in name:
        return {"mlp": "gelu_tanh" if re.search(_TANH, name) else "gelu", "cls_token": False}
    return {}


def open_clip_hints(config: Mapping[str, Any]) -> Hints:
    """Returns what open_clip_config.json tells of the vision tower.

    Raises:
        WeightsError: for a vision tower that is not open_clip's own vision transformer.
    """
    model = config.get("model_cfg")
    vision = model.get("vision_cfg") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(vision, Mapping) or "width" not in vision:
        raise WeightsError(
            "open_clip_config.json has no model_cfg.vision_cfg.width: expected a vision "
            "transformer of open_clip's own, not one of timm"
        )
    width = whole_number("width", vision["width"], 1)
    head = whole_number("head_width", vision.get("head_width", 64), 1)
    mlp = "quick_gelu" if model.get("quick_gelu") else "gelu"
    return Hints(heads=max(width // head, 1), options={"mlp": mlp})
