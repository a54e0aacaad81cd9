"""Weights of any origin: an architecture, and parameters with our names."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.errors import UserError
from hpm_jax.models import Classifier, MaskedAutoencoder
from hpm_jax.models.decoders import Decoder, SelfAttention
from hpm_jax.models.layouts import EncoderVariant, Layout, changed_options, layout_of
from hpm_jax.models.positions import sincos_2d
from hpm_jax.step.state import Params, param_shapes
from hpm_jax.tokens import Grid

POSITION_TOLERANCE = 1e-4  # between a file's frozen positions and our constants


class WeightsError(UserError, ValueError):
    """An unusable checkpoint; the message names the key, its value and what is expected."""


@dataclasses.dataclass(frozen=True)
class Architecture(EncoderVariant):
    """The sizes that a checkpoint was made with; 0 for a part that it does not have."""

    grid: Grid
    patch_size: int  # rows and columns of a patch
    channels: int
    width: int
    depth: int
    heads: int
    decoder_width: int = 0
    decoder_depth: int = 0
    decoder_heads: int = 0  # 0 also where a file's decoder does not tell
    loss_predictor: bool = False
    classes: int = 0
    pool: str = "cls"  # of a classifier; see `hpm_jax/models/classifier.py`
    tubelet: int = 1  # frames of a patch
    layout: str = "mae"  # a name in `hpm_jax.models.layouts.LAYOUTS`
    target_values: int = 0  # of the decoder, where it does not rebuild whole patches
    decoder: str = SelfAttention.name  # its kind, as a call; see `hpm_jax/models/decoders`

    @property
    def note(self) -> dict[str, Any]:
        """What a file notes of it; a decoder that can be written is of one kind."""
        fields = dataclasses.asdict(self)
        del fields["decoder"]
        return fields

    @property
    def token_layout(self) -> Layout:
        """The layout itself, with the options of the encoder."""
        return layout_of(self.layout, self)

    @property
    def patch(self) -> Grid:
        """(frames, rows, columns) of a patch."""
        return (self.tubelet, self.patch_size, self.patch_size)

    @property
    def patches(self) -> int:
        """Patches of one image or clip, L."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def values(self) -> int:
        """Values of one patch, P."""
        return math.prod(self.patch) * self.channels


class Weights(NamedTuple):
    """Parameters as float32 numpy arrays, nested as those of our models.

    In the layout "mae" `params["encoder"]` has `positions` `[1, 1 + L, D]`, cls first, as the
    classifier's encoder does, unless its `encoder_positions` are "none"; a masked autoencoder adds
    `decoder_input`, `reconstructor` and `predictor`, a classifier `head` and, with mean pooling,
    `norm`.
    """

    architecture: Architecture
    params: Params


def classifier(weights: Weights) -> Classifier:
    """Builds the matching classifier; without classes it only supports `method="features"`."""
    a = weights.architecture
    return Classifier(
        grid=a.grid,
        values=a.values,
        classes=a.classes,
        width=a.width,
        depth=a.depth,
        heads=a.heads,
        pool=a.pool,
        layout=a.token_layout,
    )


def model_shapes(a: Architecture) -> Params:
    """Returns the shapes of all parameters of a model of these sizes, as in `Weights`."""
    whole = Weights(dataclasses.replace(a, decoder_heads=a.decoder_heads or 1), {})
    patches = jax.ShapeDtypeStruct((1, a.patches, a.values), jnp.float32)
    init = functools.partial(classifier(whole).init, method=None if a.classes else "features")
    shapes = jax.eval_shape(init, jax.random.key(0), patches)["params"]
    if not a.decoder_width:
        return shapes
    decoder = param_shapes(masked_autoencoder(whole))
    return shapes | {name: part for name, part in decoder.items() if name != "encoder"}


def without_decoder(a: Architecture) -> Architecture:
    """Returns the architecture of the encoder, with the classifier's head if there is one."""
    return dataclasses.replace(
        a,
        decoder_width=0,
        decoder_depth=0,
        decoder_heads=0,
        loss_predictor=False,
        target_values=0,
        decoder=SelfAttention.name,
    )


def random_weights(architecture: Architecture, seed: int) -> Weights:
    """Returns an untrained encoder, with the positions of a masked autoencoder."""
    alone = without_decoder(architecture)
    model = classifier(Weights(alone, {})).clone(pool="cls", classes=1)
    patches = jnp.zeros((1, alone.patches, alone.values))
    params = jax.jit(model.init)(jax.random.key(seed), patches)["params"]
    encoder = jax.tree.map(np.asarray, params["encoder"])
    return Weights(alone, {"encoder": encoder})


def masked_autoencoder(weights: Weights) -> MaskedAutoencoder:
    """Builds the matching masked autoencoder; `masked_autoencoder_params` gives its parameters.

    Raises:
        WeightsError: if there is no decoder, or its number of heads is unknown.
    """
    a = weights.architecture
    _check_decoder(a)
    if not a.decoder_heads:
        raise WeightsError(
            f"the decoder's width is {a.decoder_width}, and its number of heads is not in its "
            "shapes: give decoder_heads (--decoder-heads)"
        )
    return MaskedAutoencoder(
        grid=a.grid,
        values=a.values,
        target_values=a.target_values,
        width=a.width,
        depth=a.depth,
        heads=a.heads,
        decoder_width=a.decoder_width,
        decoder_depth=a.decoder_depth,
        decoder_heads=a.decoder_heads,
        decoder=Decoder.parse_call(a.decoder, "decoder"),
        loss_predictor=a.loss_predictor,
        layout=a.token_layout,
    )


def masked_autoencoder_params(weights: Weights) -> Params:
    """Returns the parameters of `masked_autoencoder(weights)`, in which positions are constants.

    Raises:
        WeightsError: if there is no decoder, or the positions are not those constants.
    """
    a, encoder = weights.architecture, weights.params["encoder"]
    _check_decoder(a)
    if a.encoder_positions != "layout":
        return weights.params
    if "positions" in encoder:
        check_positions(
            "pos_embed",
            encoder["positions"],
            constant_positions(a.width, a.grid, a.token_layout.decoder_tokens),
            "use the encoder alone, as --names timm does",
        )
    encoder = {name: value for name, value in encoder.items() if name != "positions"}
    return {**weights.params, "encoder": encoder}


def constant_positions(width: int, grid: Grid, first: int = 1) -> np.ndarray:
    """Returns the frozen positions as in the official files: `[1, first + L, D]`, cls first, zero.

    `first` is the number of cls tokens, 1 or 0.
    """
    return np.pad(sincos_2d(width, grid), ((first, 0), (0, 0)))[None]


def check_positions(name: str, found: np.ndarray, constants: np.ndarray, otherwise: str) -> None:
    """Raises a `WeightsError` if frozen positions differ from our constants."""
    difference = np.abs(found - constants).max()
    if difference > POSITION_TOLERANCE:
        raise WeightsError(
            f"{name} differs by up to {difference:.2g} from the sine-cosine positions of a masked "
            f"autoencoder, which are constants here (expected at most {POSITION_TOLERANCE:g}): "
            f"{otherwise}"
        )


def check_plain(a: Architecture, output: str, advice: str) -> None:
    """Raises a `WeightsError` if the encoder has options that an output does not have."""
    if changed := changed_options(a):
        options = ", ".join(f"{name} = {value!r}" for name, value in changed.items())
        raise WeightsError(f"{output} has plain vision transformers, without {options}: {advice}")


def _check_decoder(a: Architecture) -> None:
    if not a.decoder_width:
        raise WeightsError(
            "these weights have no decoder, so they make no masked autoencoder: "
            "use the encoder alone, or the checkpoint of the whole pre-training model"
        )
