"""Frozen features of a pre-trained encoder: any block, pooling and resolution."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.config import ConfigError, Features
from hpm_jax.convert.weights import Weights
from hpm_jax.data.sources import Records
from hpm_jax.evaluation.accuracy import evaluate_split
from hpm_jax.evaluation.standardised import raw_pixels
from hpm_jax.models.encoder import Encoder
from hpm_jax.models.positions import encoder_on_grid
from hpm_jax.run.devices import Devices
from hpm_jax.step.state import Params
from hpm_jax.tokens import Grid, Tokenizer, grid_of

READOUTS = ("cls", "mean", "both", "tokens")


def pool(tokens: Array, how: str, extra: int = 1) -> Array:
    """Features in float32 of tokens `[B, extra + L, D]`, cls first.

    Args:
        how: "cls" `[B, D]`, "mean" of the patches `[B, D]`, "both" side by side `[B, 2 D]`, or
            "tokens" `[B, extra + L, D]` as they are.
        extra: how many tokens are no patches: 1, or 0 where there is no cls token.
    """
    tokens = tokens.astype(jnp.float32)
    if how == "tokens":
        return tokens
    if how == "cls":
        return tokens[:, 0]
    mean = tokens[:, extra:].mean(axis=1)
    return mean if how == "mean" else jnp.concatenate([tokens[:, 0], mean], axis=1)


def frozen_encoder(weights: Weights, size: Grid, features: Features) -> tuple[Encoder, Params]:
    """The encoder up to `features.block`, for (frames, height, width) `size`, and its parameters.

    Positions are resized to the grid. The last norm follows the last block that is left, as usual
    for features from the middle.

    Raises:
        ConfigError: for a block that the encoder does not have, or a size that it cannot cut.
    """
    a = weights.architecture
    blocks = features.block if features.block > 0 else a.depth + 1 + features.block
    if not 1 <= blocks <= a.depth:
        raise ConfigError(
            f"config.features.block = {features.block} does not exist: the encoder has {a.depth}, "
            f"so 1 to {a.depth}, or -1 to -{a.depth} from the end."
        )
    try:
        grid = grid_of(size, a.patch)
    except ValueError as error:
        raise ConfigError(
            f"config.data.frames = {size[0]}, config.data.image_size = {size[1:]}: {error}"
        ) from None
    if features.pool != "mean" and not a.of_layout.cls_token:
        raise ConfigError(
            f"config.features.pool = {features.pool!r}: this encoder has no cls token, so only "
            "the mean of its patches is there: --config.features.pool=mean"
        )
    params = encoder_on_grid(weights.params["encoder"], a.grid, grid)
    transformer = dict(params["transformer"])
    transformer["blocks"] = jax.tree.map(lambda x: x[:blocks], transformer["blocks"])
    params["transformer"] = transformer
    # a classifier that pools by the mean has no norm of its own there
    stack = {"depth": blocks, "heads": a.heads, "norm": "norm" in transformer, "unroll": blocks}
    dtype = jnp.dtype(features.dtype)
    layout = a.of_layout
    encoder = Encoder(grid, a.width, stack, dtype, layout, layout.classifier_positions)
    return encoder, params


def make_encode(encoder: Encoder, config: Any, patch_size: Grid, how: str):
    """Builds `(params, uint8 images [B, H, W, C]) -> features`, pooled as `how` says.

    Of several views of a video `[B, V, T, H, W, C]` the features are averaged, and their tokens
    stand one after the other.
    """
    extra = encoder.layout.extra_tokens
    tokenizer = Tokenizer(patch_size, config.data.mean, config.data.std)

    def encode(params: Params, images: Array) -> Array:
        count = len(images)
        tokens: Any = encoder.apply({"params": params}, tokenizer(images))
        found = pool(tokens, how, extra)
        if len(found) == count:
            return found
        if how == "tokens":
            return found.reshape(count, -1, found.shape[-1])
        return found.reshape(count, -1, found.shape[-1]).mean(axis=1)

    return encode


class FeatureExtractor:
    """Holds the frozen encoder on the devices and gives the features of whole splits."""

    def __init__(self, config: Any, weights: Weights, devices: Devices, how: str):
        """`config` has `data`, `features` and `run`; `how` is a name in `READOUTS`."""
        self.config, self.devices = config, devices
        size = (config.data.frames, *config.data.image_size)
        encoder, params = frozen_encoder(weights, size, config.features)
        encode = make_encode(encoder, config, weights.architecture.patch, how)
        self.batch_size = devices.round_up(config.features.batch_size)
        self._params = jax.device_put(params, devices.replicated)
        self._encode = with_labels(encode, devices)

    def __call__(self, records: Records) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Features `[N, ...]` float32, labels `[N]` int32, and names of what cannot be read."""
        encode = functools.partial(self._encode, self._params)
        return extract(encode, records, self.config, self.batch_size, self.devices)


def with_labels(encode: Callable[..., Array], devices: Devices) -> Callable[..., Any]:
    """The compiled `(params, images, labels, weights) -> (features, labels, weights)`.

    Labels and weights go along, so that every process has those of the whole batch.
    """
    return jax.jit(
        lambda params, images, *others: (encode(params, images), *others),
        out_shardings=devices.replicated,
    )


def extract(
    encode: Callable[..., Any], records: Records, config: Any, batch_size: int, devices: Devices
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features `[N, ...]` float32, labels `[N]` int32, and names of what cannot be read.

    Args:
        encode: `(images, labels, weights) -> (features, labels, weights)` of a batch.
    """
    features, labels, unread = [], [], []
    for (encoded, label, weight), left_out in evaluate_split(
        encode, records, config, batch_size, devices
    ):
        features.append(encoded[weight > 0])
        labels.append(label[weight > 0])
        unread += left_out
    return np.concatenate(features), np.concatenate(labels), unread


def extract_pixels(
    records: Records, config: Any, devices: Devices
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """As `extract`, with raw pixels for features; see `raw_pixels`."""
    encode = functools.partial(with_labels(lambda _, images: raw_pixels(images), devices), None)
    batch_size = devices.round_up(config.features.batch_size)
    return extract(encode, records, config, batch_size, devices)
