"""Models on patches; needs only jax, flax and numpy."""

from hpm_jax.models.masked_autoencoder import MaskedAutoencoder as MaskedAutoencoder
from hpm_jax.models.masked_autoencoder import Prediction as Prediction
from hpm_jax.models.patches import grid_of as grid_of
from hpm_jax.models.patches import patchify as patchify
from hpm_jax.models.patches import unpatchify as unpatchify
from hpm_jax.models.sizes import SIZES as SIZES
