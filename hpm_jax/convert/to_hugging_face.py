"""Weights under the names of Hugging Face's transformers, with the config that loads them.

Names are those that its hub has had all along; transformers 5 translates them when it loads. Image
classifiers that average patches go out as BEiT without relative positions and layer scale: that is
the same network, and Hugging Face's ViT reads its cls token alone.
"""

import dataclasses
import re
from typing import Any, NamedTuple

import numpy as np

from hpm_jax.convert.about import About
from hpm_jax.convert.state_dict import FAMILIES
from hpm_jax.convert.weights import (
    Architecture,
    Weights,
    WeightsError,
    check_plain,
    masked_autoencoder,
    masked_autoencoder_params,
    without_decoder,
)
from hpm_jax.models.decoders import SelfAttention
from hpm_jax.targets.pixels import ChannelNormalizedPixels, NormalizedPixels, RawPixels
from hpm_jax.targets.target import Target

_ENCODER = {
    r"patch_embed\.proj\.": "{}embeddings.patch_embeddings.projection.",
    r"norm\.": "{}layernorm.",
    r"blocks\.(\d+)\.": "{}encoder.layer.\\1.",
    r"head\.": "classifier.",
}
_IMAGE = _ENCODER | {
    r"cls_token$": "{}embeddings.cls_token",
    r"pos_embed$": "{}embeddings.position_embeddings",
    r"fc_norm\.": "{}pooler.layernorm.",
    r"decoder_blocks\.(\d+)\.": "decoder.decoder_layers.\\1.",
    r"(decoder_(?:embed|norm|pred)\.|decoder_pos_embed$|mask_token$)": "decoder.\\1",
}
_VIDEO = _ENCODER | {
    r"fc_norm\.": "fc_norm.",
    r"decoder\.blocks\.(\d+)\.": "decoder.decoder_layers.\\1.",
    r"(mask_token$|encoder_to_decoder\.|decoder\.(?:norm|head)\.)": "\\1",
}
_IN_BLOCK = {
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "attn.proj.": "attention.output.dense.",
    "attn.q_bias": "attention.attention.q_bias",
    "attn.v_bias": "attention.attention.v_bias",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}
# what transformers' losses want a decoder to rebuild
_TARGETS: dict[str, tuple[type[Target], ...]] = {
    "mae": (RawPixels, NormalizedPixels),
    "videomae": (ChannelNormalizedPixels,),
}
_QKV = ("query", "key", "value")


class Exported(NamedTuple):
    """A model of transformers."""

    config: dict[str, Any]  # config.json
    state: dict[str, np.ndarray]  # model.safetensors
    architecture: Architecture  # of what goes out
    notes: tuple[str, ...]  # what stays behind, for a person


def to_hugging_face(weights: Weights, known: About) -> Exported:
    """The encoder, the classifier, or the masked autoencoder where transformers has the same.

    Raises:
        WeightsError: names the option that transformers has no model for.
    """
    a = weights.architecture
    video = a.layout == "videomae"
    _check(a)
    notes = []
    reason = _no_decoder(a, known)
    if a.decoder_width and not reason:
        masked_autoencoder(weights)  # its heads must be known
        masked_autoencoder_params(weights)  # and its positions the constants
        part = dataclasses.replace(a, loss_predictor=False)
        if a.loss_predictor:
            notes.append("the loss predictor stays behind: transformers has none")
    else:
        part = without_decoder(a)
        if a.decoder_width:
            notes.append(f"the encoder goes alone, without its decoder: {reason}")
    of_images = "beit" if a.pool == "mean" else "vit" if a.classes else "vit_mae"
    kind = "videomae" if video else of_images
    prefix = {"vit_mae": "vit."}.get(kind, f"{kind}.")
    alone = not part.decoder_width and not part.classes
    state = FAMILIES[a.layout].to_official(weights.params, part)
    renamed = _renamed(state, _VIDEO if video else _IMAGE, "" if alone else prefix)
    if kind == "beit":  # a softmax ignores the bias of keys, and BEiT has none
        renamed = {name: v for name, v in renamed.items() if not name.endswith("key.bias")}
    return Exported(_config(part, kind, known), renamed, part, tuple(notes))


def _check(a: Architecture) -> None:
    check_plain(
        a, "--names hugging_face", "write a file with --names timm, which this package reads"
    )
    oblong = a.grid[1] != a.grid[2]
    if a.layout == "mae_st":
        raise WeightsError(
            "config.model.layout = 'mae_st' has no model in transformers: pre-train with "
            "config.model.layout=videomae, or write --names mae_st"
        )
    if a.layout == "mae" and a.grid[0] * a.tubelet > 1:
        raise WeightsError(
            f"config.data.frames = {a.grid[0] * a.tubelet} with config.model.layout = 'mae' has no "
            "model in transformers: pre-train with config.model.layout=videomae"
        )
    if a.layout == "mae" and a.pool == "mean" and oblong:
        raise WeightsError(
            "config.model.pool = 'mean' with images that are not square (config.data.image_size) "
            "has no model in transformers: fine-tune with config.model.pool=cls, or write "
            "--names timm"
        )


def _no_decoder(a: Architecture, known: About) -> str:
    """Why transformers has no such decoder; "" where it has."""
    if a.decoder != SelfAttention.name:
        return f"config.decoder = {a.decoder!r}, and transformers has {SelfAttention.name!r} alone"
    if known.target is not None and type(known.target) not in _TARGETS[a.layout]:
        names = " or ".join(target.name for target in _TARGETS[a.layout])
        return f"config.target = {str(known.target)!r}, and transformers rebuilds {names}"
    if a.target_values and a.target_values != a.values:
        return f"it rebuilds {a.target_values} values of a patch, and transformers' all {a.values}"
    if a.layout == "mae" and a.grid[1] != a.grid[2]:
        return "ViT-MAE rebuilds square images alone (config.data.image_size)"
    return ""


def _config(a: Architecture, kind: str, known: About) -> dict[str, Any]:
    size = [a.grid[1] * a.patch_size, a.grid[2] * a.patch_size]
    architectures = {
        "vit_mae": ("ViTMAEModel", "ViTMAEForPreTraining", ""),
        "vit": ("ViTModel", "", "ViTForImageClassification"),
        "beit": ("BeitModel", "", "BeitForImageClassification"),
        "videomae": ("VideoMAEModel", "VideoMAEForPreTraining", "VideoMAEForVideoClassification"),
    }[kind]
    found: dict[str, Any] = {
        "architectures": [architectures[2 if a.classes else 1 if a.decoder_width else 0]],
        "model_type": kind,
        "image_size": size[0] if size[0] == size[1] else size,
        "patch_size": a.patch_size,
        "num_channels": a.channels,
        "hidden_size": a.width,
        "num_hidden_layers": a.depth,
        "num_attention_heads": a.heads,
        "intermediate_size": 4 * a.width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-6,
        "torch_dtype": "float32",
    }
    found["qv_bias" if kind == "videomae" else "qkv_bias"] = True
    if kind == "videomae":
        found |= {"num_frames": a.grid[0] * a.tubelet, "tubelet_size": a.tubelet}
        found["use_mean_pooling"] = a.pool == "mean"  # without it a norm follows the encoder
    if kind == "beit":
        found |= {"use_absolute_position_embeddings": True, "use_mask_token": False}
        found |= {"use_relative_position_bias": False, "use_shared_relative_position_bias": False}
        found |= {"layer_scale_init_value": 0.0, "use_mean_pooling": True, "drop_path_rate": 0.0}
    if a.decoder_width:
        found |= {
            "decoder_hidden_size": a.decoder_width,
            "decoder_num_hidden_layers": a.decoder_depth,
            "decoder_num_attention_heads": a.decoder_heads,
            "decoder_intermediate_size": 4 * a.decoder_width,
        }
        found["norm_pix_loss"] = kind == "videomae" or isinstance(known.target, NormalizedPixels)
    if kind == "vit_mae":
        found["mask_ratio"] = 0.75 if known.mask_ratio is None else known.mask_ratio
    if a.classes:
        names = known.classes or [f"LABEL_{number}" for number in range(a.classes)]
        found["id2label"] = {str(number): name for number, name in enumerate(names)}
        found["label2id"] = {name: number for number, name in enumerate(names)}
    return found


def preprocessor(a: Architecture, known: About) -> dict[str, Any]:
    """preprocessor_config.json: the test crop of our evaluation.

    An image that is not square is resized to the shape of the crop, whatever its own.
    """
    size = [a.grid[1] * a.patch_size, a.grid[2] * a.patch_size]
    resized = [int(side / known.test_crop) for side in size]
    square = size[0] == size[1]
    shape = {"shortest_edge": resized[0]} if square else _sides(resized)
    return {
        "image_processor_type": "VideoMAEImageProcessor"
        if a.layout == "videomae"
        else "CLIPImageProcessor",  # the one that resizes the short side, and crops
        "do_resize": True,
        "size": shape,
        "resample": {"bilinear": 2, "bicubic": 3}[known.interpolation],
        "do_center_crop": True,
        "crop_size": _sides(size),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(known.mean),
        "image_std": list(known.std),
        "do_convert_rgb": a.channels == 3,
    }


def _sides(size: list[int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _renamed(state: dict[str, np.ndarray], names: dict[str, str], prefix: str) -> dict:
    renamed: dict[str, np.ndarray] = {}
    for name, value in state.items():
        name = name.removeprefix("encoder.")  # of VideoMAE's encoder beside a decoder
        pattern, found = next((p, f) for p in names if (f := re.match(p, name)))
        start = found.expand(names[pattern].format(prefix))
        rest = name[found.end() :]
        if "blocks" not in name:
            renamed[start + rest] = value
        elif rest.startswith("attn.qkv."):
            for part, one in zip(_QKV, np.split(value, 3), strict=True):
                renamed[f"{start}attention.attention.{part}.{rest[9:]}"] = one
        else:
            ours = next(ours for ours in _IN_BLOCK if rest.startswith(ours))
            renamed[start + _IN_BLOCK[ours] + rest[len(ours) :]] = value
    return renamed
