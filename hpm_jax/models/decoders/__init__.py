"""Decoders: how the target of hidden patches, and their losses, are predicted."""

from hpm_jax.models.decoders.cross_attention import CrossAttention as CrossAttention
from hpm_jax.models.decoders.decoder import Decoder as Decoder
from hpm_jax.models.decoders.decoder import DecoderContext as DecoderContext
from hpm_jax.models.decoders.decoder import Sizes as Sizes
from hpm_jax.models.decoders.diffusion import Diffusion as Diffusion
from hpm_jax.models.decoders.latent_regressor import LatentRegressor as LatentRegressor
from hpm_jax.models.decoders.linear import Linear as Linear
from hpm_jax.models.decoders.no_decoder import NoDecoder as NoDecoder
from hpm_jax.models.decoders.noisy_positions import NoisyPositions as NoisyPositions
from hpm_jax.models.decoders.self_attention import SelfAttention as SelfAttention

DECODERS = Decoder.plugs
