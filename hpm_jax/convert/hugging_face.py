"""Converts names of Hugging Face's ViT, ViT-MAE, VideoMAE and plain BEiT to the official ones."""

import re
from collections.abc import Mapping

import numpy as np

from hpm_jax.convert.names import State, fuse_attention

# patterns of names, before and since transformers 5, in the order in which they are tried
_NAMES = {
    r"(?:(?:vit|beit)\.)?embeddings\.cls_token": "cls_token",
    r"(?:(?:vit|beit)\.)?embeddings\.position_embeddings": "pos_embed",
    r"(?:(?:vit|beit)\.)?embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"(?:(?:vit|beit)\.)?(?:encoder\.layer|layers)\.": "blocks.",
    r"(?:(?:vit|beit)\.)?layernorm\.": "norm.",
    r"(?:beit\.)?pooler\.layernorm\.": "fc_norm.",
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
_VIDEO_NAMES = {
    r"(?:videomae\.)?embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"(?:videomae\.)?(?:encoder\.layer|layers)\.": "blocks.",
    r"(?:videomae\.)?layernorm\.": "norm.",
    r"classifier\.": "head.",
    r"decoder\.(?:decoder_layers|layers)\.": "decoder.blocks.",
}
# files have q_bias and v_bias; models in memory have had biases of query and value since 5
_VIDEO_IN_BLOCK = {
    r"attention\.(?:attention\.)?(?:q_bias|(?:query|q_proj)\.bias)": "attn.q_bias",
    r"attention\.(?:attention\.)?(?:v_bias|(?:value|v_proj)\.bias)": "attn.v_bias",
} | _IN_BLOCK


def is_hugging_face(names: State) -> bool:
    """Whether these are names of Hugging Face's ViT, ViT-MAE, BEiT or VideoMAE."""
    pattern = r"((vit|beit|videomae)\.)?embeddings\."
    pattern += r"(cls_token|patch_embeddings\.projection\.weight)"
    return any(re.fullmatch(pattern, name) for name in names)


def to_official_names(state: State) -> dict[str, np.ndarray]:
    """Renames, and fuses query, key and value; the pooler after the encoder is left out.

    Raises:
        WeightsError: if query, key and value do not fit together.
    """
    image = any(name.endswith("embeddings.cls_token") for name in state)  # a video has none
    names, in_block = (_NAMES, _IN_BLOCK) if image else (_VIDEO_NAMES, _VIDEO_IN_BLOCK)
    renamed: dict[str, np.ndarray] = {}
    for name, value in state.items():
        if re.match(r"(?:vit\.)?pooler\.dense\.", name):
            continue
        name = _substitute(names, name)
        if block := re.match(r"(?:decoder[._])?blocks\.\d+\.", name):
            name = block.group() + _substitute(in_block, name[block.end() :])
        renamed[name] = value
    if any(name.startswith("beit.") for name in state):
        for name, value in list(renamed.items()):
            if found := re.search(r"\battn\.(query|q_proj)\.bias$", name):
                # its keys have no bias, which a softmax ignores
                key = {"query": "key", "q_proj": "k_proj"}[found[1]]
                renamed.setdefault(name.replace(found[1], key), np.zeros_like(value))
    return fuse_attention(renamed)


def _substitute(patterns: Mapping[str, str], name: str) -> str:
    for pattern, replacement in patterns.items():
        if found := re.match(pattern, name):
            return found.expand(replacement) + name[found.end() :]
    return name
