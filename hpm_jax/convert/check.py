"""Checks that converted weights compute the same outputs, in our models and in timm."""

import functools
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from hpm_jax.convert.to_onnx import onnx_outputs
from hpm_jax.convert.weights import (
    Architecture,
    Weights,
    WeightsError,
    classifier,
    masked_autoencoder,
    masked_autoencoder_params,
)
from hpm_jax.models import Classifier, MaskedAutoencoder
from hpm_jax.step.state import Params
from hpm_jax.tokens import Mask, patchify, unpatchify

Forward = Callable[[Params, Array], dict[str, Array]]

TOLERANCE = 1e-4  # relative to the largest value of an output
_IMAGES = 2


def differences(source: Weights, target: Weights) -> dict[str, float]:
    """Returns the largest difference of each output on random inputs, relative to its maximum.

    The outputs are those of `target`, which may have fewer parts than `source`: the encoder's
    always; logits with a head; reconstruction and predicted loss with a decoder.
    """
    patches = random_patches(target.architecture)
    before, after = (_outputs(target, w, patches) for w in (source, target))
    return {name: _difference(before[name], after[name]) for name in before}


def timm_differences(source: Weights, path: str | Path) -> dict[str, float]:
    """Returns the differences to timm's model, which loads the `.safetensors` or `.pth` strictly.

    Raises:
        ImportError: if timm is not installed, or its installation is broken.
        WeightsError: if timm rejects the file.
    """
    try:
        import torch
        from timm.models import load_checkpoint
        from timm.models.vision_transformer import VisionTransformer
    except Exception as error:  # a torchvision of another torch raises more than ImportError
        raise ImportError(str(error)) from error

    a = source.architecture
    model = VisionTransformer(
        img_size=(a.grid[1] * a.patch_size, a.grid[2] * a.patch_size),
        patch_size=a.patch_size,
        in_chans=a.channels,
        num_classes=a.classes,
        global_pool="avg" if a.pool == "mean" else "token",
        embed_dim=a.width,
        depth=a.depth,
        num_heads=a.heads,
    ).eval()
    try:
        load_checkpoint(model, str(path), strict=True)
    except RuntimeError as error:
        raise WeightsError(f"timm does not load {path}: {error}") from None
    patches = random_patches(a)
    images = unpatchify(patches, a.grid, a.patch)[:, 0]
    with torch.no_grad():
        tokens = model.forward_features(torch.from_numpy(np.array(images.transpose(0, 3, 1, 2))))
        features = model.forward_head(tokens, pre_logits=True)
        logits = model.get_classifier()(features)
    found = {"encoder": tokens, "features": features, "logits": logits}
    ours = _encode(classifier(source))(source.params, patches)
    return {name: _difference(ours[name], np.asarray(found[name])) for name in ours}


def onnx_differences(source: Weights, path: Path) -> dict[str, float]:
    """Returns the differences to onnxruntime's outputs of the graph in `path`."""
    a = source.architecture
    patches = random_patches(a)
    clips = unpatchify(patches, a.grid, a.patch)
    images = np.moveaxis(np.asarray(clips), -1, 2)
    found = onnx_outputs(path, images if images.shape[1] > 1 else images[:, 0])
    ours = _encode(classifier(source))(source.params, patches)
    return {
        name: _difference(ours[name], found[name.replace("encoder", "tokens")]) for name in ours
    }


def random_patches(a: Architecture) -> Array:
    """Returns patches `[2, L, P]` of random images or clips with unit variance."""
    size = [count * side for count, side in zip(a.grid, a.patch, strict=True)]
    videos = jax.random.normal(jax.random.key(0), (_IMAGES, *size, a.channels))
    return patchify(videos, a.patch)


def _outputs(like: Weights, weights: Weights, patches: Array) -> dict[str, Array]:
    """Computes the outputs of `weights` in the models that fit `like`."""
    outputs = _encode(classifier(like))(weights.params, patches)
    if like.architecture.decoder_width:
        params = masked_autoencoder_params(weights)
        outputs |= _rebuild(masked_autoencoder(like))(params, patches)
    return outputs


@functools.cache
def _encode(model: Classifier) -> Forward:
    """Compiles encoder and head."""

    def outputs(model, patches):
        logits = {"logits": model(patches)} if model.classes else {}
        return {"encoder": model.encoder(patches), "features": model.features(patches)} | logits

    return jax.jit(lambda params, x: model.apply({"params": params}, x, method=outputs))


@functools.cache
def _rebuild(model: MaskedAutoencoder) -> Forward:
    """Compiles the decoder for inputs in which every fourth patch is visible."""
    index = np.arange(math.prod(model.grid), dtype=np.int32)
    keep, hide = (np.tile(x, (_IMAGES, 1)) for x in (index[index % 4 == 0], index[index % 4 > 0]))
    mask = Mask(jnp.asarray(keep), jnp.asarray(hide))

    def outputs(params, patches):
        prediction = model.apply({"params": params}, patches, mask)
        loss = {"predicted loss": prediction.loss} if model.loss_predictor else {}
        return {"reconstruction": prediction.values} | loss

    return jax.jit(outputs)


def _difference(before: ArrayLike, after: ArrayLike) -> float:
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    return float(np.abs(before - after).max() / max(np.abs(before).max(), 1e-30))
