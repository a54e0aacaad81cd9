"""The images that every cell is measured on, in memory."""

from typing import NamedTuple

import numpy as np

from hpm_jax.config.compare import Compare
from hpm_jax.data.pipeline import test_images
from hpm_jax.data.sources import Splits
from hpm_jax.errors import UserError


class Images(NamedTuple):
    """A labelled split as the encoder sees it."""

    pixels: np.ndarray  # [N, H, W, C] uint8
    labels: np.ndarray  # [N] int32


class Measured(NamedTuple):
    """What every cell is measured on."""

    bank: Images  # training images, centre crops
    test: Images


def load_measured(options: Compare, splits: Splits) -> Measured:
    """The first `bank_images` of a fixed shuffle of the training images, and all test images.

    Raises:
        UserError: where a split has no labels, since every comparison needs them.
    """

    def load(records, count) -> Images:
        order = np.random.default_rng(0).permutation(len(records))[: count or None]
        pixels, labels, _ = test_images(records, np.sort(order), options.base)
        if (labels < 0).any() or not len(labels):
            raise UserError(
                "a comparison measures how well features tell classes apart, and these images "
                "have no labels: put them into folders named after their classes"
            )
        return Images(pixels, labels)

    return Measured(load(splits.train, options.bank_images), load(splits.test, 0))
