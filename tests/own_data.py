"""Images and checks that the tests of other formats share."""

import dataclasses

import numpy as np
from small_images import config_of, encode, photo

from hpm_jax.data.pipeline import train_batches
from hpm_jax.data.sources import SOURCES

IMAGES = [encode(photo(20, 30, seed), "PNG") for seed in range(12)]
LABELS = ["cat" if number % 3 else "dog" for number in range(12)]


def data_of(source, path, **options):
    return config_of(source=source, path=str(path), channels=3, holdout=0.25, **options).data


def pixels_of(records):
    """The bytes of each image by its name's end, in any order of the records."""
    return sorted(records[index]["image"] for index in range(len(records)))


def check_batches(data, workers=0):
    """The batches of a source: after a stop and in workers they are those of a run without."""
    config = config_of()
    run = dataclasses.replace(config.run, workers=workers)
    config = dataclasses.replace(
        config, data=data, optimizer=dataclasses.replace(config.optimizer, batch_size=4)
    )
    records = SOURCES[data.source](data).train
    batches = train_batches(records, config)
    taken = [next(batches) for _ in range(4)]
    batches.close()
    resumed = train_batches(records, dataclasses.replace(config, run=run), 3)
    np.testing.assert_array_equal(next(resumed)["image"], taken[3]["image"])
    resumed.close()
    assert all((batch["broken"] < 0).all() for batch in taken)
    return taken
