"""Images and options that the tests of the data share."""

import io

import numpy as np
from PIL import Image

from hpm_jax.config import defaults, freeze


def config_of(**data):
    config = defaults()
    config.data.update(source="digits", image_size=(16, 16), channels=1, mean=(0.5,), std=(0.5,))
    config.model.patch_size = 4
    config.optimizer.update(batch_size=48, warmup_epochs=0.0)
    config.data.update(data)
    if config.data.channels == 3:
        config.data.update(mean=(0.5,) * 3, std=(0.5,) * 3)
    return freeze(config)


def encode(array, format="PNG", mode=None, **options):
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, format, **options)
    return file.getvalue()


def photo(height=60, width=80, seed=0):
    """Smooth colours, so that JPEG keeps them."""
    grid = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


WHOLE = encode(photo(), "JPEG")
