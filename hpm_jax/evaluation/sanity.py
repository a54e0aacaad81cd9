"""Detects silent problems of data or training from numbers that are computed anyway.

Each function returns warnings: the symptom and possible causes. They do not stop a run.
"""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

COLLAPSED = 1.2  # RankMe; 1 means a single direction
CHANCE = 0.51  # ranking accuracy; an untrained predictor has 0.5


def check_images(
    test: np.ndarray, train: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]
) -> Iterator[str]:
    """Checks samples of both splits, `[N, ..., C]`, uint8 or in [0, 1]; `train` may be empty.

    Args:
        mean, std: normalisation of pixels in [0, 1], per channel.
    """
    flat = test.reshape(len(test), -1)
    if len(flat) and (plain := np.mean(flat.max(axis=1) == flat.min(axis=1))) > 0.1:
        yield (
            f"{plain:.0%} of {len(test)} test images are of one colour: are the files what they "
            "should be?"
        )
    tests, trains = _digests(test), _digests(train)
    for name, digests in (("test", tests), ("training", trains)):
        twins = len(digests) - len(set(digests))
        if twins > 0.1 * len(digests):
            yield (
                f"{twins} of {len(digests)} {name} images are copies of others, pixel by pixel: "
                "were files copied, or is one frame repeated?"
            )
    known = set(trains)
    if both := sum(digest in known for digest in tests):
        yield (
            f"{both} of {len(tests)} test images are also among {len(trains)} training "
            "images: what is measured on them is no generalisation"
        )
    if len(test):
        unit = 255.0 if test.dtype == np.uint8 else 1.0
        pixels = test.reshape(-1, test.shape[-1]).astype(np.float64) / unit
        centre = np.abs(pixels.mean(axis=0) - np.asarray(mean)) / np.asarray(std)
        spread = pixels.std(axis=0) / np.asarray(std)
        if centre.max() > 1.5 or spread.max() > 3 or spread.min() < 0.2:
            measured = (np.round(pixels.mean(axis=0), 4), np.round(pixels.std(axis=0), 4))
            mean_text, std_text = (
                f"({','.join(str(x) for x in values.tolist())},)" for values in measured
            )
            yield (
                "the pixels are not normalised by their own mean and deviation: the data has "
                f"--config.data.mean='{mean_text}' --config.data.std='{std_text}'"
            )


def check_labels_tell(
    numbers: Mapping[str, float], train_labels: np.ndarray, test_labels: np.ndarray
) -> Iterator[str]:
    """Checks that the labels are related to the images.

    Args:
        numbers: metrics of an evaluation with `raw_pixels/*`.
    """
    if len(np.unique(train_labels)) == 1:
        yield f"all {len(train_labels)} training images that were looked at have one label"
        return
    chance = np.bincount(test_labels).max() / len(test_labels)
    deviation = np.sqrt(chance * (1 - chance) / len(test_labels))
    names = ("logistic", "knn", "raw_pixels/logistic", "raw_pixels/knn")
    best = max(numbers.get(name, 0.0) for name in names)
    if best < chance + 3 * deviation:
        yield (
            f"neither raw pixels nor features tell the classes apart (at best {best:.1%}, by "
            f"chance {chance:.1%}): are the labels in the order of the images?"
        )


def check_training(numbers: Mapping[str, float]) -> Iterator[str]:
    """Checks an evaluation after the warm-up."""
    if numbers.get("rank_me", np.inf) < COLLAPSED:
        yield (
            f"the features of all images lie in one direction (RankMe {numbers['rank_me']:.2f}): "
            "the encoder has collapsed, or the images are all alike"
        )
    ranked = numbers.get("held_out/ranked_correctly")
    if ranked is not None and ranked < CHANCE:
        yield (
            f"the loss predictor ranks {ranked:.1%} of pairs correctly, as chance would: masks "
            "that hide what it calls hard are random ones"
        )


def check_teacher(before: np.ndarray, now: np.ndarray, rate: float) -> Iterator[str]:
    """Checks that the moving average still follows the student.

    Args:
        before, now: digests of the teacher's arrays, at the previous and at this evaluation.
        rate: current rate of the moving average: one minus its decay.
    """
    if np.array_equal(before, now):
        yield (
            f"the teacher has not moved since the last evaluation (its rate is {rate:.2g}): its "
            "decay is too near to 1 for float32, see config.teacher"
        )


def _digests(images: np.ndarray) -> list[bytes]:
    """Returns digests of all images that have more than one colour."""
    coloured = [image for image in images if image.min() != image.max()]
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in coloured]
