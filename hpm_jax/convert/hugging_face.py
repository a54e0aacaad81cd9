"""The parameter names of Hugging Face's ViT and ViT-MAE, to the official ones."""

import re
from collections.abc import Mapping

import numpy as np

from hpm_jax.convert.weights import WeightsError

# patterns of names, before and since transformers 5, in the order in which they are tried
_NAMES = {
    r"(?:vit\.)?embeddings\.cls_token": "cls_token",
    r"(?:vit\.)?embeddings\.position_embeddings": "pos_embed",
    r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"(?:vit\.)?(?:encoder\.layer|layers)\.": "blocks.",
    r"(?:vit\.)?layernorm\.": "norm.",
    r"classifier\.": "head.",
    r"decoder\.(?:decoder_layers|decoder_encoder\.layer)\.": "decoder_blocks.",
    r"decoder\.": "",  # decoder_embed, mask_token, decoder_pos_embed, decoder_norm, decoder_pred
}
_IN_BLOCK = {
    r"layernorm_before\.": "norm1.",
    r"layernorm_after\.": "norm2.",
    r"attention\.(?:output\.dense|o_proj)\.": "attn.proj.",
    r"attention\.(?:attention\.)?(query|key|value|[qkv]_proj)\.": r"attn.\1.",
    r"(?:intermediate\.dense|mlp\.fc1)\.": "mlp.fc1.",
    r"(?:output\.dense|mlp\.fc2)\.": "mlp.fc2.",
}
_QKV = {"query": 0, "q_proj": 0, "key": 1, "k_proj": 1, "value": 2, "v_proj": 2}


def is_hugging_face(names: Mapping[str, np.ndarray]) -> bool:
    """Whether these are names of Hugging Face's ViT or ViT-MAE."""
    return any(re.fullmatch(r"(vit\.)?embeddings\.cls_token", name) for name in names)


def to_official_names(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames, and fuses query, key and value; the pooler after the encoder is left out.

    Raises:
        WeightsError: where query, key and value do not fit together.
    """
    renamed: dict[str, np.ndarray] = {}
    parts: dict[str, dict[int, np.ndarray]] = {}  # of each fused tensor, by place
    for name, value in state.items():
        if re.match(r"(?:vit\.)?pooler\.", name):
            continue
        name = _substitute(_NAMES, name)
        if block := re.match(r"(?:decoder_)?blocks\.\d+\.", name):
            name = block.group() + _substitute(_IN_BLOCK, name[block.end() :])
        part = re.search(rf"\battn\.({'|'.join(_QKV)})\.", name)
        if part:
            fused = name.replace(part.group(1), "qkv")
            parts.setdefault(fused, {})[_QKV[part.group(1)]] = value
        else:
            renamed[name] = value
    return renamed | {name: _fuse(name, found) for name, found in parts.items()}


def _substitute(patterns: Mapping[str, str], name: str) -> str:
    for pattern, replacement in patterns.items():
        if found := re.match(pattern, name):
            return found.expand(replacement) + name[found.end() :]
    return name


def _fuse(name: str, parts: Mapping[int, np.ndarray]) -> np.ndarray:
    missing = [kind for kind, place in _QKV.items() if place not in parts]
    if missing:
        raise WeightsError(f"{name} is query, key and value in one, and {missing[0]} is missing")
    shapes = {part.shape for part in parts.values()}
    if len(shapes) > 1:
        raise WeightsError(
            f"{name} is query, key and value in one, and they have different shapes: "
            + ", ".join(str(shape) for shape in sorted(shapes))
        )
    return np.concatenate([parts[place] for place in range(3)])
