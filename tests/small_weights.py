"""Small random weights, shared by the tests of conversion."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.convert.weights import (
    Architecture,
    Weights,
    classifier,
    constant_positions,
    masked_autoencoder,
)
from hpm_jax.step.state import Params
from hpm_jax.tokens import Mask

ENCODER = Architecture((1, 3, 5), patch_size=4, channels=3, width=32, depth=2, heads=4)
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
VIDEO_ENCODER = dataclasses.replace(ENCODER, grid=(2, 3, 5), tubelet=2, layout="videomae")


def official_state() -> dict[str, np.ndarray]:
    """The state dict of the official HPM, small, with 4 heads everywhere."""
    with np.load(Path(__file__).parent / "golden" / "hpm_step.npz") as case:
        return {name[8:]: case[name] for name in case.files if name.startswith("weights/")}


def video_mae_state() -> dict[str, np.ndarray]:
    """The state dict of the official VideoMAE, small: 4 heads, and 2 in the decoder."""
    with np.load(Path(__file__).parent / "golden" / "videomae.npz") as case:
        return {name[8:]: case[name] for name in case.files if name.startswith("weights/")}


def random_weights(architecture: Architecture, seed: int = 0) -> Weights:
    """Every parameter random, of a size at which each can be seen in the output."""
    params = random_like(shapes_of(architecture), seed)
    if not architecture.classes and not architecture.decoder_width:
        params.pop("head")
    if architecture.decoder_width and architecture.layout == "mae":
        params["encoder"]["positions"] = constant_positions(architecture.width, architecture.grid)
    return Weights(architecture, params)


@functools.cache
def shapes_of(architecture: Architecture) -> Params:
    """The shapes of all parameters; the model is traced once for all tests."""
    weights = Weights(architecture, None)
    patches = jnp.zeros((1, architecture.patches, architecture.values))
    if architecture.decoder_width:
        index = jnp.arange(architecture.patches)[None]
        inputs, model = (patches, Mask(index[:, :2], index[:, 2:])), masked_autoencoder(weights)
    else:
        inputs, model = (patches,), classifier(weights)
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]


def random_like(shapes: Params, seed: int = 0) -> Params:
    """Normal numbers of deviation 0.2."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)


def assert_same_state(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The same names, dtypes and numbers."""
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name].dtype == expected[name].dtype, name
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


def assert_same_weights(actual: Weights, expected: Weights) -> None:
    """The same architecture, and the same numbers."""
    assert actual.architecture == expected.architecture
    jax.tree.map(np.testing.assert_array_equal, actual.params, expected.params)
