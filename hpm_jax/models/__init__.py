"""Models on patches; they depend only on jax, flax and numpy."""

from hpm_jax.models.classifier import Classifier as Classifier
from hpm_jax.models.detector import Detector as Detector
from hpm_jax.models.masked_autoencoder import MaskedAutoencoder as MaskedAutoencoder
from hpm_jax.models.masked_autoencoder import Prediction as Prediction
from hpm_jax.models.segmenter import Segmenter as Segmenter
from hpm_jax.models.sizes import SIZES as SIZES
from hpm_jax.models.sizes import VIDEO_SIZES as VIDEO_SIZES
