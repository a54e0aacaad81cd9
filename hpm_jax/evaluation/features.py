"""Computes frozen features of a pre-trained encoder, at any block, pooling and resolution."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hpm_jax.config import ConfigError, Features
from hpm_jax.convert.weights import Weights
from hpm_jax.data.pipeline import BrokenImages
from hpm_jax.data.sources import DataError, Records
from hpm_jax.evaluation.accuracy import evaluate_split
from hpm_jax.evaluation.checks import check_finite_features
from hpm_jax.evaluation.standardised import raw_pixels
from hpm_jax.models.encoder import Encoder
from hpm_jax.models.positions import encoder_on_grid
from hpm_jax.run.devices import Devices
from hpm_jax.step.state import Params
from hpm_jax.tokens import Grid, Tokenizer, grid_of

READOUTS = ("cls", "mean", "both", "tokens")


def pool(tokens: Array, how: str, extra: int = 1) -> Array:
    """Pools tokens `[B, extra + L, D]`, cls first, to float32 features.

    Args:
        how: "cls" `[B, D]`, "mean" of the patches `[B, D]`, "both" concatenated `[B, 2 D]`, or
            "tokens" `[B, extra + L, D]`, not pooled.
        extra: number of tokens before the patches: 1, or 0 without a cls token.
    """
    tokens = tokens.astype(jnp.float32)
    if how == "tokens":
        return tokens
    if how == "cls":
        return tokens[:, 0]
    mean = tokens[:, extra:].mean(axis=1)
    return mean if how == "mean" else jnp.concatenate([tokens[:, 0], mean], axis=1)


def block_number(block: int, depth: int, option: str) -> int:
    """Returns the number of a block from 1; a negative one counts from the end.

    Args:
        option: as it was given, for the message.

    Raises:
        ConfigError: for a block that does not exist.
    """
    number = block if block > 0 else depth + 1 + block
    if not 1 <= number <= depth:
        raise ConfigError(
            f"{option} does not exist: the encoder has {depth}, so 1 to {depth}, or -1 to "
            f"-{depth} from the end."
        )
    return number


def frozen_encoder(weights: Weights, size: Grid, features: Features) -> tuple[Encoder, Params]:
    """Builds the encoder up to `features.block` for `size` (frames, height, width), with weights.

    Positions are resized to the grid. The last norm is applied after the last remaining block, as
    is usual for intermediate features.

    Raises:
        ConfigError: for a block that does not exist, or a size that is not a multiple of the patch.
    """
    a = weights.architecture
    blocks = block_number(features.block, a.depth, f"config.features.block = {features.block}")
    try:
        grid = grid_of(size, a.patch)
    except ValueError as error:
        raise ConfigError(
            f"config.data.frames = {size[0]}, config.data.image_size = {size[1:]}: {error}"
        ) from None
    if features.pool != "mean" and not a.token_layout.cls_token:
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
    layout = a.token_layout
    encoder = Encoder(grid, a.width, stack, dtype, layout, layout.classifier_positions)
    return encoder, params


def make_encode(encoder: Encoder, config: Any, patch_size: Grid, how: str):
    """Builds `(params, uint8 images [B, H, W, C]) -> features`, pooled by `how`.

    For several views of a video `[B, V, T, H, W, C]` pooled features are averaged, and tokens are
    concatenated.
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


class FeatureBatch(NamedTuple):
    """The features of one batch of a split; unreadable images have no row."""

    features: np.ndarray  # [n, ...] float32
    labels: np.ndarray  # [n] int32
    places: np.ndarray  # [n] int64: indices of the records
    unread: list[str]  # names of unreadable images


class FeatureExtractor:
    """Computes the features of whole splits with a frozen encoder on the devices."""

    def __init__(
        self, config: Any, weights: Weights, devices: Devices, how: str, whose: str = "the encoder"
    ):
        """Puts the encoder on the devices.

        Args:
            config: has `data`, `features` and `run`.
            weights: weights with an encoder.
            devices: all devices.
            how: a name in `READOUTS`.
            whose: name of the weights in messages.
        """
        self.config, self.devices, self.whose = config, devices, whose
        size = (config.data.frames, *config.data.image_size)
        encoder, params = frozen_encoder(weights, size, config.features)
        encode = make_encode(encoder, config, weights.architecture.patch, how)
        self.batch_size = devices.round_up(config.features.batch_size)
        self._params = jax.device_put(params, devices.replicated)
        self._encode = with_labels(encode, devices)

    def __call__(self, records: Records) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Returns features `[N, ...]` float32, labels `[N]` int32, and names of unreadable images.

        Raises:
            DataError: for features that are not finite.
        """
        encode = functools.partial(self._encode, self._params)
        found = extract(encode, records, self.config, self.batch_size, self.devices)
        check_finite_features(found[0], self.whose)
        return found

    def batches(self, records: Records, broken: BrokenImages) -> Iterator[FeatureBatch]:
        """Yields features in batches of `batch_size` records, for more than fits into memory.

        Raises:
            DataError: for features that are not finite, and as `broken` does.
        """
        encode = functools.partial(self._encode, self._params)
        for batch in encoded_batches(
            encode, records, self.config, self.batch_size, self.devices, broken
        ):
            check_finite_features(batch.features, self.whose)
            yield batch


def with_labels(encode: Callable[..., Array], devices: Devices) -> Callable[..., Any]:
    """Compiles `(params, images, labels, weights) -> (features, labels, weights)`.

    Labels and weights are returned so that every process has those of the whole batch.
    """
    return jax.jit(
        lambda params, images, *others: (encode(params, images), *others),
        out_shardings=devices.replicated,
    )


def extract(
    encode: Callable[..., Any], records: Records, config: Any, batch_size: int, devices: Devices
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns features `[N, ...]` float32, labels `[N]` int32, and names of unreadable images.

    Args:
        encode: `(images, labels, weights) -> (features, labels, weights)` of a batch.
    """
    batches = list(encoded_batches(encode, records, config, batch_size, devices))
    if not batches:
        raise DataError("a split holds no images to measure: give one that has some")
    features, labels = (
        np.concatenate([getattr(x, name) for x in batches]) for name in ("features", "labels")
    )
    return features, labels, [name for batch in batches for name in batch.unread]


def encoded_batches(
    encode: Callable[..., Any],
    records: Records,
    config: Any,
    batch_size: int,
    devices: Devices,
    broken: BrokenImages | None = None,
) -> Iterator[FeatureBatch]:
    """Yields the features of each batch, without padding.

    Args:
        encode: as in `extract`.
        broken: as in `evaluate_split`.
    """
    start = 0
    for (encoded, label, weight), unread in evaluate_split(
        encode, records, config, batch_size, devices, broken
    ):
        rows = np.flatnonzero(weight > 0)
        yield FeatureBatch(encoded[rows], label[rows], start + rows, unread)
        start += batch_size


def extract_pixels(
    records: Records, config: Any, devices: Devices
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns raw pixels as features, in the form of `extract`; see `raw_pixels`."""
    encode = functools.partial(with_labels(lambda _, images: raw_pixels(images), devices), None)
    batch_size = devices.round_up(config.features.batch_size)
    return extract(encode, records, config, batch_size, devices)
