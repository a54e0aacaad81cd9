"""Converts names of published encoders to timm's: DINOv2, DINOv3, CLIP and SigLIP.

Each is recognised by the names of its embeddings. Text towers, projections to the space that image
and text share, attention pooling and mask tokens are left out.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hpm_jax.convert.names import State, fuse_attention
from hpm_jax.convert.weights import WeightsError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # openai/CLIP, clip/clip.py
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)
# numbers of heads of CLIP (open_clip's H, g, bigG) and SigLIP where one has more than 64 values
WIDE_HEADS = {1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16}


class Tower(NamedTuple):
    """An encoder with timm's names, and what its family tells."""

    state: dict[str, np.ndarray]
    options: dict[str, Any]  # of an `EncoderVariant`
    heads: int | None = None


class _Family(NamedTuple):
    """The names of one family."""

    anchor: str  # the pattern of the name that tells it
    names: Mapping[str, str]  # patterns of names, in the order in which they are tried
    dropped: str  # the pattern of names of the encoder that are left out
    outside: str  # the pattern of names beside the encoder, which are left out
    options: Mapping[str, Any]
    prepare: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = dict


_HF_ATTENTION = {
    r"^(blocks\.\d+)\.(?:self_attn|attention)\."
    r"(?:out_proj|o_proj|output\.dense)\.": r"\1.attn.proj.",
    r"^(blocks\.\d+)\.(?:self_attn|attention)\.(?:attention\.)?"
    r"(query|key|value|[qkv]_proj)\.": r"\1.attn.\2.",
}
_HF_SCALES = {r"^(blocks\.\d+)\.layer_scale([12])\.lambda1$": r"\1.ls\2.gamma"}
_CLIP = {
    r"^embeddings\.class_embedding$": "cls_token",
    r"^embeddings\.position_embedding\.weight$": "pos_embed",
    r"^embeddings\.patch_embedding\.": "patch_embed.proj.",
    r"^encoder\.layers\.": "blocks.",
    r"^pre_layrnorm\.": "norm_pre.",
    r"^post_layernorm\.": "norm.",
    r"^(blocks\.\d+)\.layer_norm([12])\.": r"\1.norm\2.",
} | _HF_ATTENTION
_OPEN_CLIP = {
    r"^class_embedding$": "cls_token",
    r"^positional_embedding$": "pos_embed",
    r"^conv1\.": "patch_embed.proj.",
    r"^ln_pre\.": "norm_pre.",
    r"^ln_post\.": "norm.",
    r"^transformer\.resblocks\.": "blocks.",
    r"^(blocks\.\d+)\.ln_([12])\.": r"\1.norm\2.",
    r"^(blocks\.\d+)\.attn\.in_proj_": r"\1.attn.qkv.",
    r"^(blocks\.\d+)\.attn\.out_proj\.": r"\1.attn.proj.",
    r"^(blocks\.\d+)\.mlp\.c_fc\.": r"\1.mlp.fc1.",
    r"^(blocks\.\d+)\.mlp\.c_proj\.": r"\1.mlp.fc2.",
    r"^(blocks\.\d+)\.ls_([12])\.": r"\1.ls\2.",
}
_DINO = {
    r"^embeddings\.cls_token$": "cls_token",
    r"^embeddings\.register_tokens$": "reg_token",
    r"^embeddings\.position_embeddings$": "pos_embed",
    r"^embeddings\.patch_embeddings\.(?:projection\.)?": "patch_embed.proj.",
    r"^(?:encoder\.layer|model\.layer|layers?)\.": "blocks.",
    r"^layernorm\.": "norm.",
    r"^(blocks\.\d+)\.mlp\.weights_in\.": r"\1.mlp.fc1.",
    r"^(blocks\.\d+)\.mlp\.weights_out\.": r"\1.mlp.fc2.",
    r"^(blocks\.\d+)\.mlp\.down_proj\.": r"\1.mlp.fc2.",
    **_HF_SCALES,
    **_HF_ATTENTION,
}


def _with_gates(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fuses gate and value into one layer; where there are no gates the value alone is `fc1`."""
    fused = dict(state)
    for name in state:
        if ".mlp.up_proj." in name:
            gate = fused.pop(name.replace("up_proj", "gate_proj"), None)
            value = fused.pop(name)
            whole = value if gate is None else np.concatenate([gate, value])
            fused[name.replace("up_proj", "fc1")] = whole
    return fused


def _with_key_bias(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds biases of keys, zero, to DINOv3, which has none."""
    filled = _with_gates(state)
    for name in state:
        if name.endswith(".q_proj.bias"):
            filled.setdefault(name.replace(".q_proj.", ".k_proj."), np.zeros_like(state[name]))
    return filled


# names of DINOv2 and DINOv3 of Meta and of timm, in which the rest is that of timm's plain ViTs
_META = {
    r"^(blocks\.\d+)\.gamma_([12])$": r"\1.ls\2.gamma",  # timm's DINOv3
    r"^(?:register|storage)_tokens$": "reg_token",
    r"^(blocks\.\d+)\.mlp\.w12\.": r"\1.mlp.fc1.",
    r"^(blocks\.\d+)\.mlp\.w3\.": r"\1.mlp.fc2.",
}

_DINO_PREFIX = r"(?:dinov2\.|dinov2_with_registers\.|dinov3_vit\.)?"
_FAMILIES = {
    "CLIP of Hugging Face": _Family(
        r"((?:vision_model\.)?)embeddings\.class_embedding",
        _CLIP,
        r"embeddings\.position_ids$",
        r"text_model\.|text_projection\.|visual_projection\.|logit_scale$",
        {"cls_token": True},
    ),
    "SigLIP of Hugging Face": _Family(
        r"((?:vision_model\.)?)embeddings\.patch_embedding\.weight",
        _CLIP,
        r"embeddings\.position_ids$|head\.",
        r"text_model\.|logit_(?:scale|bias)$",
        {"cls_token": False, "mlp": "gelu_tanh", "norm_eps": 1e-6},
    ),
    "open_clip": _Family(
        r"((?:(?:module|model)\.)?(?:visual\.)?)class_embedding",
        _OPEN_CLIP,
        r"proj$",
        r"(?:(?:module|model)\.)?(?:transformer\.|token_embedding\.|ln_final\.|text_projection$|"
        r"positional_embedding$|logit_(?:scale|bias)$|(?:input_resolution|context_length|vocab_size)$)",
        {"cls_token": True},
    ),
    "DINOv3 of Hugging Face": _Family(
        r"((?:dinov3_vit\.)?)embeddings\.patch_embeddings\.weight",
        _DINO,
        r"embeddings\.mask_token$",
        r"(?!)",
        {"norm_eps": 1e-5, "rotary_base": 100.0},
        _with_key_bias,
    ),
    "DINOv2 of Hugging Face": _Family(
        r"((?:dinov2(?:_with_registers)?\.)?)encoder\.layer\.0\.layer_scale1\.lambda1",
        _DINO,
        r"embeddings\.mask_token$",
        r"(?!)",
        {},
        _with_gates,  # of transformers 5 in memory; files have both in one
    ),
}


def tower_of(state: State) -> Tower | None:
    """Returns the encoder with timm's names if it is of one of these families, else None.

    Raises:
        WeightsError: if query, key and value do not fit together.
    """
    for family in _FAMILIES.values():
        found = [match for name in state if (match := re.fullmatch(family.anchor, name))]
        if len(found) == 1:
            return _renamed(family, state, found[0][1])
    return None


def _renamed(family: _Family, state: State, prefix: str) -> Tower:
    options, wide = dict(family.options), None
    if "input_resolution" in state and "context_length" in state:  # OpenAI's own checkpoints
        options["mlp"] = "quick_gelu"
    kept = {}
    for name, value in state.items():
        inside = name.startswith(prefix)
        name = name.removeprefix(prefix)
        if not re.match(family.dropped if inside else family.outside, name):
            kept[name] = value
    kept = family.prepare(kept)
    named = fuse_attention({_substitute(family.names, name): x for name, x in kept.items()})
    for name in ("cls_token", "pos_embed"):
        if name in named and named[name].ndim < 3:
            array = named[name]
            named[name] = array.reshape(*[1] * (3 - array.ndim), *array.shape)
    if "cls_token" in options:
        width = len(named.get("patch_embed.proj.weight", ()))
        wide = WIDE_HEADS.get(width)
    return Tower(named, options, wide)


def from_meta(state: State) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns Meta's names of DINOv2 and DINOv3 as those of a plain ViT in timm, and their options.

    timm's own DINOv3, which is not one of its plain ViTs, is read as well.

    Raises:
        WeightsError: for rotary positions of another kind than DINOv3's.
    """
    decoder = any(name.startswith("decoder") for name in state)
    named: dict[str, np.ndarray] = {}
    options: dict[str, Any] = {}
    for name, value in state.items():
        if name == "rope_embed.periods":
            options |= {"rotary_base": _base(value), "norm_eps": 1e-5}
        elif name.endswith(".attn.qkv.bias_mask") or name.startswith("attn_pool."):
            continue  # a mask of what is zero, and SigLIP's pooling in timm
        elif name != "mask_token" or decoder:
            masked = f"{name}_mask"
            if name.endswith(".attn.qkv.bias") and masked in state:  # keys have none
                value = np.where(np.asarray(state[masked]) == 0, 0, value)
            named[_substitute(_META, name)] = value
    if "blocks.0.gamma_1" in state and "reg_token" in state and "pos_embed" not in state:
        options |= {"rotary_base": 100.0, "norm_eps": 1e-5}
        for name in [name for name in named if name.endswith(".attn.qkv.weight")]:
            bias = np.zeros(len(named[name]), np.float32)
            named.setdefault(name.replace(".weight", ".bias"), bias)
    return _fuse_gates(named), options


def _fuse_gates(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fuses w1 and w2 of DINOv3's gated layers; there w3 is `fc2` already."""
    for name in [name for name in state if re.search(r"\.mlp\.w1\.", name)]:
        other = name.replace(".w1.", ".w2.")
        if other in state:
            fused = np.concatenate([state.pop(name), state.pop(other)])
            state[name.replace(".w1.", ".fc1.")] = fused
    return state


def _base(periods: np.ndarray) -> float:
    """Returns the base of rotary positions from their periods, `base^(k / count)`."""
    periods = np.asarray(periods, np.float64)
    count = periods.size
    base = float(periods[-1] ** (count / (count - 1))) if count > 1 and periods[-1] > 0 else 0.0
    expected = base ** (np.arange(count) / max(count, 1))
    if not base or not np.allclose(periods, expected, rtol=1e-2):  # they may be in bfloat16
        raise WeightsError(
            "rope_embed.periods are not powers of one base, as DINOv3's are: expected base^(k / n)"
        )
    return round(base)


def _substitute(patterns: Mapping[str, str], name: str) -> str:
    """Applies every pattern in order; later ones see the result of earlier ones."""
    for pattern, replacement in patterns.items():
        name = re.sub(pattern, replacement, name)
    return name
