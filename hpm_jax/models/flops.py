"""Floating-point operations of a step, by formula; MFU is computed from them.

A multiplication and an addition are two operations. As usual, only matrix products count, and the
backward pass costs twice the forward pass.
"""

from typing import NamedTuple

from hpm_jax.models import Classifier, Detector, MaskedAutoencoder, Segmenter
from hpm_jax.models.block_flops import transformer_flops as transformer_flops
from hpm_jax.models.detector import (
    BOX_BINS,
    BOX_CONVS,
    BOX_LINEAR,
    MASK_BINS,
    MASK_SIZE,
)
from hpm_jax.models.layouts import Layout
from hpm_jax.models.mlp import mlp_weights


class StepFlops(NamedTuple):
    """Operations per image, without recomputation."""

    student: float  # forward and backward, what target and terms read, and the plugs' networks
    teacher: float  # forward pass over all that the teacher sees, while any patch is hard

    @property
    def total(self) -> float:
        """Operations of a step in which the teacher runs."""
        return self.student + self.teacher


def encoder_flops(patches: int, values: int, width: int, depth: int, layout: Layout) -> float:
    """Returns FLOPs of a forward pass of an encoder over `patches` of `values` each."""
    mlp = mlp_weights(layout.mlp, width, layout.mlp_width)
    embedding = 2 * patches * values * width
    return embedding + transformer_flops(patches + layout.extra_tokens, width, depth, mlp=mlp)


def step_flops(
    model: MaskedAutoencoder,
    hidden: int,
    network_passes: int,
    predicts: bool = True,
    frame_stride: int = 1,
    parts: int = 1,
    queried: int | None = None,
    unseen: int = 0,
) -> StepFlops:
    """Returns the operations of one training step per image.

    Args:
        model: the model with its sizes.
        hidden: number of hidden patches, M.
        network_passes: number of passes over the whole image that the mask strategy needs.
        predicts: whether these passes predict losses, or end with the encoder.
        frame_stride: a pass uses every n-th frame of the grid.
        parts: number of inputs into which the image is divided.
        queried: number of hidden patches that are predicted; None for all.
        unseen: number of patches that a pass leaves out at random.
    """
    decoder, sizes = model.decoder, model.decoder_sizes
    length, head_width = sizes.length, decoder.body_width(sizes)

    def encoder(patches):
        return encoder_flops(patches, model.values, model.width, model.depth, model.layout)

    def predictor(seen, asked):
        # the averaged kernel reduces the head to a product with one vector
        head = 2 * asked * head_width
        return decoder.body_flops(sizes, seen, asked) + head if model.loss_predictor else 0

    visible = length if decoder.in_place else length - hidden
    asked = hidden if queried is None else queried
    head = 2 * asked * head_width * model.target_width
    reconstructor = decoder.body_flops(sizes, visible, asked) + head
    student = encoder(visible) + decoder.entry_flops(sizes, visible, asked)
    student += reconstructor + predictor(visible, asked)
    seen = (length - unseen) // frame_stride // parts
    heads = decoder.entry_flops(sizes, seen, length) + predictor(seen, length)
    network = encoder(seen) + (heads if predicts else 0)
    return StepFlops(3 * student, network_passes * parts * network)


def classifier_flops(
    model: Classifier, mask_sub: float = 0.0, further_passes: float = 0.0
) -> float:
    """Returns the operations of one fine-tuning step per image, forward and backward.

    Args:
        mask_sub: fraction of patches hidden from a second pass; 0 without that pass.
        further_passes: forward passes of regularizers; a backward pass counts two.
    """
    length = model.grid[0] * model.grid[1] * model.grid[2]

    def forward(patches):
        head = 2 * model.width * model.classes
        encoder = encoder_flops(patches, model.values, model.width, model.depth, model.layout)
        return encoder + head

    second = forward(length * (1 - mask_sub)) if mask_sub else 0
    return 3 * (forward(length) + second) + further_passes * forward(length)


def segmenter_flops(model: Segmenter, passes: int = 1) -> float:
    """Returns the operations of one segmentation step per image, forward and backward.

    A frozen encoder has no backward pass. Enlarging the logits is not counted.

    Args:
        passes: number of passes of the whole network.
    """
    length = model.grid[0] * model.grid[1] * model.grid[2]
    head = model.decoder.flops(model.sizes)
    if model.raw_pixels:
        return passes * 3 * head
    encoder = encoder_flops(length, model.values, model.width, model.depth, model.layout)
    return passes * (encoder + 3 * head if model.frozen else 3 * (encoder + head))


def detector_flops(model: Detector, sampled: int, masked: int) -> float:
    """Returns the operations of one detection step per image, forward and backward.

    Windows count without their padding. A frozen encoder has no backward pass.

    Args:
        sampled: number of proposals that the head of boxes sees.
        masked: number of those that the head of masks sees.
    """
    length, width, layout = model.grid[1] * model.grid[2], model.width, model.layout
    mlp = mlp_weights(layout.mlp, width, layout.mlp_width)
    whole = min(model.global_blocks, model.depth) if model.window else model.depth
    seen = min(model.window**2, length) if model.window else length
    windows = length / max(seen, 1)
    encoder = 2 * length * model.values * width + transformer_flops(length, width, whole, mlp=mlp)
    encoder += windows * transformer_flops(seen, width, model.depth - whole, mlp=mlp)
    if model.relative:  # products of queries and offsets
        height, columns = model.grid[1:]
        sides = whole * (height + columns) + (model.depth - whole) * 2 * model.window
        encoder += 2 * length * width * sides

    channels = model.channels
    places = [height * columns for height, columns in model.shapes]
    # width / 2 and width / 4 channels where the map has been enlarged
    inputs = (width // 4, width // 2, width, width)
    enlarging = length * (4 * width * (width // 2) * 2 + 16 * (width // 2) * (width // 4))
    pyramid = enlarging + sum(
        count * (before * channels + 9 * channels**2)
        for count, before in zip(places, inputs, strict=False)
    )
    regions = sum(places) * (2 * 9 * channels**2 + 15 * channels)
    convs, linear = BOX_CONVS[model.box_head], BOX_LINEAR[model.box_head]
    flat = BOX_BINS**2 * channels
    boxes = convs * BOX_BINS**2 * 9 * channels**2 + flat * model.box_width
    boxes += (linear - 1) * model.box_width**2 + model.box_width * (5 * model.classes + 1)
    masks = 4 * MASK_BINS**2 * 9 * channels**2 + MASK_SIZE**2 * channels * (
        channels + model.classes
    )
    heads = sampled * boxes + (masked * masks if model.masks else 0)
    return (1 if model.frozen else 3) * encoder + 6 * (pyramid + regions + heads)
