"""Weights of the official PyTorch HPM and MAE, by their parameter names, to our parameters."""

from collections.abc import Iterator, Mapping

import numpy as np

from hpm_jax.training.state import Params

# one block: ours, official
_BLOCK = {
    ("LayerNorm_0", "scale"): "norm1.weight",
    ("LayerNorm_0", "bias"): "norm1.bias",
    ("attention", "qkv", "kernel"): "attn.qkv.weight",
    ("attention", "qkv", "bias"): "attn.qkv.bias",
    ("attention", "projection", "kernel"): "attn.proj.weight",
    ("attention", "projection", "bias"): "attn.proj.bias",
    ("LayerNorm_1", "scale"): "norm2.weight",
    ("LayerNorm_1", "bias"): "norm2.bias",
    ("Dense_0", "kernel"): "mlp.fc1.weight",
    ("Dense_0", "bias"): "mlp.fc1.bias",
    ("Dense_1", "kernel"): "mlp.fc2.weight",
    ("Dense_1", "bias"): "mlp.fc2.bias",
}
# transformer stacks: ours, official blocks, official norm
_STACKS = (
    ("encoder", "blocks", "norm"),
    ("reconstructor", "decoder_blocks", "decoder_norm"),
    ("predictor", "decoder_blocks_losspred", "decoder_norm_losspred"),
)
# everything else
_REST = {
    ("encoder", "cls_token"): "cls_token",
    ("encoder", "patch_embedding", "projection", "kernel"): "patch_embed.proj.weight",
    ("encoder", "patch_embedding", "projection", "bias"): "patch_embed.proj.bias",
    ("decoder_input", "mask_token"): "mask_token",
    ("decoder_input", "embedding", "kernel"): "decoder_embed.weight",
    ("decoder_input", "embedding", "bias"): "decoder_embed.bias",
    ("reconstructor", "head", "kernel"): "decoder_pred.weight",
    ("reconstructor", "head", "bias"): "decoder_pred.bias",
    ("predictor", "head_kernel"): "decoder_pred_losspred.weight",
    ("predictor", "head_bias"): "decoder_pred_losspred.bias",
}


def names(depths: Mapping[str, int]) -> Iterator[tuple[tuple[str, ...], int | None, str]]:
    """Every parameter: our path, the layer in a stack (or None), the official name.

    Args:
        depths: blocks of each of our stacks that the model has: encoder, reconstructor, predictor.
    """
    for stack, blocks, norm in _STACKS:
        for layer in range(depths.get(stack, 0)):
            for path, name in _BLOCK.items():
                yield (stack, "transformer", "blocks", *path), layer, f"{blocks}.{layer}.{name}"
        if stack in depths:
            yield (stack, "transformer", "norm", "scale"), None, f"{norm}.weight"
            yield (stack, "transformer", "norm", "bias"), None, f"{norm}.bias"
    for path, name in _REST.items():
        if path[0] in depths or path[0] == "decoder_input":
            yield path, None, name


def from_official(weights: Mapping[str, np.ndarray]) -> Params:
    """Official weights, by name, to our nested parameters, float32.

    Linear weights `[out, in]` become kernels `[in, out]`; the patch convolution `[D, C, p, p]`
    becomes a kernel over patches in the order (row, column, channel); blocks are stacked. The
    positions (`pos_embed`, `decoder_pos_embed`) are constants here and are left out.
    """
    depths = {
        stack: 1 + max(int(name[len(blocks) + 1 :].split(".")[0]) for name in found)
        for stack, blocks, _ in _STACKS
        if (found := [name for name in weights if name.startswith(f"{blocks}.")])
    }
    params: dict = {}
    for path, layer, name in names(depths):
        value = _to_ours(name, np.asarray(weights[name], np.float32))
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        if layer is None:
            node[path[-1]] = value
        else:
            node.setdefault(path[-1], []).append(value)
    return _stack_layers(params)


def _stack_layers(node):
    if isinstance(node, dict):
        return {key: _stack_layers(child) for key, child in node.items()}
    return np.stack(node) if isinstance(node, list) else node


def _to_ours(name: str, value: np.ndarray) -> np.ndarray:
    if name == "patch_embed.proj.weight":
        return value.transpose(2, 3, 1, 0).reshape(-1, value.shape[0])
    return value.T if value.ndim == 2 else value
