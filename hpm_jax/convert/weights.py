"""What a checkpoint holds, whoever wrote it: an architecture, and parameters under our names."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.errors import UserError
from hpm_jax.models import Classifier, MaskedAutoencoder
from hpm_jax.models.layouts import LAYOUTS, Layout
from hpm_jax.models.positions import sincos_2d
from hpm_jax.step.state import Params, param_shapes
from hpm_jax.tokens import Grid

POSITION_TOLERANCE = 1e-4  # between a file's frozen positions and our constants


class WeightsError(UserError, ValueError):
    """A checkpoint that cannot be used; the message names the key, what it has and needs."""


@dataclasses.dataclass(frozen=True)
class Architecture:
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

    @property
    def of_layout(self) -> Layout:
        """The layout itself."""
        return LAYOUTS[self.layout]

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

    In the layout "mae" `params["encoder"]` always has `positions` `[1, 1 + L, D]`, cls first, as
    the classifier's encoder does; a masked autoencoder adds `decoder_input`, `reconstructor` and
    `predictor`, a classifier `head` and, with mean pooling, `norm`.
    """

    architecture: Architecture
    params: Params


def classifier(weights: Weights) -> Classifier:
    """The classifier that fits; without classes it is for `method="features"` alone."""
    a = weights.architecture
    return Classifier(
        grid=a.grid,
        values=a.values,
        classes=a.classes,
        width=a.width,
        depth=a.depth,
        heads=a.heads,
        pool=a.pool,
        layout=a.of_layout,
    )


def model_shapes(a: Architecture) -> Params:
    """Shapes of all parameters of a model of these sizes, as `Weights` has them."""
    whole = Weights(dataclasses.replace(a, decoder_heads=a.decoder_heads or 1), {})
    patches = jax.ShapeDtypeStruct((1, a.patches, a.values), jnp.float32)
    init = functools.partial(classifier(whole).init, method=None if a.classes else "features")
    shapes = jax.eval_shape(init, jax.random.key(0), patches)["params"]
    if not a.decoder_width:
        return shapes
    decoder = param_shapes(masked_autoencoder(whole))
    return shapes | {name: part for name, part in decoder.items() if name != "encoder"}


def without_decoder(a: Architecture) -> Architecture:
    """The architecture of the encoder, with the classifier's head where there is one."""
    return dataclasses.replace(
        a,
        decoder_width=0,
        decoder_depth=0,
        decoder_heads=0,
        loss_predictor=False,
        target_values=0,
    )


def random_weights(architecture: Architecture, seed: int) -> Weights:
    """An encoder as initialised, with the positions of a masked autoencoder."""
    alone = without_decoder(architecture)
    model = classifier(Weights(alone, {})).clone(pool="cls", classes=1)
    patches = jnp.zeros((1, alone.patches, alone.values))
    params = jax.jit(model.init)(jax.random.key(seed), patches)["params"]
    encoder = jax.tree.map(np.asarray, params["encoder"])
    return Weights(alone, {"encoder": encoder})


def masked_autoencoder(weights: Weights) -> MaskedAutoencoder:
    """The masked autoencoder that fits; its parameters are from `masked_autoencoder_params`.

    Raises:
        WeightsError: where there is no decoder, or nobody knows its heads.
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
        loss_predictor=a.loss_predictor,
        layout=a.of_layout,
    )


def masked_autoencoder_params(weights: Weights) -> Params:
    """The parameters of `masked_autoencoder(weights)`: positions are constants there.

    Raises:
        WeightsError: where there is no decoder, or the positions are not those constants.
    """
    a, encoder = weights.architecture, weights.params["encoder"]
    _check_decoder(a)
    if "positions" in encoder:
        check_positions(
            "pos_embed",
            encoder["positions"],
            constant_positions(a.width, a.grid),
            "use the encoder alone, as --names timm does",
        )
    encoder = {name: value for name, value in encoder.items() if name != "positions"}
    return {**weights.params, "encoder": encoder}


def constant_positions(width: int, grid: Grid) -> np.ndarray:
    """The frozen positions as the official files have them: `[1, 1 + L, D]`, cls first, zero."""
    return np.pad(sincos_2d(width, grid), ((1, 0), (0, 0)))[None]


def check_positions(name: str, found: np.ndarray, constants: np.ndarray, otherwise: str) -> None:
    """Raises a `WeightsError` where frozen positions are not our constants."""
    difference = np.abs(found - constants).max()
    if difference > POSITION_TOLERANCE:
        raise WeightsError(
            f"{name} differs by up to {difference:.2g} from the sine-cosine positions of a masked "
            f"autoencoder, which are constants here (expected at most {POSITION_TOLERANCE:g}): "
            f"{otherwise}"
        )


def _check_decoder(a: Architecture) -> None:
    if not a.decoder_width:
        raise WeightsError(
            "these weights have no decoder, so they make no masked autoencoder: "
            "use the encoder alone, or the checkpoint of the whole pre-training model"
        )
