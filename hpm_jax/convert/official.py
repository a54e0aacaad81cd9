"""The parameter names of the official PyTorch HPM and MAE, which timm shares, and ours."""

import re
from collections.abc import Mapping

import numpy as np

from hpm_jax.convert.weights import Architecture
from hpm_jax.training.state import Params

# one block: official name, our path, official shape in multiples of the width
_BLOCK = {
    "norm1.weight": (("LayerNorm_0", "scale"), (1,)),
    "norm1.bias": (("LayerNorm_0", "bias"), (1,)),
    "attn.qkv.weight": (("attention", "qkv", "kernel"), (3, 1)),
    "attn.qkv.bias": (("attention", "qkv", "bias"), (3,)),
    "attn.proj.weight": (("attention", "projection", "kernel"), (1, 1)),
    "attn.proj.bias": (("attention", "projection", "bias"), (1,)),
    "norm2.weight": (("LayerNorm_1", "scale"), (1,)),
    "norm2.bias": (("LayerNorm_1", "bias"), (1,)),
    "mlp.fc1.weight": (("Dense_0", "kernel"), (4, 1)),
    "mlp.fc1.bias": (("Dense_0", "bias"), (4,)),
    "mlp.fc2.weight": (("Dense_1", "kernel"), (1, 4)),
    "mlp.fc2.bias": (("Dense_1", "bias"), (1,)),
}
# official name of the blocks of a stack, our name of the stack
STACKS = {
    "blocks": "encoder",
    "decoder_blocks": "reconstructor",
    "decoder_blocks_losspred": "predictor",
}
# everything else
_REST = {
    "cls_token": ("encoder", "cls_token"),
    "pos_embed": ("encoder", "positions"),
    "patch_embed.proj.weight": ("encoder", "patch_embedding", "projection", "kernel"),
    "patch_embed.proj.bias": ("encoder", "patch_embedding", "projection", "bias"),
    "norm.weight": ("encoder", "transformer", "norm", "scale"),
    "norm.bias": ("encoder", "transformer", "norm", "bias"),
    "fc_norm.weight": ("norm", "scale"),
    "fc_norm.bias": ("norm", "bias"),
    "head.weight": ("head", "kernel"),
    "head.bias": ("head", "bias"),
    "mask_token": ("decoder_input", "mask_token"),
    "decoder_embed.weight": ("decoder_input", "embedding", "kernel"),
    "decoder_embed.bias": ("decoder_input", "embedding", "bias"),
    "decoder_norm.weight": ("reconstructor", "transformer", "norm", "scale"),
    "decoder_norm.bias": ("reconstructor", "transformer", "norm", "bias"),
    "decoder_pred.weight": ("reconstructor", "head", "kernel"),
    "decoder_pred.bias": ("reconstructor", "head", "bias"),
    "decoder_norm_losspred.weight": ("predictor", "transformer", "norm", "scale"),
    "decoder_norm_losspred.bias": ("predictor", "transformer", "norm", "bias"),
    "decoder_pred_losspred.weight": ("predictor", "head_kernel"),
    "decoder_pred_losspred.bias": ("predictor", "head_bias"),
}


def shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """Every official name of a model, with its shape; `decoder_pos_embed` is not among them."""
    width, decoder, length = a.width, a.decoder_width, a.patches
    found = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + length, width),
        "patch_embed.proj.weight": (width, a.channels, a.patch_size, a.patch_size),
        "patch_embed.proj.bias": (width,),
        **_stack_shapes("blocks", a.depth, width),
        **_norm_shapes("fc_norm" if a.pool == "mean" else "norm", width),
    }
    if a.classes:
        found |= {"head.weight": (a.classes, width), "head.bias": (a.classes,)}
    if decoder:
        found["mask_token"] = (1, 1, decoder)
        found |= {"decoder_embed.weight": (decoder, width), "decoder_embed.bias": (decoder,)}
        for suffix in ("", "_losspred") if a.loss_predictor else ("",):
            found |= _stack_shapes(f"decoder_blocks{suffix}", a.decoder_depth, decoder)
            found |= _norm_shapes(f"decoder_norm{suffix}", decoder)
            found[f"decoder_pred{suffix}.weight"] = (a.values, decoder)
            found[f"decoder_pred{suffix}.bias"] = (a.values,)
    return found


def _stack_shapes(blocks: str, depth: int, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{blocks}.{layer}.{name}": tuple(width * multiple for multiple in multiples)
        for layer in range(depth)
        for name, (_, multiples) in _BLOCK.items()
    }


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def to_params(state: Mapping[str, np.ndarray]) -> Params:
    """Official names to our nested parameters, float32.

    Linear weights `[out, in]` become kernels `[in, out]`; the patch convolution `[D, C, p, p]`
    becomes a kernel over patches in the order (row, column, channel); blocks are stacked.

    Raises:
        KeyError: at a name that is not official.
    """
    params: dict = {}
    for name, value in state.items():
        path, layer = _place(name)
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        value = _to_kernel(name, np.asarray(value, np.float32))
        if layer is None:
            node[path[-1]] = value
        else:
            node.setdefault(path[-1], _Layers())[layer] = value
    return _stack_layers(params)


def to_official(params: Params, a: Architecture) -> dict[str, np.ndarray]:
    """The inverse of `to_params`: the arrays that `shapes(a)` names, float32."""
    state = {}
    for name, shape in shapes(a).items():
        path, layer = _place(name)
        value = params
        for key in path:
            value = value[key]
        value = np.asarray(value if layer is None else value[layer], np.float32)
        state[name] = np.ascontiguousarray(_from_kernel(name, value, shape))
    return state


def from_official(weights: Mapping[str, np.ndarray]) -> Params:
    """The parameters of a masked autoencoder, unchecked; its positions are left out."""
    return to_params({name: v for name, v in weights.items() if not name.endswith("pos_embed")})


def _place(name: str) -> tuple[tuple[str, ...], int | None]:
    """Our path of an official name, and the layer in a stacked parameter, or None."""
    in_block = re.fullmatch(rf"({'|'.join(STACKS)})\.(\d+)\.(.+)", name)
    if not in_block:
        return _REST[name], None
    blocks, layer, rest = in_block.groups()
    return (STACKS[blocks], "transformer", "blocks", *_BLOCK[rest][0]), int(layer)


class _Layers(dict):
    """The arrays of a stack, by layer, before they become one."""


def _stack_layers(node):
    if isinstance(node, _Layers):
        return np.stack([node[layer] for layer in range(len(node))])
    if isinstance(node, dict):
        return {key: _stack_layers(child) for key, child in node.items()}
    return node


def _to_kernel(name: str, value: np.ndarray) -> np.ndarray:
    if name == "patch_embed.proj.weight":
        return value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
    return value.T if value.ndim == 2 else value


def _from_kernel(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if name == "patch_embed.proj.weight":
        width, channels, rows, columns = shape
        return value.reshape(rows, columns, channels, width).transpose(3, 2, 0, 1)
    return value.T if value.ndim == 2 else value
