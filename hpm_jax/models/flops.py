"""How many floating-point operations a step needs, by formula: the floor that MFU is measured from.

A multiplication and an addition are two operations. Only matrix products count, as is usual; the
backward pass costs twice the forward pass.
"""

from typing import NamedTuple

from hpm_jax.models import Classifier, MaskedAutoencoder


class StepFlops(NamedTuple):
    """Operations for one image, without recomputation."""

    student: float  # forward and backward
    teacher: float  # a forward pass over all that the teacher sees, while any patch is hard

    @property
    def total(self) -> float:
        """A step in which the teacher looks."""
        return self.student + self.teacher


def transformer_flops(tokens: int, width: int, depth: int, read: int | None = None) -> float:
    """Forward pass of `depth` blocks: 12 width^2 a token, and two products of N x N a head.

    Where only `read` tokens are read, the others are keys and values in the last block, no more.
    """
    last = 2 * (10 * width**2 + 2 * tokens * width)  # of each token that is read
    unread = 0 if read is None or not depth else tokens - read
    return 2 * depth * (12 * tokens * width**2 + 2 * tokens**2 * width) - unread * last


def step_flops(
    model: MaskedAutoencoder,
    hidden: int,
    looks: int,
    predicts: bool = True,
    frame_stride: int = 1,
    parts: int = 1,
) -> StepFlops:
    """Operations of one training step for one image.

    Args:
        model: whose sizes count.
        hidden: patches hidden in the image, M.
        looks: how many passes over the whole image the mask strategy asks for.
        predicts: whether they predict losses, or end with the encoder.
        frame_stride: a look sees one in so many frames of the grid.
        parts: into how many views a look is divided.
    """
    length = model.grid[0] * model.grid[1] * model.grid[2]
    extra = model.layout.extra_tokens

    def encoder(patches):
        embedding = 2 * patches * model.values * model.width
        return embedding + transformer_flops(patches + extra, model.width, model.depth)

    def decoder_input(patches):
        return 2 * (patches + extra) * model.width * model.decoder_width

    def decoder(asked):
        width, depth = model.decoder_width, model.decoder_depth
        return transformer_flops(length + extra, width, depth, asked)

    def predictor(asked):
        # the head's averaged kernel makes it a product with one vector
        return decoder(asked) + 2 * asked * model.decoder_width if model.loss_predictor else 0

    reconstructor = decoder(hidden) + 2 * hidden * model.decoder_width * model.target_width
    visible = length - hidden
    student = encoder(visible) + decoder_input(visible) + reconstructor + predictor(hidden)
    seen = length // frame_stride // parts
    look = encoder(seen) + (decoder_input(seen) + predictor(length) if predicts else 0)
    return StepFlops(3 * student, looks * parts * look)


def classifier_flops(model: Classifier, mask_sub: float = 0.0) -> float:
    """Operations of one fine-tuning step for one image, forward and backward.

    Args:
        mask_sub: the share of patches hidden from a second pass; 0 where there is none.
    """
    length = model.grid[0] * model.grid[1] * model.grid[2]

    def forward(patches):
        embedding = 2 * patches * model.values * model.width
        head = 2 * model.width * model.classes
        tokens = patches + model.layout.extra_tokens
        return embedding + transformer_flops(tokens, model.width, model.depth) + head

    return 3 * (forward(length) + (forward(length * (1 - mask_sub)) if mask_sub else 0))
