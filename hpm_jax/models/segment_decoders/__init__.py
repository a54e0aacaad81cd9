"""Decoders of segmentation, each of them a plug."""

from hpm_jax.models.segment_decoders.decoder import Decoded as Decoded
from hpm_jax.models.segment_decoders.decoder import SegmentDecoder as SegmentDecoder
from hpm_jax.models.segment_decoders.decoder import SegmentSizes as SegmentSizes
from hpm_jax.models.segment_decoders.linear_head import LinearHead as LinearHead
from hpm_jax.models.segment_decoders.upernet import UPerNet as UPerNet
