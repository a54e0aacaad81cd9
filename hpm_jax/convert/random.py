"""Fresh weights of a checkpoint's architecture: what pre-training is compared with."""

import jax
import jax.numpy as jnp
import numpy as np

from hpm_jax.convert.read import read_weights
from hpm_jax.convert.state_dict import without_decoder
from hpm_jax.convert.weights import Architecture, Weights, classifier


def load_weights(init_from: str, which: str, seed: int) -> Weights:
    """The weights that a config names.

    Args:
        init_from: a workdir or a file.
        which: "student", "teacher", or "random" for fresh weights of the same architecture.
        seed: of the random ones.
    """
    weights = read_weights(init_from, "student" if which == "random" else which)
    return random_weights(weights.architecture, seed) if which == "random" else weights


def random_weights(architecture: Architecture, seed: int) -> Weights:
    """An encoder as initialised, with the positions of a masked autoencoder."""
    alone = without_decoder(architecture)
    model = classifier(Weights(alone, {})).clone(pool="cls", classes=1)
    patches = jnp.zeros((1, alone.patches, alone.values))
    params = jax.jit(model.init)(jax.random.key(seed), patches)["params"]
    encoder = jax.tree.map(np.asarray, params["encoder"])
    return Weights(alone, {"encoder": encoder})
